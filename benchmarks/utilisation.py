"""What a shard costs its contributor beside a bare torch loop, and what share of the ideal a whole job reaches.

    python -m benchmarks.utilisation [--repeats 7] [--segments 10] [--jobs 40] [--json]

First table: both sides take the same steps on the same random rows, turn and turn about in one process, torch at one
thread. The bare loop is torch's own AdamW and autograd (`training/baseline`). The shard is what the contributor's
machine runs (`agent/shard.train_shard`, full duty) and what stands around it: opening the sealed delta and hashing the
weights, a state hashed and written after each segment (by a second thread) over the last round's, as in every
round but the first, quantising, sealing. Overhead is shard over loop, less one, in percent: the median of the
repeats, and its range; once in CPU seconds of the whole process, which other programs move little, and once on the
clock. Not here: the network, waiting for the chain, and the partition, which is sent once a job.

Second table: jobs of the 1.1M network on four contributors of speed 1:2:4:8, and on eight, two of each. (Of the four,
the fastest has 8/15 of the speed, does as much and weighs a third.) Each vanishes with a chance of 5% at some moment of
the job. The product's planner and rounds (`models/simulator`) run on a simulated clock; shards jitter by 5%. What they
are fed is measured here: the contributor's own states (`own`, as if there were no second thread for them), opening,
quantising and sealing, and the flow's reading, judging, aggregating and publishing. The audit is `models/auditing`'s
average for the plan's rounds, on one auditor as fast as the fastest contributor ("two": on two, as the flow replays on
two cores or more where its machine has them idle), and it and the finality run beside the next round, as in the product
(`tasks/ahead`): the first and the last round wait. Assumed: 100 Mbit/s a contributor, HANDLING seconds a round for
orders and answers, and the finality. A step's time on the fastest is set, from what the first table measures upwards
(heavier rows, slower machines): fixed costs weigh less as rounds get longer. The share is ideal over real time; ideal
is all steps over the summed speed of whoever is there. "in turn" is the share if every round waited for its audit;
"free" if there were none, and no finality. Baseline: an equal split that waits for the slowest, and for its audits. The
real stack is not timed: on a machine that all parts share they would wait for each other.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from solders.keypair import Keypair

from benchmarks.fields import entry, facts
from cloudlinkup.agent.duty import Duty
from cloudlinkup.agent.files import OrderFolder
from cloudlinkup.agent.shard import Stop, Trained, Work, train_shard
from cloudlinkup.crypto.seal import decrypt_blob, encrypt_blob
from cloudlinkup.training.aggregate import aggregate
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.baseline import train_alone
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.outer import Published, apply_delta
from cloudlinkup.training.quantize import dequantise, encoded_size, quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.training.states import state_size
from cloudlinkup.verify.gates import Offer, gates
from cloudlinkup.verify.replay import ReplayCosts
from cloudlinkup.wire.hashes import sha256
from cloudlinkup.wire.messages import Order
from models.auditing import OPENING_BYTES_A_SECOND, OPENING_LATENCY, shard_cost
from models.plan import JobPlan, plan_job, plan_round
from models.simulator import Machine, World, simulate

SEGMENT_STEPS, ROWS = 10, 4_096
GOAL = 5.0  # percent
SPEEDS = {"four": (1, 2, 4, 8), "eight": (1, 1, 2, 2, 4, 4, 8, 8)}
VANISH, JITTER, FASTEST = 0.05, 0.05, 8
FINALITY, STEP_SECONDS = (0.0, 13.0), (0.01, 0.1, 1.0)  # a step on the fastest
HANDLING, LINE, ROUNDS, SHARE_GOAL = 0.3, 12_500_000, 20, 95.0  # seconds a round; bytes a second; percent
NETWORKS = {"7k": (64, (64, 32), 32), "85k": (64, (256, 256), 32), "1.1M": (256, (1_024, 768), 64)}


@dataclass(frozen=True)
class Taken:
    """CPU seconds of one repeat, by what they went to, and seconds on the clock of the loop and of the whole shard."""

    loop: float
    opening: float
    steps: float
    states: float
    sealing: float
    loop_clock: float
    shard_clock: float

    @property
    def shard(self) -> float:
        return self.opening + self.steps + self.states + self.sealing


class TimedRunner(SegmentRunner):
    """The contributor's runner, which adds up what its segments take."""

    seconds = 0.0

    def run_segment(self) -> int:
        began = time.thread_time()
        try:
            return super().run_segment()
        finally:
            TimedRunner.seconds += time.thread_time() - began


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, CPU seconds of the process, seconds on the clock)."""
    clock, began = time.perf_counter(), time.process_time()
    result = work()
    return result, time.process_time() - began, time.perf_counter() - clock


def spec_of(name: str) -> TrainingSpec:
    inputs, hidden, batch = NETWORKS[name]
    model = {"kind": "mlp", "hidden": list(hidden), "activation": "relu"}
    return TrainingSpec("classification", model, inputs, 10, batch, 0.01, 0)


def order_of(spec: TrainingSpec, segments: int) -> Order:
    """An order as a verifier signs it; only its work is of interest here."""
    key = str(Keypair().pubkey())
    return Order(
        genesis=key,
        program=key,
        job=key,
        job_id="0" * 32,
        round=1,
        seat=0,
        attempt=0,
        wallet=key,
        agent=key,
        spec_hash=spec.hash,
        partition_hash="0" * 64,
        weights_hash="0" * 64,
        seed="1" * 64,
        segment_steps=SEGMENT_STEPS,
        max_segments=segments,
        progress_from=0,
        progress_to=1_000_000,
        pay_per_step=1,
        time_box=3_600.0,
        max_bytes=10**9,
        numeric_mode="fp32",
        result_key="0" * 64,
    )


def measure(name: str, segments: int, seed: int, folder: Path) -> Taken:
    """One repeat: the loop, then the shard."""
    spec = spec_of(name)
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((ROWS, spec.inputs)).astype(np.float32)
    targets = rng.integers(0, spec.outputs, ROWS)
    samples = segments * SEGMENT_STEPS * spec.batch
    _, loop, loop_clock = timed(lambda: train_alone(spec, rows, targets, samples, seed=seed))

    base = initial_weights(spec)
    delta, key = encrypt_blob(quantise(0.01 * rng.standard_normal(base.size).astype(np.float32)))

    def opened() -> np.ndarray:
        weights = apply_delta(base, decrypt_blob(delta, key, len(delta)))
        sha256(weights.tobytes())
        return weights

    weights, opening, opening_clock = timed(opened)
    order = order_of(spec, segments)
    work = Work(order, bytes(32), bytes(32), spec, weights, rows, targets, order.time_box)
    place = OrderFolder(folder / name / "orders" / "one")
    place.path.mkdir(parents=True, exist_ok=True)

    def shard() -> Trained:
        place.forget_states()
        return train_shard(
            work,
            place,
            factory=TimedRunner,
            device="cpu",
            threads=1,
            duty=Duty(1.0),
            stop=Stop(),
            on_segment=lambda _: None,
        )

    TimedRunner.seconds = 0.0
    trained, whole, shard_clock = timed(shard)
    assert trained.segments == segments
    _, sealing, sealing_clock = timed(lambda: encrypt_blob(trained.update))
    clock = opening_clock + shard_clock + sealing_clock
    return Taken(loop, opening, TimedRunner.seconds, whole - TimedRunner.seconds, sealing, loop_clock, clock)


def overhead(taken: list[Taken]) -> dict[str, Any]:
    """Percent over the bare loop: median and range, in CPU and clock seconds; the parts' medians in milliseconds."""
    over = sorted(100 * (one.shard / one.loop - 1) for one in taken)
    clock = sorted(100 * (one.shard_clock / one.loop_clock - 1) for one in taken)
    parts = ("loop", "opening", "steps", "states", "sealing")
    return {
        "overhead": median(over),
        "range": [over[0], over[-1]],
        "clock_overhead": median(clock),
        "clock_range": [clock[0], clock[-1]],
        "milliseconds": {part: 1_000 * median(getattr(one, part) for one in taken) for part in parts},
    }


