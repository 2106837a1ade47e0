"""How good are predictions and splits on devices, networks and slowdowns that nothing was learned from?

    python -m benchmarks.planning [--json]     about two minutes; everything is computed anew from the measurements

Predictions: mean absolute percentage error with GPU type and network family both left out, and by how much each method
lies below the rank-1 rule, with 95% paired bootstrap intervals over cells. Simulations: 60 contributors whose times are
measured step times of left-out cases times a hidden lognormal slowdown (sigma 0.3), 5% of whom vanish; the ratio is to
the bound, all work divided by the summed true speeds. Each gate is printed as reached or not.

A few settings were chosen on these same left-out cells (the least weight of a leaf, what counts as a kernel, segments
of five steps), so the figures flatter them a little. The gates judge the recipe in both precisions; what ships is
its fp32 half (rows "fp32"), without XGBoost where that does not beat its base with confidence.

Not judged: selection by a paid race (not built), devices on data kept apart (there is none here), CPUs and networks
other than torchvision's, and what is learned inside a job beyond the split (`models.correction`).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from models.base import BOTH, FP32_ONLY
from models.correction import Correction
from models.dataset import load_table
from models.facts import Prediction
from models.leave_out import METHODS, REFERENCE, TENSOR_CORES, Case, leave_out, mape, paired_gain
from models.plan import JobPlan, plan_round

SIGMA, VANISH, CONTRIBUTORS = 0.3, 0.05, 60


def table_of(cases: list[Case]) -> dict[str, Any]:
    """MAPE and gains of one setting."""
    rows = {}
    for method in METHODS:
        gain = paired_gain(cases, method, "rank-1")
        rows[method] = {"mape": 100 * mape(cases, method), "gain": [100 * g for g in gain]}
    over = paired_gain(cases, "xgboost", "base")
    cells = len({c.cell for c in cases})
    return {"cases": len(cases), "cells": cells, "methods": rows, "xgboost_over_base": [100 * g for g in over]}


# ---------------------------------------------------------------- the quote, before any segment ran


def quotes(cases: list[Case], method: str, seed: int = 0) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(quoted, true) log time of a job over 60 contributors, by job. The same draws for every method.

    Contributors are drawn from the hosts that the job was predicted for; the quote corrects for the mean of the known
    slowdown and nothing else.
    """
    by_job: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        by_job.setdefault(case.job, []).append(case)
    rng = np.random.default_rng(seed)
    out = {}
    for job, hosts in sorted(by_job.items()):
        picks = rng.integers(0, len(hosts), CONTRIBUTORS)
        slow = np.exp(rng.normal(0, SIGMA, CONTRIBUTORS))
        alive = rng.random(CONTRIBUTORS) >= VANISH
        truth = np.array([hosts[i].truth for i in picks])
        predicted = np.array([hosts[i].predicted[method] for i in picks])
        real = -np.log((alive / (np.exp(truth) * slow)).sum())
        quoted = -np.log((1 / np.exp(predicted)).sum() * np.exp(SIGMA**2 / 2) * (1 - VANISH))
        out[job] = (float(quoted), float(real))
    return out


def quote_table(cases: list[Case]) -> dict[str, Any]:
    """Quote errors, their paired difference over jobs' families, and coverage of an 80% interval on unseen families."""
    by_method = {m: quotes(cases, m) for m in ("rank-1", "xgboost")}
    family = {c.job: c.cell[1] for c in cases}
    families = sorted(set(family.values()))
    error = {m: {j: abs(np.exp(q - t) - 1) for j, (q, t) in jobs.items()} for m, jobs in by_method.items()}
    jobs = sorted(error["rank-1"])
    difference = np.array([error["xgboost"][j] - error["rank-1"][j] for j in jobs])
    rng = np.random.default_rng(0)
    draws = [difference[rng.integers(0, len(jobs), len(jobs))].mean() for _ in range(2_000)]
    inside = []
    for left in families:
        seen = np.sort([abs(q - t) for j, (q, t) in by_method["xgboost"].items() if family[j] != left])
        width = seen[min(len(seen), int(np.ceil(0.8 * (len(seen) + 1)))) - 1]
        inside += [abs(q - t) <= width for j, (q, t) in by_method["xgboost"].items() if family[j] == left]
    means = {m: 100 * float(np.mean(list(e.values()))) for m, e in error.items()}
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "error": means,
        "ratio": means["xgboost"] / means["rank-1"],
        "difference_points": [100 * float(difference.mean()), 100 * float(low), 100 * float(high)],
        "coverage_of_80": 100 * float(np.mean(inside)),
    }


