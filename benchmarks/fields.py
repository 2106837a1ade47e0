"""What the planning benchmarks plan over: fields of simulated contributors whose times are real measurements.

A field has one job (a network of `models/data`) and contributors that are drawn from the hosts it was timed on: true
seconds a step are the measured ones times a hidden lognormal slowdown of sigma, predictions come from models that never
saw the host's GPU type or the network's family (`models.leave_out`). A share of them vanishes at a random moment of
the job. Everything is scaled so that the fastest `places` of the field need `SECONDS` for the job's steps. Asks an hour
follow the datasheet's FP32 figure times a lognormal factor (sigma 0.4): an assumption, no market was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log

import numpy as np
from numpy.typing import NDArray

from models.base import FP32_ONLY
from models.dataset import load_table
from models.facts import Candidate, JobFacts, Prediction
from models.leave_out import REFERENCE, Bases, Case, leave_out
from models.plan import JobPlan, plan_job
from models.selection import Ranked
from models.shortlist import FULL
from models.simulator import Machine

VANISH, SECONDS, STEPS_A_PLACE, ROUNDS = 0.05, 600.0, 500, 10
WIDTH = 1.6  # fold, of predictions' intervals: rank-1's without a model (`Predictor.rank1`)
PRICE_SIGMA = 0.4
# NVIDIA's datasheets, TFLOPS in FP32
FP32 = {
    "GTX 1080 Ti": 11.3,
    "TITAN Xp": 12.15,
    "TITAN V": 14.9,
    "TITAN RTX": 16.3,
    "RTX 2080 Ti": 13.45,
    "RTX 2060 Max-Q": 4.55,
}
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """`true` seconds a step, `guess` by predictor, `until` when one vanishes, `ask` an hour; by contributor."""

    true: Array
    guess: dict[str, Array]
    until: Array
    ask: NDArray[np.int64]
    places: int

    @property
    def steps(self) -> int:
        return STEPS_A_PLACE * self.places

    @property
    def best(self) -> NDArray[np.int64]:
        """The fastest of those that stay, as many as there are places: whom a clairvoyant would take."""
        stay = np.flatnonzero(np.isinf(self.until))
        return stay[np.argsort(self.true[stay], kind="stable")[: self.places]]

    def bound(self, who: Sequence[int] | NDArray[np.int64], dispatch: float) -> float:
        """Seconds in which `who` could do the job at the least: all steps over their summed speed, ten dispatches."""
        return self.steps / float((1 / self.true[np.asarray(who)]).sum()) + ROUNDS * dispatch


@cache
def cases_by_job() -> list[list[Case]]:
    """The left-out cases of each job that at least four hosts were timed on."""
    grouped: dict[tuple[str, str, str], list[Case]] = {}
    for case in leave_out(Bases(load_table()), (REFERENCE,), FP32_ONLY, strict=False):
        grouped.setdefault(case.job, []).append(case)
    return [hosts for _, hosts in sorted(grouped.items()) if len(hosts) >= 4]


def draw_field(rng: np.random.Generator, sigma: float, *, size: int, places: int, vanish: float = VANISH) -> Field:
    jobs, gpu = cases_by_job(), load_table().gpu
    hosts = jobs[int(rng.integers(len(jobs)))]
    picks = rng.integers(0, len(hosts), size)
    true = np.exp([hosts[i].truth for i in picks]) * np.exp(rng.normal(0, sigma, size))
    scale = SECONDS / (STEPS_A_PLACE * places / float((1 / np.sort(true)[:places]).sum()))
    flops = np.array([FP32[gpu[hosts[i].host]] for i in picks])
    guess = {m: scale * np.exp([hosts[i].predicted[m] for i in picks]) for m in ("rank-1", "xgboost")}
    middle = float(np.median(guess["rank-1"]))
    guess |= {"none": np.full(size, middle), "fp32": middle * np.median(flops) / flops}
    until = np.where(rng.random(size) < vanish, rng.random(size) * SECONDS, np.inf)
    ask = np.rint(1e5 * flops * np.exp(rng.normal(0, PRICE_SIGMA, size))).astype(np.int64)
    return Field(true * scale, guess, until, ask, places)


def entry(number: int, seconds: float) -> Ranked:
    prediction = Prediction(
        agent=str(number), seconds=seconds, low=seconds / WIDTH, high=seconds * WIDTH, base=seconds, source="rank-1"
    )
    return Ranked(Candidate(agent=str(number), wallet=str(number), device_class="c", ask=1), prediction, 1, 1.0)


def facts(steps: int) -> JobFacts:
    profile = {"overhead": 0.0, "per_sample": 1.0}
    return JobFacts.model_validate({"features": {}, "samples": steps, "batch": 1, "profile": profile})


def make_plan(field: Field, guess: Array, *, racers: int | None, rounds: int = ROUNDS) -> JobPlan:
    """The product's plan for the best by `guess`, for about `rounds` rounds. `racers`: at most so many more may race;
    None: as many as the shortlist holds."""
    order = np.argsort(guess, kind="stable")
    more = FULL - field.places if racers is None else racers
    field_of = [entry(int(i), float(guess[i])) for i in order[: field.places + more]]
    chosen, spare = field_of[: field.places], field_of[field.places :]
    plan = plan_job(facts(field.steps), chosen, predictor="p", version="0", spare=spare)
    return plan.model_copy(update={"local_steps": field.steps // (rounds * field.places)})


def machines(field: Field, plan: JobPlan) -> list[Machine]:
    return [Machine(float(field.true[int(s.agent)]), float(field.until[int(s.agent)])) for s in plan.everybody]


def shuffled(field: Field, rng: np.random.Generator) -> Field:
    """In another order, for choices that know nothing of speed."""
    order = rng.permutation(len(field.true))
    return replace(
        field,
        true=field.true[order],
        until=field.until[order],
        ask=field.ask[order],
        guess={name: values[order] for name, values in field.guess.items()},
    )


# ---------------------------------------------------------------- statistics


def summary(values: Sequence[float], seed: int = 0) -> dict[str, object]:
    """Mean, its 95% bootstrap interval over jobs, and P95. Infinite values (jobs nobody could finish) are counted."""
    found = np.asarray(values, float)
    finite = found[np.isfinite(found)]
    again = np.random.default_rng(seed).integers(0, len(finite), (1_000, len(finite)))
    low, high = np.quantile(finite[again].mean(1), (0.025, 0.975))
    return {
        "mean": float(finite.mean()),
        "interval": [float(low), float(high)],
        "p95": float(np.quantile(finite, 0.95)),
        "unfinished": len(found) - len(finite),
    }


def wilson(kept: int, of: int) -> list[float]:
    """95% interval of a share."""
    z, share = 1.96, kept / of
    middle, half = share + z * z / (2 * of), z * np.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return [float((middle - half) / (1 + z * z / of)), float((middle + half) / (1 + z * z / of))]


def log_error(told: float, took: float) -> float:
    """Absolute relative error, symmetric in the logarithm."""
    return abs(log(told / took))
