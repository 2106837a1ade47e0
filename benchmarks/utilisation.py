"""What a shard costs its contributor beside a bare torch loop of as many steps, and where the rest goes.

    python -m benchmarks.utilisation [--repeats 7] [--segments 10] [--json]

Both sides take the same steps on the same rows of random numbers, turn and turn about in one process, torch at one
thread. The bare loop is torch's own AdamW and autograd (`training/baseline`). The shard is what the contributor's
machine runs (`agent/shard.train_shard`, full duty) and what stands around it: opening the sealed delta and hashing the
weights, a state hashed and written after each segment (by a second thread) over the last round's, as in every
round but the first, quantising, sealing. Overhead is shard over loop, less one, in percent: the median of the
repeats, and its range; once in CPU seconds of the whole process, which other programs move little, and once on the
clock. Not here: the network, waiting for the chain, and the partition, which is sent once a job.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from solders.keypair import Keypair

from cloudlinkup.agent.duty import Duty
from cloudlinkup.agent.files import OrderFolder
from cloudlinkup.agent.shard import Stop, Trained, Work, train_shard
from cloudlinkup.crypto.seal import decrypt_blob, encrypt_blob
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.baseline import train_alone
from cloudlinkup.training.outer import apply_delta
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.hashes import sha256
from cloudlinkup.wire.messages import Order

SEGMENT_STEPS, ROWS = 10, 4_096
GOAL = 5.0  # percent
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--segments", type=int, default=10, help=f"of {SEGMENT_STEPS} steps each")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            measure(name, given.segments, 10_000, Path(folder))  # warms up
            taken = [measure(name, given.segments, seed, Path(folder)) for seed in range(max(3, given.repeats))]
            found[name] = overhead(taken)
    if given.json:
        print(json.dumps({"benchmark": "utilisation", "steps": given.segments * SEGMENT_STEPS, "shards": found}))
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


if __name__ == "__main__":
    main()