# ---------------------------------------------------------------- the split, with no predictor at all


def rounds_over_bound(seconds: np.ndarray, vanish_at: np.ndarray, *, predicted: np.ndarray, rounds: int = 40) -> float:
    """Makespan of our rounds over the bound. `vanish_at`: the round in which a contributor leaves (0: never).

    Uses the product's own `plan_round` and `Correction`; a contributor works until it is done or the time-box is over,
    and whole segments count. `predicted` is what the first round is planned with.
    """
    n, steps = len(seconds), 50
    total = n * steps * rounds
    plan = JobPlan(
        total_steps=total,
        dropped_steps=0,
        batch=1,
        segment_steps=5,  # what plan_job chooses at 50 local steps
        local_steps=steps,
        rounds=rounds,
        price=1,
        seats=(),
        predictor="none",
        version="0",
    )
    beliefs = {}
    for i, guess in enumerate(predicted):
        prior = Prediction(agent=str(i), seconds=guess, low=guess / 1.6, high=guess * 1.6, base=guess, source="rank-1")
        beliefs[i] = Correction.start(prior)
    remaining, spent, number = total, 0.0, 0
    while remaining > 0:
        number += 1
        split = plan_round(plan, number, remaining, {i: b.prediction for i, b in beliefs.items()})
        took = 0.0
        for seat in split.seats:
            if vanish_at[seat.seat] == number:
                del beliefs[seat.seat]
                continue
            each = seconds[seat.seat] * seat.segment_steps
            done = min(seat.max_segments, int(split.time_box / each))
            took = max(took, min(split.time_box, seat.max_segments * each))
            if done:
                remaining -= done * seat.segment_steps
                beliefs[seat.seat] = beliefs[seat.seat].observe(done * each, done * seat.segment_steps, done)
            else:  # too slow for one segment: known to be at least that slow
                late = beliefs[seat.seat].observe(2 * split.time_box, seat.segment_steps, 1)
                beliefs[seat.seat] = late
        spent += took
    gone = vanish_at > 0
    # vanished contributors do no work in their last round: the bound counts them until then
    share = np.where(gone, (vanish_at - 1) / rounds, 1.0)
    return spent / (total / float((share / seconds).sum()))


def split_table(cases: list[Case], draws: int = 6) -> dict[str, Any]:
    """Mean ratio to the bound: equal split at once, split by rank-1 at once, and our rounds without any predictor."""
    by_job: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        by_job.setdefault(case.job, []).append(case)
    jobs = sorted(j for j, hosts in by_job.items() if len(hosts) >= 4)
    rng = np.random.default_rng(1)
    found: dict[str, list[float]] = {"equal": [], "by rank-1": [], "rounds, no predictor": []}
    for index in rng.choice(len(jobs), draws, replace=False):
        hosts = by_job[jobs[int(index)]]
        picks = rng.integers(0, len(hosts), CONTRIBUTORS)
        seconds = np.exp([hosts[i].truth for i in picks]) * np.exp(rng.normal(0, SIGMA, CONTRIBUTORS))
        guess = np.exp([hosts[i].predicted["rank-1"] for i in picks])
        bound = 1 / (1 / seconds).sum()
        found["equal"].append(float((seconds / CONTRIBUTORS).max() / bound))
        found["by rank-1"].append(float((seconds * (1 / guess) / (1 / guess).sum()).max() / bound))
        gone = np.where(rng.random(CONTRIBUTORS) < VANISH, rng.integers(1, 20, CONTRIBUTORS), 0)
        flat = np.full(CONTRIBUTORS, np.median(seconds))
        found["rounds, no predictor"].append(rounds_over_bound(seconds, gone, predicted=flat))
    return {name: float(np.mean(v)) for name, v in found.items()}


# ---------------------------------------------------------------- gates