# ---------------------------------------------------------------- a whole job

PARTS = ("training", "own", "sealing", "transfer", "flow", "waiting")  # "waiting": also for an audit


@dataclass(frozen=True)
class Costs:
    """Measured seconds: `state` for each state and `shard` for each shard, on the fastest contributor; `flow` of the
    flow for each update of a round."""

    state: float
    shard: float
    flow: float
    parameters: int


def costs_of(name: str, taken: list[Taken], segments: int, repeats: int) -> Costs:
    spec = spec_of(name)
    base, rng = initial_weights(spec), np.random.default_rng(0)
    uploads = [quantise(0.01 * rng.standard_normal(base.size).astype(np.float32)) for _ in range(4)]
    rows = rng.standard_normal((512, spec.inputs)).astype(np.float32)
    targets = rng.integers(0, spec.outputs, len(rows))

    def flow() -> None:
        updates = {seat: dequantise(data, base.size) for seat, data in enumerate(uploads)}
        offers = {seat: Offer(update, 100) for seat, update in updates.items()}
        gates(offers, base.size, lambda update: evaluate(spec, base + update, rows, targets).loss)
        published = Published(base)
        published.advance(base + aggregate({seat: (update, 100) for seat, update in updates.items()}).update)
        sha256(published.published.tobytes())

    return Costs(
        state=median(one.states / segments for one in taken),
        shard=median(one.opening + one.sealing for one in taken),
        flow=median(timed(flow)[1] for _ in range(repeats)) / len(uploads),
        parameters=base.size,
    )


