"""How many contributors can share one training before their steps stop counting in full? Behind `models.goodput`.

    python -m benchmarks.goodput [--seeds 3] [--most-steps 16000] [--problem table|digits] [--json]

At equal samples more contributors mean fewer sequential steps for each. K equal contributors train in rounds by the
product's own code (its local steps, int4 both ways, `training/aggregate.py`), batch 32, all in one process.
*Efficiency*: the steps that one contributor alone needs for the same held-out score (off its own curve, log-linear
between its runs) over the steps that all of them took; the baseline is that one contributor. Goodput is contributors x
efficiency, beside it the model's. *table*: ten classes of three clusters in 20 directions of 64 features, 12,000 rows.
Small networks only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.digits_quality import ROOT, digits_job, train_in_rounds, with_seed
from benchmarks.intervals import t_interval
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.tables.read import read_table
from cloudlinkup.training.evaluate import score
from cloudlinkup.types import JobSpec, parse_job
from models.goodput import efficiency, most_useful
from models.plan import local_steps

CONTRIBUTORS = (1, 2, 4, 8, 16, 32, 64)
LEAST_STEPS, LEAST_EACH = 1_000, 30
SEGMENT = 10


def table_job() -> tuple[JobSpec, pd.DataFrame]:
    """A synthetic table of the size that the measurements in `models.goodput` were made with."""
    rng = np.random.default_rng(0)
    rows, classes, clusters, directions, features = 12_000, 10, 3, 20, 64
    centres = rng.choice([-1.0, 1.0], (classes, clusters, directions))
    label, cluster = rng.integers(0, classes, rows), rng.integers(0, clusters, rows)
    inside = centres[label, cluster] + rng.standard_normal((rows, directions))
    x = np.concatenate([inside @ rng.standard_normal((directions, directions)), rng.standard_normal((rows, 44))], 1)
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(features)])
    frame["y"] = [f"c{one}" for one in label]
    job = {
        "version": 1,
        "data": {"uri": "table.csv", "format": "csv", "label": "y"},
        "task": "classification",
        "model": {"kind": "mlp", "hidden": [64, 32], "activation": "relu"},
        "train": {"samples": 32_000, "batch": 32},
        "budget": "1",
        "deadline": "2040-01-01T00:00:00Z",
    }
    return parse_job(job), frame


def read(problem: str) -> tuple[JobSpec, pd.DataFrame]:
    if problem == "table":
        return table_job()
    job = digits_job()
    return job, asyncio.run(read_table(job.data.model_copy(update={"uri": str(ROOT / job.data.uri)}), (ROOT,)))


def error(data: Prepared, contributors: int, steps: int) -> float:
    """Share of the held-out rows that are wrong after `steps` steps of all contributors together."""
    segments = max(1, round(local_steps(steps, contributors) / SEGMENT))
    weights, _, _ = train_in_rounds(data, steps * data.spec.batch, (segments,) * contributors)
    return 1 - score(data.spec, weights, data.holdout_features, data.holdout_targets)[1]


def run(problem: str, seeds: range, most: int) -> dict[str, Any]:
    job, frame = read(problem)
    counts = [LEAST_STEPS * 2**i for i in range(20) if LEAST_STEPS * 2**i <= most]
    found: dict[tuple[int, int], list[float]] = {}
    for seed in seeds:
        data = prepare(frame, with_seed(job, seed))
        for steps in (LEAST_STEPS // 2**i for i in range(5, 0, -1)):  # alone, for the curve's foot
            found.setdefault((1, steps), []).append(error(data, 1, steps))
        for k in CONTRIBUTORS:
            for steps in counts:
                if steps >= LEAST_EACH * k and len(data.features) >= data.spec.batch * k:
                    found.setdefault((k, steps), []).append(error(data, k, steps))
    alone = sorted(steps for k, steps in found if k == 1)
    curve = np.minimum.accumulate([mean(found[1, n]) for n in alone])  # as if it never rose again
    rows = []
    for (k, steps), errors in sorted(found.items()):
        if k == 1 and steps < LEAST_STEPS:
            continue
        lost = [100 * (ours - theirs) for ours, theirs in zip(errors, found[1, steps], strict=True)]
        needed = float(np.exp(np.interp(-mean(errors), -curve, np.log(alone))))
        row = {"contributors": k, "steps": steps, "error": mean(errors)}
        row["lost"], row["interval"] = t_interval(lost)
        # where it is as good as alone after as many steps, more of them teach nothing there: all count
        row["efficiency"] = 1.0 if mean(lost) <= 0 else min(1.0, needed / steps)
        rows.append(row | {"model": efficiency(k, steps)})
    caps = {steps: most_useful(steps, CONTRIBUTORS[-1]) for steps in counts}
    return {
        "benchmark": "goodput",
        "problem": problem,
        "seeds": len(seeds),
        "first": seeds.start,
        "rows": rows,
        "caps": caps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=("table", "digits"), default="table")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--most-steps", type=int, default=16_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    seeds = range(given.first, given.first + max(2, given.seeds))
    document = run(given.problem, seeds, given.most_steps)
    if given.json:
        print(json.dumps(document, indent=1))
        return
    print(
        f"{given.problem}, {len(seeds)} seeds; lost: points against one contributor at the same steps, 95% t interval"
    )
    print(
        f"{'contributors':>12} {'steps':>7} {'each':>6} {'error %':>8} {'lost':>16} {'efficiency':>10} {'goodput':>8}"
        " model"
    )
    for row in document["rows"]:
        k, steps = row["contributors"], row["steps"]
        print(
            f"{k:12} {steps:7,} {steps // k:6,} {100 * row['error']:8.2f} {row['lost']:+8.2f} +- {row['interval']:4.2f}"
            f" {row['efficiency']:10.2f} {k * row['efficiency']:8.1f} {k * row['model']:5.1f}"
        )
    for steps, cap in document["caps"].items():
        print(f"the planner takes at most {cap} contributors for {steps:,} steps")


if __name__ == "__main__":
    main()
