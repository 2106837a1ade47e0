"""Rounds with fresh or kept optimizer state against per-step data parallel training, at equal samples.

    python -m benchmarks.rounds [--seeds 3] [--first 0] [--steps 1000] [--json]

A table of 48,000 rows (scikit-learn's make_classification: 64 columns, 10 classes, two clusters each, 1% of the labels
random), an MLP of 85,002 parameters, four contributors with 1:2:4:8 of the rows and of the segments, batch 32: the
segment runner, the int4 updates both ways, `aggregate` and `Published.step` of the product, all in one process without
gateway, audit or payment. `--steps`: optimizer steps a contributor; 1,000 see the rows 2.7 times. Beside it one AdamW
with the same schedule on batches of 4 x 32 (what per-step data parallel training computes). Differences are ours less
that, in points of accuracy on 12,000 held-out rows, paired by seed, with a 95% t interval. "Bytes" is what data
parallel training would send over a star (8 bytes a parameter, contributor and step) over what the rounds send;
"audited" with the moments opened (1.6 bytes a parameter) by half of the shards from the second round on, as expected
from four contributors on.

One problem and model; says nothing about others. The seeds draw table, start and order of rows.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
from sklearn.datasets import make_classification

from benchmarks.digits_quality import paired
from cloudlinkup.training.aggregate import aggregate
from cloudlinkup.training.architectures import initial_weights, parameter_count
from cloudlinkup.training.data import shard_rows
from cloudlinkup.training.evaluate import score
from cloudlinkup.training.moments import moments_size, unpack_moments
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import dequantise, quantise
from cloudlinkup.training.schedule import outer_momentum
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import moments_of
from cloudlinkup.wire.hashes import digest, sha256

ROWS, HELD = 60_000, 12_000
SPLIT = (1, 2, 4, 8)
WAYS = {"stateless, 50 steps a round": ("stateless", 50), "kept, 25 steps a round": ("kept", 25)}


def problem(seed: int) -> tuple[TrainingSpec, tuple[np.ndarray, ...]]:
    """(spec, training rows and labels, held-out rows and labels)."""
    x, y = make_classification(
        ROWS, 64, n_informative=20, n_redundant=10, n_classes=10, n_clusters_per_class=2, flip_y=0.01, class_sep=1.5,
        random_state=seed,
    )  # fmt: skip
    x = ((x - x[:-HELD].mean(0)) / x[:-HELD].std(0)).astype(np.float32)
    y = y.astype(np.int64)
    model = {"kind": "mlp", "hidden": [256, 256], "activation": "relu"}
    spec = TrainingSpec("classification", model, 64, 10, 32, 0.01, seed)
    return spec, (x[:-HELD], y[:-HELD], x[-HELD:], y[-HELD:])


def data_parallel(spec: TrainingSpec, rows: tuple[np.ndarray, ...], steps: int) -> np.ndarray:
    work = ShardWork(digest("data parallel", spec.seed), 10, steps // 10, 0, 1_000_000)
    runner = SegmentRunner(replace(spec, batch=len(SPLIT) * spec.batch), work, initial_weights(spec), *rows[:2])
    while runner.run_segment():
        pass
    return runner.weights()


def in_rounds(spec: TrainingSpec, rows: tuple[np.ndarray, ...], steps: int, local: int) -> tuple[np.ndarray, int, int]:
    """(published weights, bytes of the rounds, and of openings of moments) after `steps` steps a contributor."""
    kept, count = spec.rounds == "kept", parameter_count(spec)
    # the planner's own sizes would be unequal by rounding: whole segments in exactly 1:2:4:8
    segment = 1 if local < 50 else 3
    each = tuple(max(1, round(share * local * len(SPLIT) / sum(SPLIT) / segment)) for share in SPLIT)
    partitions = shard_rows(len(rows[0]), SPLIT, spec.seed, minimum=spec.batch)
    published, moments = Published(initial_weights(spec)), [None] * len(SPLIT)
    per_round, total = sum(each) * segment, steps * len(SPLIT)
    rounds, sent, shown = round(total / per_round), 0, 0
    for number in range(rounds):
        span = (round(number * 1e6 / rounds), round((number + 1) * 1e6 / rounds))
        updates = {}
        for seat, (segments, part) in enumerate(zip(each, partitions, strict=True)):
            begins = moments[seat]
            named = (
                (bytes.fromhex(sha256(begins)), unpack_moments(begins, count)[2]) if begins is not None else (b"", 0)
            )
            work = ShardWork(digest("rounds", number, seat, spec.seed), segment, segments, *span, *named)
            runner = SegmentRunner(spec, work, published.published, rows[0][part], rows[1][part], moments=begins)
            while runner.run_segment():
                pass
            if kept:
                moments[seat] = moments_of(runner.state_bytes())
                shown += moments_size(count) / 2 if number else 0
            upload = quantise(runner.update())
            sent += len(upload)
            updates[seat] = (dequantise(upload, count), segments * segment)
        sent += len(published.step(aggregate(updates).update, outer_momentum(spec, number / rounds))) * len(SPLIT)
    return published.published, sent, int(shown)


def compare(seeds: range, steps: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"way": "data parallel, every step", "scores": [], "seconds": []}]
    rows += [{"way": way, "scores": [], "seconds": []} for way in WAYS]
    for seed in seeds:
        spec, data = problem(seed)
        for row in rows:
            began = perf_counter()
            if row["way"] in WAYS:
                setting, local = WAYS[row["way"]]
                weights, sent, shown = in_rounds(replace(spec, rounds=setting), data, steps, local)
                whole = 8 * len(weights) * len(SPLIT) * steps
                row |= {"bytes": sent, "opened": shown, "ratio": whole / sent, "audited": whole / (sent + shown)}
            else:
                weights = data_parallel(spec, data, steps)
            row["seconds"].append(perf_counter() - began)
            row["scores"].append(score(spec, weights, *data[2:])[1])
    for row in rows[1:]:
        row["difference"], row["interval"] = paired(row["scores"], rows[0]["scores"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=1_000, help="optimizer steps a contributor")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = compare(range(given.first, given.first + max(2, given.seeds)), given.steps)
    if given.json:
        print(json.dumps({"benchmark": "rounds", "steps": given.steps, "first": given.first, "rows": rows}, indent=2))
        return
    print(f"four contributors 1:2:4:8, {given.steps:,} steps each, {len(rows[0]['scores'])} seeds from {given.first}")
    print(f"{'':30}{'accuracy':>10}{'less data parallel':>20}{'bytes':>8}{'audited':>9}{'seconds':>9}")
    for row in rows:
        gap = f"{row['difference']:+.2f} +- {row['interval']:.2f}" if "difference" in row else ""
        ratios = (f"{row['ratio']:.0f}x", f"{row['audited']:.0f}x") if "ratio" in row else ("", "")
        print(
            f"{row['way']:30}{100 * mean(row['scores']):10.2f}{gap:>20}{ratios[0]:>8}{ratios[1]:>9}"
            f"{mean(row['seconds']):9.1f}"
        )


if __name__ == "__main__":
    main()
