"""How near do plans come to what a clairvoyant planner would do: time, machine time, deadlines, and money?

    python -m benchmarks.plans [--json] [--jobs 200] [--only small large choice units cost asks] [--seed 1]

Fields are `benchmarks.fields`': measured step times of GPUs and networks that the predictor never saw, times a hidden
slowdown of sigma 0, 0.3 and 0.5; 5% vanish; 5 s of dispatch a round; a shard's time jitters by 5%.

small, large: a synchronous job of ten rounds on 8 of 60, and on 64 of 5,000. `time` is over the clairvoyant bound: all
steps over the summed true speed of the fastest of the whole field that stay, and ten dispatches. `own` is over the same
bound for those that had a seat (racers included): what planning loses beside the choice. `machines` is machine seconds
of paid steps over those of the clairvoyant choice. `on time`: done within 1.25 times the bound. `error`: the median
estimate after the first round against what the rest took. Baselines work in the same ten rounds with the same
vanishing, each round waiting for its slowest, parts fixed by what is known before: equal parts on contributors drawn by
lot, parts by the datasheet's FP32, parts by rank-1. Ours runs through the product's plan, pilot, race, rounds and
corrections: with no predictor (all are taken to be alike), with rank-1, with XGBoost on the base; without a race, with
two for a place, and as the product races.

choice: of 64 of 5,000, the bound when the fastest of only the first so many by rank-1 are taken: what could be had by
trying so many and no more.
units: independent trainings, all of a field working, through the product's waves: `benchmarks.plan_search`.
cost: the product's quote for the least money at a deadline twice as long as its fastest plan, against an equal split
over all 60. Ours pays everybody the highest ask of the chosen, the split each its own ask (beside it: the highest).
asks: what asks would become under one price and under each its own (`benchmarks.plan_cost`).
Intervals are 95%: bootstrap over jobs, Wilson for shares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from math import exp, inf
from typing import Any

import numpy as np

from benchmarks.fields import (
    ROUNDS,
    Field,
    draw_field,
    log_error,
    machines,
    make_plan,
    shuffled,
    summary,
    wilson,
)
from benchmarks.plan_cost import asks_table, cost_table
from benchmarks.plan_search import BELL, CASES, search_table
from models.simulator import Outcome, World, simulate

SIGMAS = (0.0, 0.3, 0.5)
WORLD = World(dispatch=5.0, jitter=0.05)
DEADLINE = 1.25  # times the bound
TRIED = (1, 2, 3, 4, 8, 16, 32)  # for a place
GOALS = {"ten rounds": 1.10, "on time": 0.95, "machines": 1.25, "error": 0.03, "cost": 0.45}
UNIT_GOALS = (1.05, 1.10, 1.08)  # mean, P95, mean with vanishing
RACES: tuple[tuple[str, Callable[[int], int | None]], ...] = (
    ("no race", lambda places: 0),
    ("two a place", lambda places: places),
    ("race", lambda places: None),
)
PREDICTORS = {"none": "none", "rank-1": "rank-1", "predictor": "xgboost"}
OURS = "rank-1, race"


def fixed_parts(field: Field, who: np.ndarray, parts: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """(seconds, machine seconds) of ten rounds in which each does its part of what the round has, come what may.

    What a vanished contributor had in hand is lost, and is done in later rounds by those who are left.
    """
    left, now, busy, weight = float(field.steps), 0.0, 0.0, dict(zip(who.tolist(), parts.tolist(), strict=True))
    size = field.steps / ROUNDS
    while left > 1e-6:
        weight = {i: w for i, w in weight.items() if field.until[i] > now}
        if not weight:
            return inf, busy
        took, round_ = 0.0, min(left, size)
        for i in list(weight):
            mine = round_ * weight[i] / sum(weight.values())
            seconds = mine * float(field.true[i]) * exp(rng.normal(0, WORLD.jitter))
            if field.until[i] < now + seconds:
                took = max(took, float(field.until[i]) - now)
                continue
            took, left, busy = max(took, seconds), left - mine, busy + seconds
        now += took + WORLD.dispatch
    return now, busy


def row(
    field: Field, seconds: float, busy: float, seats: list[int] | None, outcome: Outcome | None
) -> dict[str, float]:
    bound = field.bound(field.best, WORLD.dispatch)
    least = field.places * (bound - ROUNDS * WORLD.dispatch)  # of machine seconds: what the clairvoyant choice works
    found = {"time": seconds / bound, "machines": busy / least, "kept": float(seconds <= DEADLINE * bound)}
    if seats is not None:
        stay = [i for i in seats if field.until[i] == inf]
        best = sorted(stay, key=lambda i: field.true[i])[: field.places]
        found["own"] = seconds / field.bound(best, WORLD.dispatch) if best else inf
    if outcome is not None and outcome.told and np.isfinite(seconds):
        told = outcome.told[0]
        if (rest := outcome.seconds - told.at) > 0:
            found["error"] = log_error(told.estimate.quantile(0.5), rest)
    return found


def one_job(rng: np.random.Generator, sigma: float, size: int, places: int) -> dict[str, dict[str, float]]:
    """Every strategy on one field."""
    field = shuffled(draw_field(rng, sigma, size=size, places=places), rng)
    found: dict[str, dict[str, float]] = {}
    lot = np.arange(places)
    by = {name: np.argsort(field.guess[name], kind="stable")[:places] for name in ("fp32", "rank-1")}
    for name, who, parts in (
        ("equal parts, by lot", lot, np.ones(places)),
        ("by FP32", by["fp32"], 1 / field.guess["fp32"][by["fp32"]]),
        ("by rank-1", by["rank-1"], 1 / field.guess["rank-1"][by["rank-1"]]),
    ):
        seconds, busy = fixed_parts(field, who, parts, rng)
        found[name] = row(field, seconds, busy, who.tolist(), None)
    for name, predictor in PREDICTORS.items():
        for race, racers in RACES:
            plan = make_plan(field, field.guess[predictor], racers=racers(places))
            done = simulate(plan, machines(field, plan), rng, WORLD)
            seats = [int(s.agent) for s in plan.everybody]
            found[f"{name}, {race}"] = row(field, done.seconds, done.busy, seats, done)
            found[f"{name}, {race}"]["readers"] = float(len(seats))
    return found


def rounds_table(jobs: int, seed: int, size: int, places: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for sigma in SIGMAS:
        rng = np.random.default_rng(seed)
        rows = [one_job(rng, sigma, size, places) for _ in range(jobs)]
        table: dict[str, Any] = {}
        for name in rows[0]:
            here = [r[name] for r in rows]
            kept = int(sum(r["kept"] for r in here))
            table[name] = {"time": summary([r["time"] for r in here], seed), "own": summary([r["own"] for r in here])}
            table[name] |= {"machines": summary([r["machines"] for r in here], seed)}
            table[name] |= {"on time": kept / jobs, "on time interval": wilson(kept, jobs)}
            for extra in ("error", "readers"):
                if values := [r[extra] for r in here if extra in r]:
                    table[name][extra] = summary(values, seed)
        result[f"{sigma:g}"] = table
    return result


def choice_table(jobs: int, seed: int, size: int, places: int) -> dict[str, Any]:
    """The bound for the fastest of the first so many by rank-1 over that for the fastest of all."""
    result: dict[str, Any] = {}
    for sigma in SIGMAS:
        rng = np.random.default_rng(seed)
        found: dict[str, list[float]] = {}
        for _ in range(jobs):
            field = draw_field(rng, sigma, size=size, places=places)
            bound = field.bound(field.best, WORLD.dispatch)
            order = [i for i in np.argsort(field.guess["rank-1"], kind="stable") if field.until[i] == inf]
            for many in TRIED:
                best = sorted(order[: many * places], key=lambda i: field.true[i])[:places]
                found.setdefault(f"{many} a place, {many * places} in all", []).append(
                    field.bound(best, WORLD.dispatch) / bound
                )
        result[f"{sigma:g}"] = {name: summary(values, seed) for name, values in found.items()}
    return result


# ---------------------------------------------------------------- printing


def goals(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each goal with its figure and whether it holds, at sigma 0.3 where nothing else is said."""
    out: dict[str, dict[str, Any]] = {}

    def say(name: str, figure: float, goal: float, holds: bool) -> None:
        out[name] = {"figure": figure, "goal": goal, "holds": holds}

    for part in ("small", "large"):
        if part in found:
            ours = found[part]["0.3"][OURS]
            for column in ("time", "own"):
                mean = ours[column]["mean"]
                say(f"{part}: ten rounds, {column}", mean, GOALS["ten rounds"], mean <= GOALS["ten rounds"])
            say(f"{part}: on time", ours["on time"], GOALS["on time"], ours["on time"] >= GOALS["on time"])
            mean = ours["machines"]["mean"]
            say(f"{part}: machine time", mean, GOALS["machines"], mean <= GOALS["machines"])
            mean = ours["error"]["mean"]
            say(f"{part}: error of the estimate after the race", mean, GOALS["error"], mean <= GOALS["error"])
    if "units" in found:
        mean, p95, vanish = UNIT_GOALS
        for case in CASES:
            calm, storm = (found["units"][f"{case.title}, sigma 0.3, {v} vanish"][BELL] for v in ("0%", "5%"))
            say(f"{case.title}: mean", calm["mean"], mean, calm["mean"] <= mean)
            say(f"{case.title}: P95", calm["p95"], p95, calm["p95"] <= p95)
            say(f"{case.title}: 5% vanish, mean", storm["mean"], vanish, storm["mean"] <= vanish)
    if "cost" in found:
        ratio = found["cost"]["0.3"]["to own asks"]["mean"]
        say("cost at twice the fastest", ratio, GOALS["cost"], ratio <= GOALS["cost"])
    return out


