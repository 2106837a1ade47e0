"""What the flow gains by replaying two shards at once, in two threads of one process.

    python -m benchmarks.replays [--repeats 7] [--json]

Two shards are trained as a replay trains them (`SegmentRunner` at one thread, a state's hash after each segment), one
after the other and then side by side, turn and turn about. The gain is the first time over the second, the median of
the repeats and their range; baseline: 1, one after the other. Where a step is short, Python's lock lets one thread
compute while the other waits for it. Not here: openings, the network, other work of the flow's process.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from benchmarks.utilisation import NETWORKS, spec_of
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec

SEGMENT_STEPS, ROWS = 10, 4_096
SECONDS = 0.4  # of one shard, about


def shard(spec: TrainingSpec, segments: int) -> None:
    """Trains one, from the same weights on the same rows each time."""
    rng = np.random.default_rng(0)
    rows, targets = rng.standard_normal((ROWS, spec.inputs)).astype(np.float32), rng.integers(0, spec.outputs, ROWS)
    work = ShardWork(
        seed=bytes(32),
        segment_steps=SEGMENT_STEPS,
        max_segments=segments,
        progress_from=0,
        progress_to=1_000_000,
    )
    runner = SegmentRunner(spec, work, initial_weights(spec), rows, targets, device="cpu", threads=1)
    while not runner.done:
        runner.run_segment()
        runner.state_hash()


def gains(name: str, repeats: int) -> list[float]:
    """Sorted: one after the other over side by side."""
    spec = spec_of(name)
    began = time.perf_counter()
    shard(spec, 10)
    segments = max(10, int(10 * SECONDS / (time.perf_counter() - began)))
    found = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            shard(spec, segments)
            shard(spec, segments)
            between = time.perf_counter()
            list(pool.map(lambda _: shard(spec, segments), range(2)))
            found.append((between - began) / (time.perf_counter() - between))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {name: gains(name, max(3, given.repeats)) for name in NETWORKS}
    if given.json:
        print(json.dumps({"benchmark": "replays", "gains": found}))
        return
    print(f"{'network':10}{'side by side':>14}{'range':>16}   times as fast as one after the other (1)")
    for name, values in found.items():
        print(f"{name:10}{median(values):13.2f}x{f'[{values[0]:.2f}, {values[-1]:.2f}]':>16}")


if __name__ == "__main__":
    main()
