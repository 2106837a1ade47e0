"""Score against bytes, the audit's included: rounds over unequal contributors beside per-step data parallel training.

    python -m benchmarks.bytes [--problems digits,mc] [--seeds 3] [--optimizer muon] [--lr 0.005] [--keep DIR] [--json]

Ours is the product's training in one process: the segment runner, int4 both ways, `aggregate` (robust from four on),
`Published.step`, optimizer state packed between rounds; no gateway, no payment, and every segment verifies.
Contributors are as fast as 1:2:4:8 and do as much, so that none waits for another (the planner lets nobody do over
`MOST_WORK`); nobody weighs over a third. Rounds are what "auto" chooses, and as long as the planner makes them.

The baseline is per-step data parallel training (DDP) at equal samples: one AdamW, the same schedule, batches of four
times a contributor's, and 8 bytes a parameter, worker and step over a star. *single*: one worker, at a contributor's
batch, which takes four times as many steps: no bytes at all, and the quality that a job gives up to be quick.

Differences are paired by seed, with a 95% t interval: points of accuracy (ours less DDP), or % of the loss (a minus is
better). "bytes": DDP's over ours, updates and published differences. "audited": with what the audit is expected to
move, by its own choices at the default rate (`models/auditing.py`): it replays what takes less time than to open a
state, with a segment's CPU time as measured here. "opened": the same if segments took so long that every replay began
with an opened state, as adapters on a large base have it. A first round's snapshot is not counted, nor the rows.

Ways beside ours: nobody does more work than it weighs, so that the fastest waits; the plain mean instead of the rule;
16 contributors (four each of 1:2:4:8; DDP then has 16 workers); a quarter of the seats changing hands after each round,
which begin afresh.

Seeds from 200 on were not used for any choice. Runs are kept in a folder and not done twice. *lora* fine-tunes a base
that is trained once, for two minutes, and kept in ~/.cache/cloudlinkup; without transformers and peft it is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from time import thread_time
from typing import Any

import numpy as np

from benchmarks.intervals import t_interval
from benchmarks.training_problems import PROBLEMS, WORKERS, Problem, missing
from cloudlinkup.training.aggregate import MOST_WEIGHT, aggregate, capped
from cloudlinkup.training.architectures import OPTIMIZERS, initial_weights
from cloudlinkup.training.data import shard_rows
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.moments import unpack_moments
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import dequantise, quantise
from cloudlinkup.training.schedule import outer_momentum, outer_rate, whole_text
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import Optimizer, ShardWork
from cloudlinkup.training.states import moments_of, state_size
from cloudlinkup.wire.hashes import digest, sha256
from models.auditing import later_cost, replay_costs, shard_cost
from models.plan import MOST_WORK, local_steps

SPEEDS = (1, 2, 4, 8)
LONG = 1e9  # seconds of a segment: anything is quicker than to replay one


@dataclass(frozen=True)
class Way:
    """How a job is trained: in one place, as `workers` do that share every step, or (0) in rounds by contributors."""

    name: str
    contributors: int = WORKERS
    workers: int = 0
    robust: bool = True
    churn: float = 0.0
    most: float = float(MOST_WORK)  # of a round's work that anybody does


WAYS = (
    Way("DDP", workers=WORKERS),
    Way("single", workers=1),
    Way("ours"),
    Way("ours, a third each", most=MOST_WEIGHT),
    Way("ours, plain mean", robust=False),
    Way("ours, 25% churn", churn=0.25),
    Way("DDP, 16", workers=16, contributors=16),
    Way("ours, 16", contributors=16),
)
BASELINES = {"ours, 16": "DDP, 16"}
SHORT = ("digits", "cnn", "large", "mcs", "lora")  # where only the first four ways are tried


@dataclass(frozen=True)
class Outcome:
    """`score`: accuracy in 0..1, or nats a token. Bytes of the updates and differences; expected of the audit; and of
    one that opens a state for everything that it draws."""

    score: float
    sent: float
    audit: float = 0.0
    opened: float = 0.0


def score(problem: Problem, weights: np.ndarray) -> float:
    found = evaluate(problem.spec, weights, *problem.held, frozen=problem.frozen)
    return found.loss if problem.spec.task == "next_token" else found.value


def in_one_place(problem: Problem, workers: int) -> Outcome:
    """Every step over `workers` batches at once: what data parallel training computes, and sends."""
    spec = replace(problem.spec, batch=workers * problem.spec.batch, rounds="stateless")
    segments = problem.samples // spec.batch // 10
    work = ShardWork(digest("one place", spec.seed), 10, segments, 0, 1_000_000)
    runner = SegmentRunner(spec, work, initial_weights(problem.spec), *problem.train, frozen=problem.frozen)
    while runner.run_segment():
        pass
    sent = 8.0 * len(runner.weights()) * workers * segments * 10
    return Outcome(score(problem, runner.weights()), sent if workers > 1 else 0.0)


def in_rounds(problem: Problem, way: Way) -> Outcome:
    spec, drawn = problem.spec, np.random.default_rng([11, problem.spec.seed])
    kept, seats = spec.rounds == "kept", way.contributors
    local = local_steps(problem.samples // spec.batch, seats, kept, whole_text(spec))
    segment = 5 if kept else 10
    shares = capped(np.tile(np.array(SPEEDS, np.float64), seats // len(SPEEDS)), way.most)
    segments = np.maximum(1, np.rint(shares * local * seats / segment)).astype(int)
    partitions = shard_rows(len(problem.train[0]), [float(s) for s in shares], spec.seed, minimum=spec.batch)
    published, moments = Published(initial_weights(spec)), [None] * seats
    count = len(published.weights)
    rounds = max(1, round(problem.samples / (int(segments.sum()) * segment * spec.batch)))
    sent, times = 0.0, []
    for number in range(rounds):
        span = (round(number * 1e6 / rounds), round((number + 1) * 1e6 / rounds))
        updates = {}
        for seat in range(seats):
            begins: bytes | None = moments[seat]
            named = (b"", 0)
            if begins is not None:
                named = (bytes.fromhex(sha256(begins)), unpack_moments(begins, count)[2])
            before = number * int(segments[seat]) * segment * spec.batch
            key = digest("rounds", seat, spec.seed)
            work = ShardWork(key, segment, int(segments[seat]), *span, *named, before)
            rows = tuple(part[partitions[seat]] for part in problem.train)
            runner = SegmentRunner(
                spec, work, published.published, rows[0], rows[1], frozen=problem.frozen, moments=begins
            )
            began = thread_time()
            while runner.run_segment():
                pass
            times.append((thread_time() - began) / int(segments[seat]))
            if kept:
                moments[seat] = moments_of(runner.state_bytes())  # type: ignore[call-overload]
            upload = quantise(runner.update())
            sent += len(upload)
            updates[seat] = (dequantise(upload, count), int(segments[seat]) * segment)
        update, weights = robust_mean(updates) if way.robust else plain_mean(updates)
        update *= np.float32(outer_rate(spec, weights))
        sent += len(published.step(update, outer_momentum(spec, number / rounds))) * seats
        lost = drawn.random(seats) < way.churn
        moments = [None if gone else state for gone, state in zip(lost, moments, strict=True)]
    audits = (audited(segments, rounds, count, each, kept=kept) for each in (median(times), LONG))
    return Outcome(score(problem, published.published), sent, *audits)


def audited(segments: np.ndarray, rounds: int, count: int, seconds: float, *, kept: bool) -> float:
    """Bytes that the audit of all shards is expected to move, at so many `seconds` a segment."""
    costs, size = replay_costs(count, seconds, kept=kept), state_size(count)
    first = sum(shard_cost(int(n), costs, size, first=True, small=False).bytes for n in segments)
    later = sum(later_cost(int(n), costs, size, small=False).bytes for n in segments)
    return first + (rounds - 1) * later


def robust_mean(updates: dict[int, tuple[np.ndarray, int]]) -> tuple[np.ndarray, list[float]]:
    """(mean, weights) by the product's rule."""
    found = aggregate(updates)
    return found.update, list(found.shares.values())