def gates(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each gate with its figure; `reached` is None where nothing was built to judge."""

    def gain(setting: str) -> list[float]:
        return result[setting]["methods"]["xgboost"]["gain"]

    fixed, strict, pool_fixed, pool_strict = (gain(s) for s in ("fixed", "strict", "pooled fixed", "pooled strict"))
    worst = {
        s: min(t["methods"]["xgboost"]["gain"][0] for t in result[f"by reference {s}"].values())
        for s in ("fixed", "strict")
    }
    over_fixed, over_strict = result["fixed"]["xgboost_over_base"], result["strict"]["xgboost_over_base"]
    quote, split = result["quote"], result["split"]["rounds, no predictor"]
    error, cover = result["fixed"]["methods"]["xgboost"]["mape"], quote["coverage_of_80"]
    return [
        _gate("1 fixed: >= 15% below rank-1, interval above 0", fixed, fixed[0] >= 15 and fixed[1] > 0),
        _gate("1 strict: >= 10% below rank-1, interval above 0", strict, strict[0] >= 10 and strict[1] > 0),
        _gate("1 four references pooled: >= 15% on fixed", pool_fixed, pool_fixed[0] >= 15),
        _gate("1 four references pooled: >= 15% on strict", pool_strict, pool_strict[0] >= 15),
        _gate("1 no reference below 10%", list(worst.values()), min(worst.values()) >= 10),
        _gate("2 fixed: XGBoost at most 5% worse than its base", over_fixed, over_fixed[0] >= -5),
        _gate("2 strict: better than its base, interval above 0", over_strict, over_strict[1] > 0),
        # the left-out cells above chose the configuration too (see the docstring), so they cannot judge this one
        _gate("3 devices and hosts kept apart: not judged, no such data here", [*fixed, error], None),
        _gate(
            "4 quote error <= 0.9 x rank-1's, interval below 0",
            [quote["ratio"], *quote["difference_points"]],
            quote["ratio"] <= 0.9 and quote["difference_points"][2] < 0,
        ),
        _gate("4 80% interval covers 75-85% on unseen families", [cover], 75 <= cover <= 85),
        _gate("5 race, then select (not built)", [], None),
        _gate("6 rounds within 1.10 of the bound, no predictor", [split], split <= 1.10),
    ]


def _gate(name: str, figures: list[float], reached: bool | None) -> dict[str, Any]:
    return {
        "gate": name,
        "figures": [round(f, 2) for f in figures],
        "reached": None if reached is None else bool(reached),
    }


def run() -> dict[str, Any]:
    """Everything, as plain JSON."""
    table = load_table()
    result: dict[str, Any] = {}
    for name, strict in (("fixed", False), ("strict", True)):
        cases = leave_out(table, TENSOR_CORES, BOTH, strict=strict)
        own = [c for c in cases if c.job[0] == REFERENCE]
        result[name] = table_of(own)
        result[f"pooled {name}"] = table_of(cases)
        result[f"by reference {name}"] = {
            host: table_of([c for c in cases if c.job[0] == host]) for host in TENSOR_CORES
        }
        result[f"fp32 {name}"] = table_of(leave_out(table, (REFERENCE,), FP32_ONLY, strict=strict))
        result[f"no tensor cores {name}"] = table_of(leave_out(table, ("TITANXP",), FP32_ONLY, strict=strict))
        if not strict:
            result["quote"] = quote_table(own)
            result["split"] = split_table(own)
    result["gates"] = gates(result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Planning benchmark")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = run()
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print("MAPE in %, and how far below rank-1 (95% interval), GPU type and family both left out")
    for setting in [k for k, v in result.items() if isinstance(v, dict) and "methods" in v]:
        table = result[setting]
        print(f"\n{setting}: {table['cases']} cases, {table['cells']} cells")
        for method, row in table["methods"].items():
            gain, low, high = row["gain"]
            print(f"  {method:10s} {row['mape']:5.1f}   {gain:5.1f} [{low:.1f}, {high:.1f}]")
        gain, low, high = table["xgboost_over_base"]
        print(f"  xgboost over its base {gain:.1f} [{low:.1f}, {high:.1f}]")
    print("\nquote before any segment:", json.dumps(result["quote"]))
    print("makespan over the bound:", json.dumps(result["split"]))
    print()
    for gate in result["gates"]:
        word = {True: "reached", False: "NOT reached", None: "not judged"}[gate["reached"]]
        print(f"{word:12s} {gate['gate']}: {gate['figures']}")


if __name__ == "__main__":
    main()
