"""The quote of a job with `search`: the same contributors and price, but waves of independent trainings.

One price a step for all trainings, that of the costliest, since a step is what the chain counts; a search over sizes
therefore pays small networks' steps like large ones'. Times come from the waves that would be if everybody worked at
the predicted speed, and for the P90 if all were slower by what `margin` says: of 40 simulated searches each it kept 93%
of 16 trainings on 16, 95% of 64 on 16, 90% of 24 on 6, 85% of 12 on 4; everybody at its own P90 kept 95 to 100%. The
steps are what halving leaves, which is known beforehand: how many stop, if not which.
Not covered: contributors' hours, which the split of a shared training follows and this does not.
"""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING

from cloudlinkup.errors import BadInput
from cloudlinkup.types import format_tokens
from models.facts import Prediction
from models.margin import times_p90, training_spread
from models.pricing import with_fee
from models.reasons import advice
from models.trials import SearchWork
from models.waves import forecast

if TYPE_CHECKING:
    from models.quote import Quote


def for_search(quote: Quote, work: SearchWork) -> Quote:
    """`quote`: of as many steps of the costliest training. Raises BadInput (deadline, budget) where they bind."""
    limits, seats = quote.inputs.limits, quote.plan.seats
    slower = times_p90(training_spread([seat.prediction for seat in seats]))
    p50, p90 = (
        forecast(
            work.standings(),
            {seat.seat: _slower(seat.prediction, times) for seat in seats},
            segment=work.segment,
            halving=work.halving,
            fixed=limits.round_seconds,
        )
        for times in (1.0, slower)
    )
    total, price = work.total_steps, quote.plan.price
    cost = with_fee(total * price, limits.fee_bps)
    stranded = sum(p50.largest[: -(-len(seats) // 3)])
    hard_cap = with_fee((total + stranded) * price, limits.fee_bps)
    shards = p50.waves * len(seats)
    step = quote.inputs.job.profile.step_seconds(quote.inputs.job.batch)
    audit = min(total, 2 * shards * work.segment) * step
    own = limits.setup_seconds + p50.waves * limits.round_seconds
    own_more = hypot(
        limits.setup_seconds * (times_p90(limits.setup_spread) - 1),
        limits.round_seconds * (p90.waves * times_p90(limits.round_spread) - p50.waves),
    )
    seconds_p50 = own + audit + p50.seconds
    seconds_p90 = seconds_p50 + hypot(own_more, p90.seconds - p50.seconds)
    if quote.inputs.deadline_binds and seconds_p90 > limits.deadline_seconds:
        raise BadInput(
            "deadline",
            f"in {max(0.0, limits.deadline_seconds):.0f} s",
            f"the trainings are done in {seconds_p90:.0f} s with 90% confidence",
            f"allow at least {seconds_p90:.0f} s from now, or take fewer samples or trainings",
        )
    if quote.inputs.budget_binds and hard_cap > limits.budget:
        raise BadInput(
            "budget",
            format_tokens(limits.budget, limits.decimals),
            "the trainings may cost more, with the spending limit counting caps of contributors that are lost",
            f"raise it to at least {format_tokens(hard_cap, limits.decimals)}, or take fewer samples or trainings",
        )
    share = sum(s * w for s, w in zip(work.steps, work.weights, strict=True)) / sum(work.steps)
    single = total * share * step
    return quote.model_copy(
        update={
            "seconds_p50": seconds_p50,
            "seconds_p90": seconds_p90,
            "cost_p50": cost,
            "cost_p90": cost,
            "hard_cap": hard_cap,
            "single_machine_seconds": single,
            "audit_seconds": audit,
            "audit_bytes": int(2 * shards * 24 * quote.inputs.job.features.get("parameters", 0.0)),
            "bottleneck": f"{own + audit:.0f} s go to setup, {p50.waves} waves' handling and the audit,"
            f" {p50.seconds:.0f} s to training",
            "options": (),
            "notes": (*_notes(work, len(seats)), *quote.notes),
            "advice": advice(limits, single, seconds_p50, cost),
            "plan": quote.plan.model_copy(
                update={
                    "total_steps": total,
                    "dropped_steps": 0,
                    "segment_steps": work.segment,
                    "local_steps": max(p50.largest, default=work.segment),
                    "rounds": p50.waves,
                }
            ),
        }
    )


def _slower(prediction: Prediction, times: float) -> Prediction:
    return prediction.model_copy(update={"seconds": prediction.seconds * times, "high": prediction.high * times})


def _notes(work: SearchWork, seats: int) -> list[str]:
    whole, total = sum(work.steps), work.total_steps
    notes = [
        f"{len(work.steps)} independent trainings, {total} steps in all; every contributor reads all the rows of the"
        " trainings it works on, and nothing is averaged between them"
    ]
    if total < whole:
        saved = 100 * (1 - total / whole)
        notes.append(f"successive halving saves {whole - total} of {whole} steps ({saved:.0f}%)")
    if len(set(work.weights)) > 1:
        notes.append("one price a step for all trainings, that of the costliest")
    if len(work.steps) < 2 * seats:
        notes.append("few trainings for so many contributors: the last ones wait for each other")
    return notes