def plan_of(step: float, speeds: tuple[int, ...]) -> JobPlan:
    """The product's plan of a stateless job for them, predicted right, without a race."""
    chosen = [entry(i, step * FASTEST / speed) for i, speed in enumerate(speeds)]
    return plan_job(facts(ROUNDS * 100 * len(speeds)), chosen, predictor="measured", version="0")


def audit_seconds(plan: JobPlan, step: float, parameters: int, auditors: int = 1) -> float:
    """Of one round after the first, on auditors as fast as the fastest contributor, one shard at a time each."""
    size = state_size(parameters)
    costs = ReplayCosts(plan.segment_steps * step, OPENING_LATENCY + size / OPENING_BYTES_A_SECOND)
    split = plan_round(plan, 2, plan.total_steps, plan.predictions)
    shards = [shard_cost(seat.max_segments, costs, size, first=False, small=False) for seat in split.seats]
    busy = [0.0] * auditors
    for seconds in sorted((one.seconds + one.bytes / OPENING_BYTES_A_SECOND for one in shards), reverse=True):
        heapq.heapreplace(busy, busy[0] + seconds)  # the longest shards first, to whoever is free
    return max(busy)


def ideal_seconds(steps: float, machines: list[Machine]) -> float:
    """In which the machines, each until it vanishes, do the steps if none ever waits."""
    now = 0.0
    for until in sorted({machine.until for machine in machines}):
        speed = sum(1 / machine.seconds for machine in machines if machine.until > now)
        if not speed or steps / speed <= until - now:
            return now + steps / speed if speed else inf
        steps, now = steps - (until - now) * speed, until
    return inf