def plain_mean(updates: dict[int, tuple[np.ndarray, int]]) -> tuple[np.ndarray, list[float]]:
    """(mean, weights) by steps alone."""
    steps = np.array([taken for _, taken in updates.values()], np.float64)
    weights = steps / steps.sum()
    summed = sum(w * u.astype(np.float64) for w, (u, _) in zip(weights, updates.values(), strict=True))
    return np.asarray(summed, np.float32), weights.tolist()


def run(
    name: str, way: Way, seed: int, keep: Path | None, optimizer: Optimizer = "adamw", lr: float | None = None
) -> Outcome:
    """One run, or what is kept of it."""
    by = ("" if optimizer == "adamw" else f"-{optimizer}") + ("" if lr is None else f"-{lr}")
    path = None if keep is None else keep / f"{name.replace(' ', '-')}-{way.name.replace(' ', '-')}-{seed}{by}.json"
    if path is not None and path.exists():
        return Outcome(**json.loads(path.read_text()))
    problem = PROBLEMS[name](seed)
    problem = replace(problem, spec=replace(problem.spec, optimizer=optimizer, lr=lr or problem.spec.lr))
    found = in_one_place(problem, way.workers) if way.workers else in_rounds(problem, way)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(found)))
    print(f"{name}, {way.name}, seed {seed}: {found.score:.4f}", file=sys.stderr)
    return found


