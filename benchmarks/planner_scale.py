"""What planning one job costs over 1,000, 10,000 and 100,000 contributors, and ranking 1,000 waiting jobs.

    python -m benchmarks.planner_scale [--seed N] [--repeats N] [--json]

The product's own quote (`models.quote.quote_job` with the shipped predictor: shortlist, prediction, selection, every
group that is weighed, water-filling, audit, reasons) for a job of 64 places, on one thread, CPU time: the least of the
repeats, since what else runs on a machine only adds to it, and their median beside it. Contributors have probes of a
lognormal speed, records, asks and memory of their own. Baseline: everybody compared in full and every size of group
weighed, as planning was before (not at 100,000, where it takes long). `MB`: what the quote allocates at its peak,
beside the contributors themselves. `slower`: how much longer than the exhaustive choice the quoted plan takes at P50;
`dearer`: how much more the cheapest plan costs. The queue is `models.priority.rank`.
"""

from __future__ import annotations

import argparse
import gc
import json
import tracemalloc
from statistics import median
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np

from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.messages import Probe
from models import quote, shortlist
from models.facts import Candidate, JobFacts, Limits, ReferenceProfile, TrackRecord
from models.features import graph_features
from models.predictor import SHIPPED, Predictor
from models.priority import Account, Waiting, rank

GOALS = {1_000: 0.020, 10_000: 0.060, 100_000: 0.400}  # seconds
PROBES = {"matmul": 4e-4, "elementwise": 9e-4, "mlp_step": 2.5e-3}
CLASS = "cpu|one|torch"
PLACES, STEPS, BATCH = 64, 100_000, 32


def make_job() -> JobFacts:
    model = {"kind": "mlp", "hidden": [64, 32], "activation": "relu"}
    spec = TrainingSpec("classification", model, 64, 10, BATCH, 0.01, 0)
    probes = tuple(Probe(name=n, precision="fp32", seconds=s, spread=0.05) for n, s in PROBES.items())
    profile = ReferenceProfile(overhead=1e-2, per_sample=1e-4, device_class=CLASS, probes=probes)
    return JobFacts(features=graph_features(spec), samples=STEPS * BATCH, batch=BATCH, profile=profile, memory=2**28)


def make_field(count: int, rng: np.random.Generator) -> tuple[Candidate, ...]:
    speed, skew = np.exp(rng.normal(0, 0.6, count)), np.exp(rng.normal(0, 0.1, (count, len(PROBES))))
    ask, memory = rng.integers(100_000, 4_000_000, count), 2 ** rng.integers(27, 35, count)
    valid = rng.integers(0, 200, count)
    out = []
    for i in range(count):
        probes = tuple(
            Probe(name=n, precision="fp32", seconds=float(s * speed[i] * skew[i, k]), spread=0.05)
            for k, (n, s) in enumerate(PROBES.items())
        )
        record = TrackRecord(on_time=float(valid[i]), valid=float(valid[i]))
        out.append(
            Candidate(
                agent=f"a{i}",
                wallet=f"w{i}",
                device_class=CLASS,
                memory=int(memory[i]),
                probes=probes,
                ask=int(ask[i]),
                record=record,
            )
        )
    return tuple(out)


def timed(inputs: quote.QuoteInputs, predictor: Predictor, repeats: int) -> tuple[float, float, quote.Quote]:
    """(least and median CPU seconds, the quote). One run before, not timed."""
    found = quote.quote_job(inputs, predictor)
    gc.collect()
    gc.freeze()  # a full collection over the field's million objects would fall into a run by chance
    spent = []
    for _ in range(repeats):
        began = process_time()
        found = quote.quote_job(inputs, predictor)
        spent.append(process_time() - began)
    return min(spent), median(spent), found


def peak(inputs: quote.QuoteInputs, predictor: Predictor) -> int:
    tracemalloc.start()
    quote.quote_job(inputs, predictor)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def queue(count: int, rng: np.random.Generator, repeats: int) -> float:
    jobs = [
        Waiting(str(i), f"c{i % 50}", float(rng.random() * 3e3), 1e4 + float(rng.random() * 1e5)) for i in range(count)
    ]
    accounts = {f"c{i}": Account(usage=float(i)) for i in range(50)}
    spent = []
    for _ in range(repeats):
        began = process_time()
        rank(jobs, accounts, 4e3)
        spent.append(process_time() - began)
    return min(spent)


def run(seed: int, repeats: int) -> dict[str, Any]:
    rng, job, predictor = np.random.default_rng(seed), make_job(), Predictor.load(SHIPPED)
    limits = Limits(budget=10**15, deadline_seconds=1e9, fee_bps=250, max_contributors=PLACES)
    rows: list[dict[str, Any]] = []
    for count, goal in GOALS.items():
        inputs = quote.QuoteInputs(job=job, candidates=make_field(count, rng), limits=limits)
        seconds, middle, ours = timed(inputs, predictor, repeats)
        row: dict[str, Any] = {"contributors": count, "seconds": seconds, "goal": goal, "reached": seconds <= goal}
        row["median"] = middle
        row["memory"] = peak(inputs, predictor)
        if count <= 10_000:
            with patch.object(shortlist, "FULL", count), patch.object(quote, "FEW", PLACES):
                row["exhaustive"], _, theirs = timed(inputs, predictor, 1)
                cheap = inputs.model_copy(update={"goal": "cheapest"})
                cheapest = quote.quote_job(cheap, predictor).cost_p50
            row["slower"] = ours.seconds_p50 / theirs.seconds_p50 - 1
            row["dearer"] = quote.quote_job(cheap, predictor).cost_p50 / cheapest - 1
        rows.append(row)
    return {"benchmark": "planner_scale", "seed": seed, "plans": rows, "queue": queue(1_000, rng, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = run(given.seed, given.repeats)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"one quote, {PLACES} places, CPU ms on one thread, least of {given.repeats}, seed {given.seed}")
    heads = (
        ("ms", 8),
        ("median", 8),
        ("goal", 6),
        ("", 12),
        ("in full", 8),
        ("ratio", 6),
        ("slower", 7),
        ("dearer", 7),
    )
    print(f"{'contributors':>12} " + " ".join(f"{name:>{width}}" for name, width in heads) + "     MB")
    for row in found["plans"]:
        beside = " ".join(f"{'-':>{width}}" for _, width in heads[4:])
        if full := row.get("exhaustive"):
            losses = f"{row['slower']:+7.2%} {row['dearer']:+7.2%}"
            beside = f"{1e3 * full:8.0f} {full / row['seconds']:6.1f} {losses}"
        said = "reached" if row["reached"] else "not reached"
        times = f"{1e3 * row['seconds']:8.1f} {1e3 * row['median']:8.1f} {1e3 * row['goal']:6.0f}"
        print(f"{row['contributors']:12,} {times} {said:>12} {beside} {row['memory'] / 1e6:6.1f}")
    print(f"1,000 jobs in the queue ranked in {1e3 * found['queue']:.1f} ms")


if __name__ == "__main__":
    main()
