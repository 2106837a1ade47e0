"""What the least money costs at a deadline twice the fastest, against an equal split: a part of `benchmarks.plans`.

The product's own quote chooses (`models.quote.quote_job`, goal "deadline"), with the left-out predictions of XGBoost on
the base in the place of the shipped model, which has seen these GPUs. Costs are of the steps, at what they truly take:
the quote's price a step for ours; for the split, each contributor its ask an hour for the time it works. Once as the
quote has it, with an auditor as fast as the reference of which most of the fastest plan's time is, and once with an
audit that takes no time.

Beside it what another rule of pay would do. A game on the same fields: the cheapest that have half of the summed speed
do the job, paid the dearest's ask or each its own. First all ask what they cost; then each in turn asks what earns it
most, knowing all others' asks, until nobody changes it (a Nash equilibrium, where it ends).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fields import Array, Field, draw_field, facts, summary
from cloudlinkup.errors import BadInput
from models.facts import Candidate, JobFacts, Limits, Prediction
from models.predictor import GROUPS, Predictor
from models.quote import QuoteInputs, quote_job

FIELD, MOST, FAR = 60, 60, 1e9
PASSES = 20  # through all contributors


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


def one_cost(field: Field, job: JobFacts) -> dict[str, float] | None:
    crowd = tuple(Candidate(agent=str(i), wallet=str(i), device_class="c", ask=int(a)) for i, a in enumerate(field.ask))
    limits = Limits(budget=2**63, deadline_seconds=FAR, max_contributors=MOST, by_goodput=False)
    brain = predictor(field, "xgboost")
    inputs = QuoteInputs(job=job, candidates=crowd, limits=limits, goal="budget")
    fastest = quote_job(inputs, brain).seconds_p90
    bounds = limits.model_copy(update={"deadline_seconds": 2 * fastest})
    try:
        quote = quote_job(inputs.model_copy(update={"limits": bounds, "goal": "deadline"}), brain)
    except BadInput:
        return None
    ours = quote.price_per_step * quote.plan.total_steps
    own = float((field.ask * field.true / 3600).mean() * field.steps)
    uniform = float((field.ask * field.guess["xgboost"] / 3600).max() * field.steps)
    speed = sum(1 / s.prediction.seconds for s in quote.plan.seats)
    each = sum(s.ask / s.prediction.seconds / speed for s in quote.plan.seats) * quote.plan.total_steps
    return {
        "to own asks": ours / own,
        "to own asks, were each paid its own": each / own,
        "to the highest ask": ours / uniform,
        "contributors of the cheapest": float(len(quote.plan.seats)),
    }


def cost_table(jobs: int, seed: int, sigmas: Sequence[float]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for sigma in sigmas:
        for name, auditor in (("", 1.0), (", no time for the audit", 1e-9)):
            rng = np.random.default_rng(seed)
            fields = [draw_field(rng, sigma, size=FIELD, places=MOST) for _ in range(jobs)]
            rows = [one_cost(field, _job(field, auditor)) for field in fields]
            found = [row for row in rows if row is not None]
            result[f"{sigma:g}{name}"] = {name: summary([row[name] for row in found], seed) for name in found[0]}
    return result


def _job(field: Field, auditor: float) -> JobFacts:
    """`auditor`: seconds a step on the auditor's machine."""
    job = facts(field.steps)
    return job.model_copy(update={"profile": job.profile.model_copy(update={"per_sample": auditor})})


# ---------------------------------------------------------------- what asks would become


def pay(ask: Array, speed: Array, own: bool) -> tuple[NDArray[np.int64], Array, Array]:
    """(who does the job, its share of the steps, what it is paid a step): the cheapest with half of the speed."""
    order = np.argsort(ask, kind="stable")
    count = int(np.searchsorted(np.cumsum(speed[order]), speed.sum() / 2)) + 1
    who = order[:count]
    return who, speed[who] / speed[who].sum(), ask[who] if own else np.full(count, ask[who].max())


def earns(i: int, ask: Array, cost: Array, speed: Array, own: bool) -> float:
    who, share, paid = pay(ask, speed, own)
    at = np.flatnonzero(who == i)
    return float(share[at[0]] * (paid[at[0]] - cost[i])) if len(at) else 0.0


def settled(cost: Array, speed: Array, own: bool, rng: np.random.Generator) -> Array:
    """The asks after each in turn asked what earns it most: what it costs it, or a hair below somebody else's."""
    ask = cost.copy()
    for _ in range(PASSES):
        before = ask.copy()
        for i in rng.permutation(len(cost)).tolist():
            least = earns(i, ask, cost, speed, own) * (1 + 1e-9) + 1e-12  # nobody moves for nothing
            for other in [cost[i], *(np.delete(ask, i) * (1 - 1e-6))]:
                trial = ask.copy()
                trial[i] = other
                if other >= cost[i] and (found := earns(i, trial, cost, speed, own)) > least:
                    least, ask = found, trial
        if np.array_equal(ask, before):
            break
    return ask


def asks_table(jobs: int, seed: int, sigma: float) -> dict[str, Any]:
    """A step's cost over what an equal split among all would cost at what contributors' steps cost them."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(jobs):
        field = draw_field(rng, sigma, size=FIELD, places=MOST)
        cost, speed = field.ask * field.guess["xgboost"] / 3600, 1 / field.guess["xgboost"]
        row: dict[str, float] = {}
        for name, own in (("one price", False), ("each its own", True)):
            for when, ask in (("at cost", cost), ("what earns most", settled(cost, speed, own, rng))):
                _, share, paid = pay(ask, speed, own)
                row[f"{name}, asked {when}"] = float(share @ paid / (field.ask * field.true / 3600).mean())
        rows.append(row)
    return {name: summary([row[name] for row in rows], seed) for name in rows[0]}
