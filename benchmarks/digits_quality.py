"""Does training in rounds over unequal contributors cost quality? Digits, against one machine at equal samples.

    python -m benchmarks.digits_quality [--seeds 5] [--json]

Every seed draws another held-out fifth, start and row order. Ours: the real segment runner, four contributors with
1:2:4:8 of the segments and of the rows, int4 up, int4 differences down, averaged by `training/aggregate.py`; all in one
process, without gateway, audit or payment. Beside it torch's AdamW in a plain loop over all rows (`train_alone`).
Differences are ours minus plain, in points of accuracy on the held-out rows, paired by seed, with a 95% t interval.
"Bytes" is what per-step data parallel training would send (8 bytes a parameter and step) over what the rounds send.
One small problem and model: says nothing about larger ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.intervals import t_interval
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.tables.read import read_table
from cloudlinkup.training.aggregate import aggregate
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.baseline import train_alone
from cloudlinkup.training.data import shard_rows
from cloudlinkup.training.evaluate import score
from cloudlinkup.training.outer import Published, apply_delta
from cloudlinkup.training.quantize import dequantise, quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.types import JobSpec, parse_job
from cloudlinkup.wire.hashes import rows_seed

ROOT = Path(__file__).resolve().parent.parent
SEGMENT_STEPS = 10
SPLITS = {50: (1, 3, 5, 11), 100: (3, 5, 11, 21)}  # segments of each contributor a round, by mean steps a round


def digits_job() -> JobSpec:
    return parse_job(json.loads((ROOT / "examples/digits/job.json").read_text()))


def with_seed(job: JobSpec, seed: int) -> JobSpec:
    return job.model_copy(update={"train": job.train.model_copy(update={"seed": seed})})


def train_in_rounds(data: Prepared, samples: int, split: tuple[int, ...]) -> tuple[np.ndarray, int, int]:
    """(published weights, rounds, bytes up and down) after `samples` samples, every segment done and verified."""
    spec = data.spec
    partitions = shard_rows(len(data.features), split, spec.seed, minimum=spec.batch)
    published = Published(initial_weights(spec))
    copies = published.published.copy()
    per_round = sum(split) * SEGMENT_STEPS * spec.batch
    rounds, sent = -(-samples // per_round), 0
    for number in range(rounds):
        span = (round(number * 1e6 / rounds), round((number + 1) * 1e6 / rounds))
        updates = {}
        for seat, (segments, rows) in enumerate(zip(split, partitions, strict=True)):
            seed = rows_seed(b"digits quality", bytes([seat]), spec.seed)
            before = number * segments * SEGMENT_STEPS * spec.batch
            work = ShardWork(seed, SEGMENT_STEPS, segments, *span, rows_before=before)
            runner = SegmentRunner(spec, work, copies, data.features[rows], data.targets[rows])
            while runner.run_segment():
                pass
            upload = quantise(runner.update())
            sent += len(upload)
            updates[seat] = (dequantise(upload, len(copies)), segments * SEGMENT_STEPS)
        delta = published.advance(published.weights + aggregate(updates).update)
        sent += len(delta) * len(split)
        copies = apply_delta(copies, delta)
    return copies, rounds, sent


def compare(job: JobSpec, frame: pd.DataFrame, seeds: range) -> list[dict[str, Any]]:
    """One row for each way of training: scores by seed and seconds."""
    rows: list[dict[str, Any]] = [{"way": "one machine, plain loop", "scores": [], "seconds": []}]
    rows += [{"way": f"4 contributors 1:2:4:8, {h} steps a round", "scores": [], "seconds": []} for h in SPLITS]
    for seed in seeds:
        data = prepare(frame, with_seed(job, seed))
        started = perf_counter()
        alone = train_alone(data.spec, data.features, data.targets, job.train.samples, seed=seed)
        _record(rows[0], data, alone.weights, started)
        for row, split in zip(rows[1:], SPLITS.values(), strict=True):
            started = perf_counter()
            weights, rounds, sent = train_in_rounds(data, job.train.samples, split)
            _record(row, data, weights, started)
            steps = job.train.samples // job.train.batch
            row |= {"rounds": rounds, "bytes": sent, "bytes_ratio": 8 * len(weights) * steps / sent}
    plain = rows[0]["scores"]
    for row in rows[1:]:
        row["difference"], row["interval"] = paired(row["scores"], plain)
    return rows


def _record(row: dict[str, Any], data: Prepared, weights: np.ndarray, started: float) -> None:
    row["seconds"].append(perf_counter() - started)
    row["scores"].append(score(data.spec, weights, data.holdout_features, data.holdout_targets)[1])


def paired(ours: list[float], plain: list[float]) -> tuple[float, float]:
    """Mean difference in points, and the half width of its 95% t interval."""
    return t_interval([100 * (a - b) for a, b in zip(ours, plain, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    job = digits_job()
    frame = asyncio.run(read_table(job.data.model_copy(update={"uri": str(ROOT / job.data.uri)}), (ROOT,)))
    rows = compare(job, frame, range(given.first, given.first + max(2, given.seeds)))
    if given.json:
        print(json.dumps({"benchmark": "digits_quality", "samples": job.train.samples, "rows": rows}, indent=2))
        return
    print(f"digits, {job.train.samples:,} samples, {len(rows[0]['scores'])} seeds; accuracy on held-out rows")
    print(f"{'':48}{'accuracy':>10}{'ours - plain, points':>24}{'rounds':>8}{'bytes':>8}{'seconds':>9}")
    for row in rows:
        gap = f"{row['difference']:+.2f} +- {row['interval']:.2f}" if "difference" in row else ""
        ratio = f"{row['bytes_ratio']:.0f}x" if "bytes_ratio" in row else ""
        print(
            f"{row['way']:48}{100 * mean(row['scores']):10.2f}{gap:>24}{row.get('rounds', ''):>8}{ratio:>8}"
            f"{mean(row['seconds']):9.2f}"
        )


if __name__ == "__main__":
    main()
