"""What hostile updates do to a job: attacks on the aggregation rule, with the audit and without.

    python -m benchmarks.robustness [--seeds 3] [--problems P] [--rules R] [--attacks A] [--kept] [--out FILE] [--json]

Ten contributors with 1:1:1:2:2:2:3:3:4:6 of the steps and rows, and 8 rounds, as long as the planner makes those of a
job of that length: the product's segments, rows in its order, int4 both ways, gates, `aggregate`, outer step and
published weights, in one process. Who is convicted is gone, and nobody does its work. Three contributors with about 30%
of the work are hostile (two with about 20%, or one with half, where it says so); they know all honest updates of the
round and the rule, and collude. Scores are accuracy on held-out rows less what the honest alone reach ("honest"), in
points, paired by seed, with a 95% t interval. `--out` keeps every run, so that a later call goes on from there.

Rules without an audit, in every round: the mean by steps, nobody above a third; the coordinate median; the mean without
the lowest and highest three tenths of each coordinate; multi-Krum (Blanchard et al. 2017) for 3 of 10; `cosrel`, which
is what `aggregate` does; `centred`, centred clipping, and `cosrel+centred`: the same without whom cosrel drops, instead
of its own clipping; `cosrel+loss`: the same without whom the gates find odd. "product" is the rule with its audit:
whom the gates find odd is replayed whole and, if hostile, rejected; the last segment, and with it the upload, is drawn
with probability 1/2 and else with 1/n, and always of whoever does over a quarter of the round. The hostile wait until
the second round, as the first is always opened. A round that is neither the first nor the last, and in which no hostile
update is odd, goes ahead of its audit: the next is trained from weights with all of its updates, and only then those
that were convicted are taken out (`tasks/ahead.py`).
"audit" is the same without the gate on losses. `replayed` is the share of honest shards replayed for nothing.

Attacks: sign flip; five times; noise of twice the honest length; labels y -> 9 - y; against the mean, scaled just under
the norm gate; ALIE (Baruch et al. 2019) with its own z and with 1.5; inner-product manipulation (Xie et al. 2020) with
half the mean; "adapted": each round what leads to the highest loss on the attackers' own rows among mixtures of the
honest mean with its reverse or their spread, at one or two lengths, after the rule has been applied. Not here:
backdoors (an update that is harmful on chosen rows alone), and contributors whose rows differ in kind.
`--kept`: each seat keeps its optimizer state, and outer momentum begins after a fifth of the job (docs/rounds.md).
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
from sklearn.datasets import load_digits, make_classification

from benchmarks.hostile import ATTACKS, RULES, Loss, Updates, View, cosrel_loss, odd, plain_mean
from benchmarks.intervals import t_interval
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.data import shard_rows
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.moments import unpack_moments
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import dequantise, quantise
from cloudlinkup.training.schedule import outer_momentum, outer_rate
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import moments_of
from cloudlinkup.verify.rates import Risk, rate
from cloudlinkup.wire.hashes import rows_seed
from models.allocator import integer_fill
from models.plan import LONG, local_steps, segment_steps

ROUNDS, JUDGED = 8, 512
SPEEDS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 6)


@dataclass(frozen=True)
class Case:
    problem: str
    attack: str
    rule: str
    seed: int
    rounds: int = ROUNDS
    kept: bool = False

    @property
    def key(self) -> str:
        """Of what is the same run: the honest alone are the same whatever those who are missing would have done."""
        attack = self.attack
        if self.rule == "honest" and attack != "none":
            attack = f"without {who(attack)}"
        return f"{self.problem}/{attack}/{self.rule}/{self.seed}/{self.rounds}" + "/kept" * self.kept


@dataclass(frozen=True)
class Rows:
    spec: TrainingSpec
    features: np.ndarray
    targets: np.ndarray
    held_features: np.ndarray
    held_targets: np.ndarray


def rows_of(problem: str, seed: int) -> Rows:
    """Standardised rows in random order, a fifth held out."""
    if problem == "digits":
        (x, y), hidden = load_digits(return_X_y=True), [64, 32]
    else:
        x, y = make_classification(
            12_000, 64, n_informative=24, n_redundant=8, n_classes=10, n_clusters_per_class=2, random_state=seed
        )
        hidden = [128, 64]
    order = np.random.default_rng(seed).permutation(len(x))
    x, y, cut = np.asarray(x)[order], np.asarray(y)[order].astype(np.int64), len(x) // 5
    deviation = x[cut:].std(axis=0)
    x = ((x - x[cut:].mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    model = {"kind": "mlp", "hidden": hidden, "activation": "relu"}
    spec = TrainingSpec("classification", model, x.shape[1], 10, 32, 0.01, seed)
    return Rows(spec, x[cut:], y[cut:], x[:cut], y[:cut])


def who(attack: str) -> str:
    return next((few for few in ("half", "two") if attack.endswith(few)), "three")


def hostile_seats(attack: str, rng: np.random.Generator) -> tuple[tuple[int, ...], list[int]]:
    """(speeds by seat, the hostile seats)."""
    if who(attack) == "half":
        return (*SPEEDS[:-1], sum(SPEEDS[:-1])), [len(SPEEDS) - 1]
    heads, share = (2, 0.2) if who(attack) == "two" else (3, 0.3)
    total = sum(SPEEDS)
    near = [
        list(seats)
        for seats in combinations(range(len(SPEEDS)), heads)
        if abs(sum(SPEEDS[s] for s in seats) / total - share) <= 0.03
    ]
    return SPEEDS, near[int(rng.integers(len(near)))]


def planned(rounds: int, speeds: tuple[int, ...], kept: bool) -> tuple[int, list[int]]:
    """(steps of a segment, segments a round by seat), as the planner has them in a job of so many rounds."""
    seats = len(speeds)
    local = next(h for h in range(LONG, 0, -1) if local_steps(rounds * seats * h, seats, kept) == h)
    slowest = local * seats * min(speeds) / sum(speeds)
    segment = segment_steps(rounds * seats * local, local, slowest, kept)
    return segment, [int(n) for n in integer_fill(local * seats // segment, speeds)]


# ---------------------------------------------------------------- a job


@dataclass
class Tally:
    """Of honest shards: how many, and how many were replayed for nothing. `poisoned`: hostile updates let in."""

    honest: int = 0
    alarms: int = 0
    poisoned: int = 0
    convicted: set[int] = field(default_factory=set)

    def count(self, guilty: list[int], found: dict[int, tuple[str, ...]], drawn: set[int], audited: bool) -> None:
        for seat, reasons in found.items():
            if seat not in guilty:
                self.honest, self.alarms = self.honest + 1, self.alarms + bool(reasons)
            elif not reasons and seat not in drawn:
                self.poisoned += 1
            elif audited:
                self.convicted.add(seat)


@dataclass(frozen=True)
class Ahead:
    """A round whose updates entered the weights before its audit rejected some: the weights before it, the rest."""

    before: Published
    left: Updates
    progress: float


class Seats:
    """Each seat goes on in its rows where its last round stopped, and with its optimizer state where that is kept."""

    def __init__(self, case: Case, data: Rows, speeds: tuple[int, ...]) -> None:
        self.case, self.data, self.moments = case, data, dict[int, bytes]()
        self.segment, self.segments = planned(case.rounds, speeds, case.kept)
        self.parts = shard_rows(len(data.features), speeds, case.seed, minimum=data.spec.batch)

    def train(
        self, number: int, start: np.ndarray, seats: list[int], wrong: list[int]
    ) -> tuple[Updates, dict[int, np.ndarray]]:
        """(every seat's update of this round and its steps, what the `wrong` reach with labels 9 - y)"""
        case, data, segment, updates = self.case, self.data, self.segment, Updates()
        span = (round(number * 1e6 / case.rounds), round((number + 1) * 1e6 / case.rounds))
        mislabelled: dict[int, np.ndarray] = {}
        for seat in seats:
            rows, steps = self.parts[seat], self.segments[seat] * segment
            seed, before = rows_seed(b"robust", bytes([seat]), case.seed), number * steps * data.spec.batch
            work = ShardWork(seed, segment, self.segments[seat], *span, rows_before=before)
            begins = self.moments.get(seat)
            runner = _shard(data, work, start, rows, data.targets[rows], begins)
            updates[seat] = runner.update(), steps
            if case.kept:
                self.moments[seat] = moments_of(runner.state_bytes())
            if seat in wrong:
                mislabelled[seat] = _shard(data, work, start, rows, 9 - data.targets[rows], begins).update()
        return updates, mislabelled


def train(case: Case) -> tuple[float, Tally]:
    """(accuracy on held-out rows, the tally)."""
    data, rng, tally = rows_of(case.problem, case.seed), np.random.default_rng([case.seed, 7]), Tally()
    if case.kept:
        data = replace(data, spec=replace(data.spec, rounds="kept"))
    speeds, hostile = hostile_seats(case.attack, rng)
    seats, chance = Seats(case, data, speeds), np.random.default_rng([case.seed, 8])
    published, audited = Published(initial_weights(data.spec)), case.rule in ("audit", "product")
    last, ahead = np.zeros_like(published.weights), None
    rule = RULES.get(case.rule, plain_mean)

    def step(weights: Published, updates: Updates, progress: float, loss: Loss) -> np.ndarray:
        """The round's mean, which moves the weights as the product's outer step does."""
        mean_, shares = rule(updates, loss, last)
        update = mean_.astype(np.float32) * np.float32(outer_rate(data.spec, shares))
        weights.step(update, outer_momentum(data.spec, progress))
        return mean_.astype(np.float32)

    for number in range(case.rounds):
        progress, start = number / case.rounds, published.published
        present = [s for s in range(len(speeds)) if s not in tally.convicted]
        if case.rule == "honest" and case.attack != "none":
            present = [s for s in present if s not in hostile]
        wrong = hostile if case.attack == "label flip" else []
        updates, mislabelled = seats.train(number, start, present, wrong)
        bad = [s for s in hostile if s in updates]
        attacking = bool(bad) and case.attack != "none" and (number > 0 or not audited)
        if attacking:
            known = np.concatenate([seats.parts[s] for s in hostile])
            view = View(
                honest={s: _sent(u, t) for s, (u, t) in updates.items() if s not in bad},
                own={s: updates[s] for s in bad},
                mislabelled=mislabelled,
                rule=cosrel_loss if case.rule == "product" else rule,
                loss=_loss(data, start, rng.choice(known, min(JUDGED, len(known)), replace=False)),
                outer=lambda shares: outer_rate(data.spec, shares),
                last=last,
                rng=rng,
            )
            for seat, update in ATTACKS[case.attack](view).items():
                updates[seat] = update, updates[seat][1]
        updates = {s: _sent(u, t) for s, (u, t) in updates.items()}
        loss = _loss(data, start, chance.choice(len(data.features), JUDGED, replace=False))
        guilty = bad if attacking else []
        found = odd(updates, loss if case.rule == "product" else None)
        taken = sum(steps for _, steps in updates.values())
        sure = {s: rate(Risk(number, len(updates), share=steps / taken)).last for s, (_, steps) in updates.items()}
        lots = {s for s in updates if chance.random() < sure[s] + (1 - sure[s]) / seats.segments[s]}
        drawn = lots if audited else set()
        tally.count(guilty, found, drawn, audited)
        if ahead is not None:  # what its audit did not accept is taken out, before this round enters
            if ahead.left:
                step(ahead.before, ahead.left, ahead.progress, loss)
            good = ahead.before
            published, ahead = Published(good.weights, start, published.rounds, good.velocity), None
        left = {s: u for s, u in updates.items() if not (s in guilty and (found[s] or s in drawn))}
        waits = number in (0, case.rounds - 1) or any(found[s] for s in guilty)  # odd and honest proves itself
        if audited and not waits and len(left) < len(updates):
            ahead, left = Ahead(deepcopy(published), left, progress), updates
        if left:
            last = step(published, left, progress, loss)
    return evaluate(data.spec, published.published, data.held_features, data.held_targets).value, tally


def _shard(
    data: Rows, work: ShardWork, start: np.ndarray, rows: np.ndarray, targets: np.ndarray, begins: bytes | None
) -> SegmentRunner:
    if begins is not None:
        work = replace(work, moments=sha256(begins).digest(), steps_before=unpack_moments(begins, len(start))[2])
    runner = SegmentRunner(data.spec, work, start, data.features[rows], targets, moments=begins)
    while runner.run_segment():
        pass
    return runner


def _sent(update: np.ndarray, steps: int) -> tuple[np.ndarray, int]:
    return dequantise(quantise(np.asarray(update, np.float32)), len(update)), steps


def _loss(data: Rows, base: np.ndarray, rows: np.ndarray) -> Loss:
    features, targets = data.features[rows], data.targets[rows]
    return lambda update: evaluate(data.spec, (base + update).astype(np.float32), features, targets).loss


# ---------------------------------------------------------------- tables


def paired(gaps: list[float]) -> tuple[float, float]:
    """Mean in points, and the half width of its 95% t interval."""
    return t_interval([100 * gap for gap in gaps])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", default="digits,mc")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--attacks", default="", help="separated by semicolons; all by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--kept", action="store_true", help="rounds that keep optimizer state")
    parser.add_argument("--out", type=Path, help="one JSON line a run; runs that are in it are not made again")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    attacks = given.attacks.split(";") if given.attacks else list(ATTACKS)
    problems, rules = given.problems.split(","), given.rules.split(",")
    known: dict[str, list[float]] = {}
    if given.out and given.out.exists():
        known = dict(json.loads(line) for line in given.out.read_text().splitlines())
    rows = []
    for problem in problems:
        for attack in attacks:
            scores: dict[str, list[list[float]]] = {}
            for seed in range(given.seeds):
                for rule in ["honest", *rules]:
                    case = Case(problem, attack, rule, seed, given.rounds, given.kept)
                    if case.key not in known:
                        value, tally = train(case)
                        known[case.key] = [value, tally.alarms / max(1, tally.honest), tally.poisoned]
                        if given.out:
                            with given.out.open("a") as file:
                                file.write(json.dumps([case.key, known[case.key]]) + "\n")
                    scores.setdefault(rule, []).append(known[case.key])
            best = [one[0] for one in scores["honest"]]
            row: dict[str, object] = {"problem": problem, "attack": attack, "honest": 100 * mean(best)}
            for rule in rules:
                gap, half = paired([one[0] - b for one, b in zip(scores[rule], best, strict=True)])
                alarms, let_in = mean(one[1] for one in scores[rule]), mean(one[2] for one in scores[rule])
                row[rule] = {"gap": gap, "half": half, "replayed": alarms, "poisoned": let_in}
            rows.append(row)
    if given.json:
        print(
            json.dumps(
                {
                    "benchmark": "robustness",
                    "seeds": given.seeds,
                    "rounds": given.rounds,
                    "kept": given.kept,
                    "rows": rows,
                }
            )
        )
        return
    print(f"{given.seeds} seeds, {given.rounds} rounds; points of accuracy against the honest alone, 95% t intervals")
    print(f"{'':24}{'honest':>8}" + "".join(f"{rule:>14}" for rule in rules) + f"{'replayed':>10}")
    for row in rows:
        cells = ""
        for rule in rules:
            one = row[rule]
            assert isinstance(one, dict)
            cells += f"{one['gap']:+7.1f} +-{one['half']:4.1f}"
        last = row[rules[-1]]
        assert isinstance(last, dict)
        print(f"{row['problem']:7} {row['attack']:16}{row['honest']:8.1f}{cells}{100 * last['replayed']:9.1f}%")


if __name__ == "__main__":
    main()