def compare(
    names: list[str], seeds: range, keep: Path | None, optimizer: Optimizer = "adamw", lr: float | None = None
) -> list[dict[str, Any]]:
    table = []
    for name in names:
        text = PROBLEMS[name](seeds[0]).spec.task == "next_token"
        rounds = PROBLEMS[name](seeds[0]).spec.rounds
        found: dict[str, list[Outcome]] = {}
        for way in WAYS[:4] if name in SHORT else WAYS:
            outcomes = found[way.name] = [run(name, way, seed, keep, optimizer, lr) for seed in seeds]
            row: dict[str, Any] = {"problem": name, "way": way.name, "rounds": "" if way.workers else rounds}
            row["scores"] = [o.score for o in outcomes]
            base = found[BASELINES.get(way.name, "DDP")]
            if outcomes is not base and way.name != "DDP, 16":
                pairs = zip(row["scores"], [o.score for o in base], strict=True)
                gaps = [100 * (ours / its - 1) if text else 100 * (ours - its) for ours, its in pairs]
                row["difference"], row["interval"] = t_interval(gaps)
                row["unit"] = "% loss" if text else "points"
            if not way.workers:
                ours, its = outcomes[0], base[0]
                row |= {"ratio": its.sent / ours.sent, "audited": its.sent / (ours.sent + ours.audit)}
                row["opened"] = its.sent / (ours.sent + ours.opened)
            table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default=",".join(PROBLEMS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=200, help="the first seed")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="of every way")
    parser.add_argument("--lr", type=float, help="peak learning rate of every way, by default 0.01")
    parser.add_argument("--keep", type=Path, help="a folder of runs that are not done twice")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    names = given.problems.split(",")
    if unknown := set(names) - PROBLEMS.keys():
        parser.error(f"--problems: {', '.join(sorted(unknown))} is none of {', '.join(PROBLEMS)}")
    for name in names:
        if why := missing(name):
            print(f"{name} is left out: {why}", file=sys.stderr)
    names = [name for name in names if not missing(name)]
    table = compare(names, range(given.first, given.first + given.seeds), given.keep, given.optimizer, given.lr)
    if given.json:
        print(
            json.dumps(
                {
                    "benchmark": "bytes",
                    "optimizer": given.optimizer,
                    "lr": given.lr,
                    "seeds": given.seeds,
                    "first": given.first,
                    "rows": table,
                },
                indent=2,
            )
        )
        return
    print(f"{given.seeds} seeds from {given.first}; bytes: DDP's over ours, without the audit's and with")
    print(f"{'problem':10}{'way':20}{'rounds':>11}{'score':>9}{'less DDP':>24}{'bytes':>9}{'audited':>9}{'opened':>9}")
    for row in table:
        gap = f"{row['difference']:+.2f} +- {row['interval']:.2f} {row['unit']}" if "difference" in row else ""
        ratios = "".join(f"{f'{row[name]:.0f}x':>9}" for name in ("ratio", "audited", "opened") if name in row)
        print(f"{row['problem']:10}{row['way']:20}{row['rounds']:>11}{mean(row['scores']):9.4f}{gap:>24}{ratios}")


if __name__ == "__main__":
    main()