def share(step: float, finality: float, costs: Costs, jobs: int, seed: int, speeds: tuple[int, ...]) -> dict[str, Any]:
    """Shares of the ideal in percent, and where the real time goes, in percent of it; means over the jobs."""
    plan, rng = plan_of(step, speeds), np.random.default_rng(seed)
    audit, update = audit_seconds(plan, step, costs.parameters), 2.0 * encoded_size(costs.parameters)
    by_two = audit_seconds(plan, step, costs.parameters, 2)
    own, handling = costs.state / (plan.segment_steps * step), costs.flow * len(speeds) + HANDLING
    pure = [step * FASTEST / speed for speed in speeds]
    whole = plan.total_steps / sum(1 / seconds for seconds in pure)
    found: dict[str, list[float]] = {key: [] for key in ("share", "two", "turn", "free", "equal", *PARTS)}
    for _ in range(jobs):
        until = np.where(rng.random(len(speeds)) < VANISH, rng.random(len(speeds)) * whole, inf)
        if not np.isinf(until).any():
            continue
        real = []
        worlds = ((0.0, audit + finality), (audit + finality, 0.0), (0.0, 0.0), (0.0, by_two + finality))
        for waits, beside in worlds:
            machines = [
                Machine(
                    seconds * (1 + own),
                    float(end),
                    bandwidth=update / (update / LINE + costs.shard * FASTEST / speed),
                )
                for seconds, end, speed in zip(pure, until, speeds, strict=True)
            ]
            world = World(dispatch=waits + handling, jitter=JITTER, update=update, audit=beside)
            real.append(simulate(plan, machines, np.random.default_rng(int(rng.integers(2**31))), world))
        took, turn, free, two = real
        ideal = ideal_seconds(
            plan.total_steps, [Machine(seconds, float(end)) for seconds, end in zip(pure, until, strict=True)]
        )
        each = took.rounds / took.seconds * 100
        parts = {
            "training": 100 * ideal / took.seconds,
            "own": 100 * ideal * own / took.seconds,
            "sealing": each * costs.shard,
            "transfer": each * update / LINE,
            "flow": each * handling,
        }
        parts["waiting"] = 100 - sum(parts.values())
        # equal parts: every round waits for the slowest, with the same costs beside
        slowest = plan.total_steps / len(speeds) * max(pure)
        equal = slowest * (1 + own) + plan.rounds * (audit + finality + handling)
        for key, value in parts.items():
            found[key].append(value)
        found["share"].append(100 * ideal / took.seconds)
        found["two"].append(100 * ideal / two.seconds)
        found["turn"].append(100 * ideal / turn.seconds)
        found["free"].append(100 * ideal / free.seconds)
        found["equal"].append(100 * ideal / equal)
    shares = np.array(found["share"])
    again = np.random.default_rng(seed).integers(0, len(shares), (1_000, len(shares)))
    low, high = np.quantile(shares[again].mean(1), (0.025, 0.975))
    return {key: mean(values) for key, values in found.items()} | {
        "interval": [float(low), float(high)],
        "jobs": len(shares),
        "round_seconds": whole / plan.rounds,
        "segment_steps": plan.segment_steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--segments", type=int, default=10, help=f"of {SEGMENT_STEPS} steps each")
    parser.add_argument("--jobs", type=int, default=40, help="of the second table, each row")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    taken: list[Taken] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            measure(name, given.segments, 10_000, Path(folder))  # warms up
            taken = [measure(name, given.segments, seed, Path(folder)) for seed in range(max(3, given.repeats))]
            found[name] = overhead(taken)
    costs = costs_of("1.1M", taken, given.segments, max(3, given.repeats))
    rows: list[dict[str, Any]] = [
        {"contributors": name, "step_seconds": step, "finality": finality}
        | share(step, finality, costs, max(10, given.jobs), 1, speeds)
        for name, speeds in SPEEDS.items()
        for step in STEP_SECONDS
        for finality in FINALITY
    ]
    if given.json:
        steps = given.segments * SEGMENT_STEPS
        print(json.dumps({"benchmark": "utilisation", "steps": steps, "shards": found, "jobs": rows}))
        return
    print(f"A shard of {given.segments * SEGMENT_STEPS} steps against a bare torch loop; CPU milliseconds, medians")
    parts = ("loop", "steps", "opening", "states", "sealing")
    print(
        f"{'network':10}"
        + "".join(f"{part:>9}" for part in parts)
        + f"{'CPU':>10}{'range':>18}{'clock':>10}{'range':>18}"
    )
    for name, one in found.items():
        ms = one["milliseconds"]
        cells = "".join(f"{ms[part]:9.1f}" for part in parts)
        for kind in ("", "clock_"):
            low, high = one[f"{kind}range"]
            cells += f"{one[f'{kind}overhead']:+9.1f}%{f'[{low:+.1f}, {high:+.1f}]':>18}"
        print(f"{name:10}{cells}  {'holds' if one['overhead'] <= GOAL else 'does not hold'}")
    print(f"Goal: at most {GOAL:g}% more CPU than the bare loop. Steps are faster than its own where a sum is below 0.")
    print("\nShare of the ideal, contributors of speed 1:2:4:8, 5% vanish; % of the real time")
    heads = f"{'':6}{'step':>6}{'finality':>10}{'round':>9}{'share':>8}{'interval':>15}"
    print(heads + f"{'two':>8}{'in turn':>9}{'free':>7}{'equal':>7}", end="")
    print("".join(f"{part:>10}" for part in PARTS[1:]))
    for row in rows:
        low, high = row["interval"]
        cells = f"{row['contributors']:6}{row['step_seconds']:5g}s{row['finality']:9g}s{row['round_seconds']:8.1f}s"
        cells += f"{row['share']:7.1f}%{f'[{low:.1f}, {high:.1f}]':>15}{row['two']:7.1f}%{row['turn']:8.1f}%"
        cells += f"{row['free']:6.1f}%{row['equal']:6.1f}%"
        print(cells + "".join(f"{row[part]:9.1f}%" for part in PARTS[1:]))
    print(f"Goal: {SHARE_GOAL:g}%.")


if __name__ == "__main__":
    main()
