"""What the least money costs at a deadline twice the fastest, against an equal split: a part of `benchmarks.plans`.

The product's own quote chooses (`models.quote.quote_job`, goal "deadline"), with the left-out predictions of XGBoost on
the base in the place of the shipped model, which has seen these GPUs. Costs are of the steps, at what they truly take:
the quote's price a step for ours; for the split, each contributor its ask an hour for the time it works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.fields import Field, draw_field, facts, summary
from cloudlinkup.errors import BadInput
from models.facts import Candidate, JobFacts, Limits, Prediction
from models.predictor import GROUPS, Predictor
from models.quote import QuoteInputs, quote_job

FIELD, MOST, FAR = 60, 60, 1e9


@dataclass(frozen=True)
class LeftOut(Predictor):
    """Predictions that were made without the devices and networks they are for, by contributor."""

    seconds: dict[str, float] = field(default_factory=dict)

    def predict(self, job: JobFacts, candidates: Sequence[Candidate]) -> list[Prediction]:
        width = float(np.exp(self.half_width("rank-1", len(candidates))))
        found = [(c.agent, self.seconds[c.agent]) for c in candidates]
        return [
            Prediction(agent=a, seconds=s, low=s / width, high=s * width, base=s, source="rank-1") for a, s in found
        ]


def predictor(field: Field, method: str) -> LeftOut:
    widths = {g: float(np.log(1.6)) for g in GROUPS}
    seconds = {str(i): float(s) for i, s in enumerate(field.guess[method])}
    return LeftOut("left-out", "0", None, (), {"rank-1": widths, "base": widths}, seconds=seconds)


def one_cost(field: Field) -> dict[str, float] | None:
    crowd = tuple(Candidate(agent=str(i), wallet=str(i), device_class="c", ask=int(a)) for i, a in enumerate(field.ask))
    limits = Limits(budget=2**63, deadline_seconds=FAR, max_contributors=MOST, by_goodput=False)
    brain = predictor(field, "xgboost")
    inputs = QuoteInputs(job=facts(field.steps), candidates=crowd, limits=limits, goal="budget")
    fastest = quote_job(inputs, brain).seconds_p90
    bounds = limits.model_copy(update={"deadline_seconds": 2 * fastest})
    try:
        quote = quote_job(inputs.model_copy(update={"limits": bounds, "goal": "deadline"}), brain)
    except BadInput:
        return None
    ours = quote.price_per_step * quote.plan.total_steps
    own = float((field.ask * field.true / 3600).mean() * field.steps)
    uniform = float((field.ask * field.guess["xgboost"] / 3600).max() * field.steps)
    return {
        "to own asks": ours / own,
        "to the highest ask": ours / uniform,
        "contributors of the cheapest": float(len(quote.plan.seats)),
    }


def cost_table(jobs: int, seed: int, sigmas: Sequence[float]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for sigma in sigmas:
        rng = np.random.default_rng(seed)
        rows = [one_cost(draw_field(rng, sigma, size=FIELD, places=MOST)) for _ in range(jobs)]
        found = [row for row in rows if row is not None]
        result[f"{sigma:g}"] = {name: summary([row[name] for row in found], seed) for name in found[0]}
    return result