def _text(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    more = f" ({one['unfinished']} unfinished)" if one["unfinished"] else ""
    return f"{one['mean']:6.2f} [{low:.2f}, {high:.2f}] P95 {one['p95']:5.2f}{more}"


def show(found: dict[str, Any]) -> None:
    for part, title in (("small", "8 of 60"), ("large", "64 of 5,000")):
        for sigma, rows in found.get(part, {}).items():
            print(f"\n{title}, ten rounds, sigma {sigma}")
            print(f"{'':24}{'time':>28}{'own':>28}{'machines':>11}{'on time':>9}{'error':>8}{'seats':>7}")
            for name, r in rows.items():
                error = f"{r['error']['mean']:8.1%}" if "error" in r else " " * 8
                seats = f"{r['readers']['mean']:7.1f}" if "readers" in r else ""
                figures = f"{r['machines']['mean']:11.2f}{r['on time']:9.1%}{error}{seats}"
                print(f"{name:24}{_text(r['time']):>28}{_text(r['own']):>28}{figures}")
    for sigma, rows in found.get("choice", {}).items():
        print(f"\n64 of 5,000, the fastest of the first by rank-1, sigma {sigma}")
        for name, one in rows.items():
            print(f"  {name:26}{_text(one)}")
    for title, rows in found.get("units", {}).items():
        print(f"\nindependent trainings, {title}")
        for name, one in rows.items():
            print(f"  {name:30}{_text(one)}" + (f"  {one['waves']:.1f} waves" if "waves" in one else ""))
    for sigma, rows in found.get("cost", {}).items():
        print(f"\ncost at a deadline twice the fastest, sigma {sigma}")
        for name, one in rows.items():
            print(f"  {name:38}{_text(one)}")
    if "asks" in found:
        print("\ncost by the rule of pay, half of the speed needed, sigma 0.3")
        for name, one in found["asks"].items():
            print(f"  {name:38}{_text(one)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["small", "large", "choice", "units", "cost", "asks"])
    given = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "small": lambda: rounds_table(given.jobs, given.seed, 60, 8),
        "large": lambda: rounds_table(max(1, given.jobs // 4), given.seed, 5_000, 64),
        "choice": lambda: choice_table(max(1, given.jobs // 4), given.seed, 5_000, 64),
        "units": lambda: search_table(given.jobs, given.seed, SIGMAS[1:]),
        "cost": lambda: cost_table(given.jobs, given.seed, SIGMAS),
        "asks": lambda: asks_table(given.jobs, given.seed, 0.3),
    }
    found: dict[str, Any] = {name: make() for name, make in parts.items() if name in given.only}
    reached = goals(found)
    if given.json:
        print(json.dumps({"seed": given.seed, "jobs": given.jobs, "goals": reached} | found, indent=1))
        return
    print(f"{given.jobs} jobs ({max(1, given.jobs // 4)} large ones), seed {given.seed}")
    show(found)
    print("\ngoals, sigma 0.3")
    for name, one in reached.items():
        print(f"  {name:48}{one['figure']:7.3f}  goal {one['goal']:g}: {'holds' if one['holds'] else 'does not hold'}")


if __name__ == "__main__":
    main()
