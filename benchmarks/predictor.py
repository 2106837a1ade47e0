"""How good are predictions for GPUs and networks that nothing was learned from, and does XGBoost earn its place?

    python -m benchmarks.predictor [--data DIR] [--seed 0] [--json]     minutes; everything is learned anew

Mean absolute percentage error of seconds per step with GPU type and network family both left out, and by how much each
method lies below the mandatory baseline (rank-1: time on the reference x geometric mean of the probe ratios), with 95%
paired bootstrap intervals over cells (GPU type and family). *Fixed*: three probe networks for everybody. *Strict*: a
probe of the left-out family is gone too. "both" trains and judges in fp16 and fp32, "fp32" is the half that ships:
jobs run in fp32. Then the quote before any segment ran: 60 contributors, hidden lognormal slowdown (sigma 0.3), 5%
vanish. The gates are printed as reached or not.

`--data DIR`: another folder of the layout that `models.data.prepare` reads (DIR/results/<host>/*.csv), as devices kept
apart: nothing is learned from its hosts nor from a GPU type among them, the reference hosts stay ours, and gate 3 is
judged on it. Its networks that no host of ours timed are counted and left out.

A few settings (the least weight of a leaf, what counts as a kernel) were chosen on the left-out cells of the published
data, so figures on these flatter a little; a folder kept apart does not. Not judged: CPUs (`ops model show` has the
shipped CPU expert's figures), networks other than torchvision's, and what is learned inside a job (`correction`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.base import BOTH, FP32_ONLY, Array
from models.data.prepare import GRAPHS, TIMES, read_times
from models.dataset import Table, load_table, make_table
from models.leave_out import METHODS, REFERENCE, TENSOR_CORES, Bases, Case, leave_out, mape, paired_gain

SIGMA, VANISH, CONTRIBUTORS = 0.3, 0.05, 60
QUOTES = 40  # simulated jobs for each measured one: the draws' own noise would hide the difference of two predictors
NO_TENSOR_CORES = "TITANXP"

JobKey = tuple[str, str, str]


# ---------------------------------------------------------------- tables


def table_of(cases: list[Case], seed: int) -> dict[str, Any]:
    """MAPE in % and gains over rank-1 in % (with interval) of one setting."""
    rows = {}
    for method in METHODS:
        gain = paired_gain(cases, method, "rank-1", seed=seed)
        rows[method] = {"mape": 100 * mape(cases, method), "gain": [100 * g for g in gain]}
    over = paired_gain(cases, "xgboost", "base", seed=seed)
    cells = len({c.cell for c in cases})
    return {"cases": len(cases), "cells": cells, "methods": rows, "xgboost_over_base": [100 * g for g in over]}


def kept_apart(folder: Path) -> tuple[Table, list[str], dict[str, int]]:
    """(our table and the folder's together, the folder's hosts, what was left out and how often).

    Raises ValueError when the folder has no host that timed every probe network in both precisions.
    """
    times, own, graphs = read_times(folder), pd.read_csv(TIMES), pd.read_csv(GRAPHS)
    times["host"] = "apart/" + times["host"].astype(str)
    table = make_table(pd.concat([own, times], ignore_index=True), graphs)
    hosts = [h for h in table.gpu if h.startswith("apart/")]
    if not hosts:
        raise ValueError(f"no host in {folder} timed every probe network in fp16 and fp32")
    timed_here = set(own["network"])
    return (
        table,
        hosts,
        {
            "hosts without the probes in both precisions": len(set(times["host"])) - len(hosts),
            "networks that no host of ours timed": len(set(times["network"]) - timed_here),
        },
    )


# ---------------------------------------------------------------- the quote, before any segment ran


def quotes(cases: list[Case], methods: tuple[str, ...], seed: int) -> tuple[list[JobKey], dict[str, Array], Array]:
    """(jobs, quoted log time by method, true log time), times of shape (jobs, QUOTES), over 60 contributors.

    Contributors are drawn from the hosts that the job was predicted for, the same draws for every method; the quote
    corrects for the mean of the known slowdown and nothing else.
    """
    by_job: dict[JobKey, list[Case]] = {}
    for case in cases:
        by_job.setdefault(case.job, []).append(case)
    rng = np.random.default_rng(seed)
    shape = (QUOTES, CONTRIBUTORS)
    real: list[Array] = []
    quoted: dict[str, list[Array]] = {m: [] for m in methods}
    for job in sorted(by_job):
        hosts = by_job[job]
        picks = rng.integers(0, len(hosts), shape)
        slow, alive = np.exp(rng.normal(0, SIGMA, shape)), rng.random(shape) >= VANISH
        truth = np.exp([c.truth for c in hosts])[picks]
        real.append(-np.log((alive / (truth * slow)).sum(axis=1)))
        for method in methods:
            predicted = np.exp([c.predicted[method] for c in hosts])[picks]
            quoted[method].append(-np.log((1 / predicted).sum(axis=1) * np.exp(SIGMA**2 / 2) * (1 - VANISH)))
    return sorted(by_job), {m: np.array(v) for m, v in quoted.items()}, np.array(real)


def quote_table(cases: list[Case], seed: int) -> dict[str, Any]:
    """Quote errors, their paired difference (bootstrap over jobs), coverage of an 80% interval on unseen families."""
    jobs, quoted, real = quotes(cases, ("rank-1", "xgboost"), seed)
    family = np.array([{c.job: c.cell[1] for c in cases}[job] for job in jobs])
    error = {m: np.abs(np.exp(q - real) - 1).mean(axis=1) for m, q in quoted.items()}
    difference = error["xgboost"] - error["rank-1"]
    picks = np.random.default_rng(seed).integers(0, len(jobs), (2_000, len(jobs)))
    low, high = np.quantile(difference[picks].mean(axis=1), [0.025, 0.975])
    score = np.abs(quoted["xgboost"] - real)
    inside: list[float] = []
    for left in sorted(set(family)):
        seen = np.sort(score[family != left].ravel())
        width = seen[min(len(seen), int(np.ceil(0.8 * (len(seen) + 1)))) - 1]
        inside += list((score[family == left] <= width).ravel())
    means = {m: 100 * float(e.mean()) for m, e in error.items()}
    return {
        "jobs": len(jobs),
        "simulated": int(real.size),
        "error": means,
        "ratio": means["xgboost"] / means["rank-1"],
        "difference_points": [100 * float(difference.mean()), 100 * float(low), 100 * float(high)],
        "coverage_of_80": 100 * float(np.mean(inside)),
    }


# ---------------------------------------------------------------- gates


def gates(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Gates 1, 2 and 4 of the planning page, each with its figures."""

    def gain(setting: str) -> list[float]:
        return result[setting]["methods"]["xgboost"]["gain"]

    fixed, strict, pool_fixed, pool_strict = (gain(s) for s in ("fixed", "strict", "pooled fixed", "pooled strict"))
    worst = [
        min(t["methods"]["xgboost"]["gain"][0] for t in result[f"by reference {s}"].values())
        for s in ("fixed", "strict")
    ]
    over_fixed, over_strict = result["fixed"]["xgboost_over_base"], result["strict"]["xgboost_over_base"]
    quote = result["quote"]
    cover, difference = quote["coverage_of_80"], quote["difference_points"]
    return [
        _gate("1 fixed: >= 15% below rank-1, interval above 0", fixed, fixed[0] >= 15 and fixed[1] > 0),
        _gate("1 strict: >= 10% below rank-1, interval above 0", strict, strict[0] >= 10 and strict[1] > 0),
        _gate("1 four references pooled: >= 15% on fixed", pool_fixed, pool_fixed[0] >= 15),
        _gate("1 four references pooled: >= 15% on strict", pool_strict, pool_strict[0] >= 15),
        _gate("1 no reference below 10%", worst, min(worst) >= 10),
        _gate("2 fixed: XGBoost at most 5% worse than its base", over_fixed, over_fixed[0] >= -5),
        _gate("2 strict: better than its base, interval above 0", over_strict, over_strict[1] > 0),
        _gate(
            "4 quote error <= 0.9 x rank-1's, interval below 0",
            [quote["ratio"], *difference],
            quote["ratio"] <= 0.9 and difference[2] < 0,
        ),
        _gate("4 80% interval covers 75-85% on unseen families", [cover], 75 <= cover <= 85),
    ]


