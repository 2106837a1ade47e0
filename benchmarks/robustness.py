"""What hostile updates do to a job: attacks on the aggregation rule, with the audit and without.

    python -m benchmarks.robustness [--seeds 3] [--problems P] [--rules R] [--attacks A] [--kept] [--out FILE] [--json]

Ten contributors with 1:1:1:2:2:2:3:3:4:6 of the steps and rows, 250 steps a round, 8 rounds: the product's segments,
int4 both ways, gates, `aggregate` and published weights, in one process. Three contributors with about 30% of the work
are hostile (two with about 20%, or one with half, where it says so); they know all honest updates of the round and the
rule, and collude. Scores are accuracy on held-out rows less what the honest alone reach ("honest"), in points, paired
by seed, with a 95% t interval. `--out` keeps every run, so that a later call goes on from there.

Rules without an audit, in every round: the mean by steps, nobody above a third; the coordinate median; the mean without
the lowest and highest three tenths of each coordinate; multi-Krum (Blanchard et al. 2017) for 3 of 10; `cosrel`, which
is what `aggregate` does; `centred`, centred clipping, and `cosrel+centred`: the same without whom cosrel drops, instead
of its own clipping; `cosrel+loss`: the same without whom the gates find odd. "product" is the rule with its audit:
whom the gates find odd is replayed whole and, if hostile, rejected; the last segment, and with it the upload, is drawn
with probability 1/2 and else with 1/n, and always of whoever does over a quarter of the round. The hostile wait until
the second round, as the first is always opened.
"audit" is the same without the gate on losses. `replayed` is the share of honest shards replayed for nothing.

Attacks: sign flip; five times; noise of twice the honest length; labels y -> 9 - y; against the mean, scaled just under
the norm gate; ALIE (Baruch et al. 2019) with its own z and with 1.5; inner-product manipulation (Xie et al. 2020) with
half the mean; "adapted": each round what leads to the highest loss on the attackers' own rows among mixtures of the
honest mean with its reverse or their spread, at one or two lengths, after the rule has been applied. Not here:
backdoors (an update that is harmful on chosen rows alone), and contributors whose rows differ in kind.
`--kept`: each seat keeps its optimizer state, and outer momentum 0.4 begins after a fifth of the job (docs/rounds.md).
"""

from __future__ import annotations

import argparse
import json
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
from cloudlinkup.training.outer import Published, apply_delta
from cloudlinkup.training.quantize import dequantise, quantise
from cloudlinkup.training.schedule import outer_momentum
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import moments_of
from cloudlinkup.verify.rates import Risk, rate
from cloudlinkup.wire.hashes import rows_seed

SEGMENT_STEPS, ROUNDS, JUDGED = 10, 8, 512
SPEEDS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 6)  # segments a round


@dataclass(frozen=True)
class Case:
    problem: str
    attack: str
    rule: str
    seed: int
    kept: bool = False

    @property
    def key(self) -> str:
        return f"{self.problem}/{self.attack}/{self.rule}/{self.seed}" + "/kept" * self.kept


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


def hostile_seats(attack: str, rng: np.random.Generator) -> tuple[tuple[int, ...], list[int]]:
    """(segments a round by seat, the hostile seats)."""
    if attack.endswith("half"):
        return (*SPEEDS[:-1], sum(SPEEDS[:-1])), [len(SPEEDS) - 1]
    heads, share = (2, 0.2) if attack.endswith("two") else (3, 0.3)
    total = sum(SPEEDS)
    near = [
        list(seats)
        for seats in combinations(range(len(SPEEDS)), heads)
        if abs(sum(SPEEDS[s] for s in seats) / total - share) <= 0.03
    ]
    return SPEEDS, near[int(rng.integers(len(near)))]


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


def train(case: Case, rounds: int) -> tuple[float, Tally]:
    """(accuracy on held-out rows, the tally)."""
    data, rng, tally = rows_of(case.problem, case.seed), np.random.default_rng([case.seed, 7]), Tally()
    if case.kept:
        data = replace(data, spec=replace(data.spec, rounds="kept"))
    moments: dict[int, bytes] = {}
    speeds, hostile = hostile_seats(case.attack, rng)
    chance = np.random.default_rng([case.seed, 8])
    parts = shard_rows(len(data.features), speeds, case.seed, minimum=data.spec.batch)
    published, audited = Published(initial_weights(data.spec)), case.rule in ("audit", "product")
    copies = published.published.copy()
    last = np.zeros_like(copies)
    for number in range(rounds):
        span = (round(number * 1e6 / rounds), round((number + 1) * 1e6 / rounds))
        present = [s for s in range(len(speeds)) if s not in tally.convicted]
        if case.rule == "honest" and case.attack != "none":
            present = [s for s in present if s not in hostile]
        updates: Updates = {}
        mislabelled: dict[int, np.ndarray] = {}
        for seat in present:
            targets = data.targets[parts[seat]]
            seed, before = rows_seed(b"robust", bytes([seat]), case.seed), number * speeds[seat] * SEGMENT_STEPS
            work = ShardWork(seed, SEGMENT_STEPS, speeds[seat], *span, rows_before=before * data.spec.batch)
            begins = moments.get(seat)
            runner = _shard(data, work, copies, parts[seat], targets, begins)
            updates[seat] = runner.update(), speeds[seat] * SEGMENT_STEPS
            if case.kept:
                moments[seat] = moments_of(runner.state_bytes())
            if case.attack == "label flip" and seat in hostile:
                mislabelled[seat] = _shard(data, work, copies, parts[seat], 9 - targets, begins).update()
        bad = [s for s in hostile if s in updates]
        attacking = bool(bad) and case.attack != "none" and (number > 0 or not audited)
        if attacking:
            known = np.concatenate([parts[s] for s in hostile])
            view = View(
                honest={s: _sent(u, t) for s, (u, t) in updates.items() if s not in bad},
                own={s: updates[s] for s in bad},
                mislabelled=mislabelled,
                rule=cosrel_loss if case.rule == "product" else RULES.get(case.rule, plain_mean),
                loss=_loss(data, copies, rng.choice(known, min(JUDGED, len(known)), replace=False)),
                last=last,
                rng=rng,
            )
            for seat, update in ATTACKS[case.attack](view).items():
                updates[seat] = update, updates[seat][1]
        updates = {s: _sent(u, t) for s, (u, t) in updates.items()}
        loss = _loss(data, copies, chance.choice(len(data.features), JUDGED, replace=False))
        guilty = bad if attacking else []
        found = odd(updates, loss if case.rule == "product" else None)
        steps = sum(taken for _, taken in updates.values())
        sure = {s: rate(Risk(1, len(updates), share=taken / steps)).last for s, (_, taken) in updates.items()}
        lots = {s for s in updates if chance.random() < sure[s] + (1 - sure[s]) / speeds[s]}
        drawn = lots if audited else set()
        tally.count(guilty, found, drawn, audited)
        updates = {s: u for s, u in updates.items() if not (s in guilty and (found[s] or s in drawn))}
        if updates:
            rule = RULES.get(case.rule, plain_mean)
            momentum = outer_momentum(data.spec, number / rounds)
            last = rule(updates, loss, last).astype(np.float32)
            copies = apply_delta(copies, published.step(last, momentum))
    return evaluate(data.spec, copies, data.held_features, data.held_targets).value, tally


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
    parser.add_argument("--kept", action="store_true", help="optimizer state and outer momentum, as of kept rounds")
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
                    case = Case(problem, attack, rule, seed, given.kept)
                    if case.key not in known:
                        value, tally = train(case, given.rounds)
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
