"""How fast are updates quantised and read back, on one core, beside copying the same fp32?

    python -m benchmarks.quantiser [--repeats 15] [--json]

Megabytes of fp32 (input when quantising, output when reading) for each CPU second of one thread: the median of the
repeats and its range, on normal random numbers. The baseline is a plain copy of the vector, and beside it SHA-256 of
the same bytes, which every update, delta and state also goes through. The ratio is to the copy. Goal: 200 MB/s.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from cloudlinkup.training.quantize import dequantise, encoded_size, quantise

COUNTS = {"7k": 7_000, "85k": 85_000, "1.1M": 1_100_000, "8M": 8_000_000}
GOAL = 200.0  # megabytes a second
LEAST = 0.02  # CPU seconds of one repeat: small vectors are done many times


def rates(work: Callable[[], Any], size: int, repeats: int) -> list[float]:
    """Megabytes a CPU second, sorted, of work on `size` bytes."""
    began = time.thread_time()
    work()
    times = max(1, int(LEAST / max(1e-6, time.thread_time() - began)))
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        for _ in range(times):
            work()
        found.append(times * size / 1e6 / max(1e-9, time.thread_time() - began))
    return sorted(found)


def measure(count: int, seed: int, repeats: int) -> dict[str, Any]:
    vector = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    data = quantise(vector)
    ways: dict[str, Callable[[], Any]] = {
        "copy": vector.copy,
        "sha256": lambda: hashlib.sha256(vector.data).digest(),
        "quantise": lambda: quantise(vector),
        "dequantise": lambda: dequantise(data, count),
    }
    row: dict[str, Any] = {"elements": count, "bytes": encoded_size(count)}
    for name, work in ways.items():
        found = rates(work, vector.nbytes, repeats)
        row[name] = {"median": median(found), "range": [found[0], found[-1]]}
    for name in ways:
        row[name]["ratio"] = row[name]["median"] / row["copy"]["median"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = {name: measure(count, given.seed, max(3, given.repeats)) for name, count in COUNTS.items()}
    if given.json:
        print(json.dumps({"benchmark": "quantiser", "seed": given.seed, "goal": GOAL, "rows": rows}))
        return
    print("MB of fp32 a CPU second, one thread: median, [range], and ratio to a plain copy")
    print(f"{'':8}{'copy':>9}{'sha256':>9}{'quantise':>32}{'dequantise':>32}")
    for name, row in rows.items():
        cells = "".join(f"{row[way]['median']:9,.0f}" for way in ("copy", "sha256"))
        for way in ("quantise", "dequantise"):
            one = row[way]
            low, high = one["range"]
            cells += f"{one['median']:9,.0f}{f' [{low:,.0f}, {high:,.0f}]':>16}{one['ratio']:6.2f}x"
        holds = min(row["quantise"]["median"], row["dequantise"]["median"]) >= GOAL
        print(f"{name:8}{cells}  {'holds' if holds else 'does not hold'}")
    print(f"Goal: {GOAL:g} MB/s.")


if __name__ == "__main__":
    main()