def gate_apart(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Gate 3, on a folder kept apart; the published data chose settings and cannot judge it."""
    if "fixed" not in result:
        return [_gate("3 devices and hosts kept apart: no --data folder was given", [], None)]
    fixed, strict = (result[s]["methods"]["xgboost"] for s in ("fixed", "strict"))
    return [
        _gate(
            "3 kept apart, fixed: >= 25% below rank-1, MAPE <= 15%",
            [*fixed["gain"], fixed["mape"]],
            fixed["gain"][0] >= 25 and fixed["mape"] <= 15,
        ),
        _gate("3 kept apart, strict: >= 10% below rank-1", strict["gain"], strict["gain"][0] >= 10),
    ]


def _gate(name: str, figures: list[float], reached: bool | None) -> dict[str, Any]:
    return {
        "gate": name,
        "figures": [round(f, 2) for f in figures],
        "reached": None if reached is None else bool(reached),
    }


# ---------------------------------------------------------------- all of it


def measure(bases: Bases, seed: int, targets: list[str] | None = None) -> dict[str, Any]:
    """The tables for one set of target hosts (None: our own, each GPU type left out in its turn)."""
    result: dict[str, Any] = {}
    for name, strict in (("fixed", False), ("strict", True)):
        cases = leave_out(bases, TENSOR_CORES, BOTH, strict=strict, targets=targets)
        own = [c for c in cases if c.job[0] == REFERENCE]
        if not own:
            raise ValueError("no network of the folder was timed on our reference host")
        result[name] = table_of(own, seed)
        result[f"pooled {name}"] = table_of(cases, seed)
        result[f"by reference {name}"] = {
            host: table_of([c for c in cases if c.job[0] == host], seed)
            for host in TENSOR_CORES
            if any(c.job[0] == host for c in cases)
        }
        halves = leave_out(bases, (REFERENCE, NO_TENSOR_CORES), FP32_ONLY, strict=strict, targets=targets)
        for label, host in (("fp32", REFERENCE), ("no tensor cores", NO_TENSOR_CORES)):
            if picked := [c for c in halves if c.job[0] == host]:
                result[f"{label} {name}"] = table_of(picked, seed)
        if not strict:
            result["quote"] = quote_table(own, seed)
    return result


def run(folder: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """Everything, as plain JSON. Raises ValueError for a folder that cannot be judged."""
    if folder is None:
        result: dict[str, Any] = {"data": "published", "seed": seed, **measure(Bases(load_table()), seed)}
        return result | {"gates": [*gates(result), *gate_apart({})]}
    table, hosts, left = kept_apart(folder)
    result = {"data": "kept apart", "seed": seed, "hosts": hosts, "left out": left}
    result |= measure(Bases(table), seed, hosts)
    return result | {"gates": [*gates(result), *gate_apart(result)]}


def show(result: dict[str, Any]) -> None:
    """The tables for a person."""
    print(f"data: {result['data']}, seed {result['seed']}")
    if "hosts" in result:
        print(f"{len(result['hosts'])} hosts kept apart; left out: {json.dumps(result['left out'])}")
    print("MAPE in %, and % below rank-1 (95% interval), GPU type and family both left out")
    for setting in [k for k, v in result.items() if isinstance(v, dict) and "methods" in v]:
        table = result[setting]
        print(f"\n{setting}: {table['cases']} cases, {table['cells']} cells")
        for method, row in table["methods"].items():
            gain, low, high = row["gain"]
            print(f"  {method:10s} {row['mape']:5.1f}   {gain:5.1f} [{low:.1f}, {high:.1f}]")
        gain, low, high = table["xgboost_over_base"]
        print(f"  xgboost over its base {gain:.1f} [{low:.1f}, {high:.1f}]")
    quote = result["quote"]
    print(f"\nquote before any segment, {quote['jobs']} jobs, {quote['simulated']} simulated, sigma {SIGMA}")
    print(f"  error: rank-1 {quote['error']['rank-1']:.1f}%, xgboost {quote['error']['xgboost']:.1f}%", end="")
    print(f", ratio {quote['ratio']:.2f}; 80% interval covers {quote['coverage_of_80']:.1f}% on unseen families\n")
    for gate in result["gates"]:
        word = {True: "reached", False: "NOT reached", None: "not judged"}[gate["reached"]]
        print(f"{word:12s} {gate['gate']}: {gate['figures']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Predictor benchmark")
    parser.add_argument("--data", type=Path, help="a folder of devices kept apart, DIR/results/<host>/*.csv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        result = run(arguments.data, arguments.seed)
    except ValueError as error:
        parser.error(str(error))
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
