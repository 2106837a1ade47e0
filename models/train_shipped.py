"""Trains the predictor that ships with the code: `python -m models.train_shipped` writes models/shipped/.

From the prepared measurements in models/data alone, in fp32 (jobs run in fp32, and a reference without tensor cores
has no fp16 figure to give). The same files give the same bytes on the same versions of numpy and xgboost.

XGBoost must earn its place, expert by expert. *gpu*, on published step times: at most 5% worse than its own base on
left-out GPU types and families with fixed probes, and better with strict ones, with a 95% interval above 0. *cpu*, on
shards that `models.data.measure_cpu` ran: better than the rank-1 rule on left-out jobs, with a 95% interval above 0.
An expert that misses is left out, and the metadata says by how much; retraining on an installation's own telemetry
adds one by its own rule.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pandas as pd

from models.base import FP32_ONLY, Array
from models.data.measure_cpu import CPU_SHARDS
from models.data.prepare import GRAPHS, TIMES
from models.dataset import learn_base, load_table
from models.leave_out import FAMILIES, TENSOR_CORES, Bases, job_widths, leave_out, mape, paired_gain, residual_rows
from models.predictor import GROUPS, LEARNED, PHYSICAL, SHIPPED, Expert, Predictor, make_box
from models.residual import fit
from models.retrain import FOLDS, read_window, train_challenger
from models.seen import Seen

CHECKOUT = Path(__file__).resolve().parent.parent
MOST_WORSE = -0.05  # of its base's error, on fixed probes


def train() -> Predictor:
    """The shipped predictor, version 0."""
    table = load_table()
    x, residual, weights = residual_rows(table, FP32_ONLY)
    bases = Bases(table)
    cases = leave_out(bases, TENSOR_CORES, FP32_ONLY, strict=True)
    fixed = paired_gain(leave_out(bases, TENSOR_CORES, FP32_ONLY, strict=False), "xgboost", "base")
    strict = paired_gain(cases, "xgboost", "base")
    earned = fixed[0] >= MOST_WORSE and strict[1] > 0
    expert = Expert("gpu", fit(x, residual, weights), make_box(x), job_widths(cases, "xgboost", GROUPS))
    chosen = "xgboost" if earned else "base"
    physical = Predictor(
        name=LEARNED if earned else PHYSICAL,
        version="0",
        base=learn_base(table, tuple(table.gpu), FAMILIES, FP32_ONLY),
        experts=(expert,) if earned else (),
        widths={name: job_widths(cases, name, GROUPS) for name in ("rank-1", "base")},
        metadata={
            "git_commit": git_commit(),
            "data": {
                "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (TIMES, GRAPHS)},
                "rows": len(x),
                "window": "published measurements of nine hosts, see models/data/SOURCE.txt",
            },
            "metrics": {
                "judged on": "left-out GPU type and family, strict, fp32, four references",
                "cases": len(cases),
                "mape": {m: round(mape(cases, m), 4) for m in ("rank-1", "base", "xgboost")},
                "gain over rank-1": [round(v, 4) for v in paired_gain(cases, chosen, "rank-1")],
                "xgboost over base, fixed": [round(v, 4) for v in fixed],
                "xgboost over base, strict": [round(v, 4) for v in strict],
                "expert": "shipped" if earned else "left out: not better than its base with confidence",
            },
        },
    )
    return with_cpu(physical)


def git_commit() -> str:
    """The checkout's commit that it was trained from, or "unknown" outside of one."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def with_cpu(physical: Predictor) -> Predictor:
    """Adds the expert for shards on CPUs, if it is better than the rank-1 rule on left-out jobs with confidence."""
    window = read_window(
        pd.read_csv(CPU_SHARDS, dtype={"version": str}, keep_default_na=False, na_values={"score": [""]}), physical
    )
    learned = train_challenger(physical, window.seen, physical.version, physical.metadata)
    base, xgboost = cross_validated(physical, window.seen)
    gain = paired_gain_by_job(window.seen, base, xgboost)
    earned = gain[1] > 0
    metadata = dict(physical.metadata)
    metadata["cpu"] = {
        "file": hashlib.sha256(CPU_SHARDS.read_bytes()).hexdigest(),
        "judged on": f"{len(window.seen)} shards of {len(window.jobs)} jobs, each job predicted without its fold",
        "mape": {"rank-1": round(float(base.mean()), 4), "xgboost": round(float(xgboost.mean()), 4)},
        "xgboost over rank-1": [round(v, 4) for v in gain],
        "expert": "shipped" if earned else "left out: not better than its base with confidence",
    }
    if not earned:
        return replace(physical, metadata=metadata)
    cpu = replace(learned.experts[-1], name="cpu")
    return replace(learned, experts=(*physical.experts, cpu), metadata=metadata)


def cross_validated(physical: Predictor, seen: Sequence[Seen]) -> tuple[Array, Array]:
    """Relative errors of the base and of the expert on every shard, each job judged by an expert that never saw it."""
    jobs = sorted({s.job_id for s in seen})
    base, xgboost = np.zeros(len(seen)), np.zeros(len(seen))
    for k in range(FOLDS):
        held = [i for i, s in enumerate(seen) if jobs.index(s.job_id) % FOLDS == k]
        rest = [s for s in seen if jobs.index(s.job_id) % FOLDS != k]
        learned = train_challenger(physical, rest, physical.version, {})
        for i in held:
            base[i], xgboost[i] = relative_error(physical, seen[i]), relative_error(learned, seen[i])
    return base, xgboost


def relative_error(predictor: Predictor, seen: Seen) -> float:
    """|predicted / true - 1| of one shard's seconds per step."""
    (prediction,) = predictor.predict(seen.job, [seen.candidate])
    return abs(prediction.seconds * seen.candidate.share / exp(seen.truth) - 1)


def paired_gain_by_job(seen: Sequence[Seen], base: Array, xgboost: Array, draws: int = 2_000) -> tuple[float, ...]:
    """1 - error of XGBoost / error of the base, with a 95% bootstrap interval over jobs."""
    jobs = sorted({s.job_id for s in seen})
    index = np.array([jobs.index(s.job_id) for s in seen])
    sums = np.array([[base[index == j].sum(), xgboost[index == j].sum()] for j in range(len(jobs))])
    rng = np.random.default_rng(0)
    drawn = sums[rng.integers(0, len(jobs), (draws, len(jobs)))].sum(axis=1)
    gains = 1 - drawn[:, 1] / drawn[:, 0]
    whole = 1 - sums[:, 1].sum() / sums[:, 0].sum()
    return float(whole), float(np.quantile(gains, 0.025)), float(np.quantile(gains, 0.975))


def main() -> None:
    predictor = train()
    if SHIPPED.exists():
        shutil.rmtree(SHIPPED)
    predictor.save(SHIPPED)
    print(json.dumps({"gpu": predictor.metadata["metrics"], "cpu": predictor.metadata["cpu"]}, indent=1))


if __name__ == "__main__":
    main()
