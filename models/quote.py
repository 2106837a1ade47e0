"""The quote: how long, for how much at most, and why, before any money is locked.

P50 and P90 of the time come from the predictions (P90: every contributor at the P90 that holds for the worst of the
job's contributors), the setup and the rounds. The price per step is fixed in the quote, so a job that ends costs what
its verified steps cost; P50 and P90 of the cost are therefore the same figure, and the hard cap lies above both: it
adds what may be locked in caps of contributors that are lost, which returns to the client when the job is closed.

A quote is a pure function of its inputs and a predictor, and carries both (`Quote.inputs`, predictor and version), so
anybody who has them can compute it again. Not here: the client's deposit and allowance, which only the chain knows.
"""

from __future__ import annotations

from cloudlinkup.errors import BadInput, NoContributors
from cloudlinkup.types import Frozen, format_tokens
from models.facts import Candidate, JobFacts, Limits
from models.plan import JobPlan, plan_job, plan_round
from models.predictor import Predictor
from models.pricing import with_fee
from models.selection import THIN_STEPS, Ranked, Selection, select


class QuoteInputs(Frozen):
    """Everything a quote is made from, beside the predictor."""

    job: JobFacts
    candidates: tuple[Candidate, ...]
    limits: Limits


class Quote(Frozen):
    """Times in seconds, money in base units. `advice` is set when the client should not use us for this job."""

    seconds_p50: float
    seconds_p90: float
    cost_p50: int
    cost_p90: int
    hard_cap: int  # lock this much: all steps, caps stranded with lost contributors, and the fee on both
    price_per_step: int
    single_machine_seconds: float
    plaintext_readers: int  # contributors that decrypt rows of this job
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    advice: str | None
    predictor: str
    version: str
    plan: JobPlan
    inputs: QuoteInputs


class Figures(Frozen):
    """What one plan costs and takes."""

    seconds_p50: float
    seconds_p90: float
    cost: int
    hard_cap: int


def stranded_steps(plan: JobPlan) -> int:
    """Steps whose caps may be stranded: a third of the seats (at least one) lost once each, with a round's cap.

    A cap on chain never falls, so what a lost seat did not earn stays locked until the job is closed.
    """
    first = plan_round(plan, 1, plan.total_steps, plan.predictions)
    steps = sorted((s.steps for s in first.seats), reverse=True)
    return sum(steps[: -(-len(plan.seats) // 3)])


def figures(plan: JobPlan, limits: Limits) -> Figures:
    """Time and cost of a plan."""
    fixed = limits.setup_seconds + plan.rounds * limits.round_seconds
    p50 = plan.total_steps / sum(1 / s.prediction.seconds for s in plan.seats)
    p90 = plan.total_steps / sum(1 / s.prediction.high for s in plan.seats)
    steps_cost = plan.total_steps * plan.price
    return Figures(
        seconds_p50=fixed + p50,
        seconds_p90=fixed + p90,
        cost=with_fee(steps_cost, limits.fee_bps),
        hard_cap=with_fee(steps_cost + stranded_steps(plan) * plan.price, limits.fee_bps),
    )


def quote_job(inputs: QuoteInputs, predictor: Predictor) -> Quote:
    """The quote with the most contributors that fit budget and deadline.

    Raises NoContributors when nobody may and can do the work, BadInput("budget") naming the least budget that would
    do, BadInput("deadline") when the P90 finish passes it.
    """
    job, limits = inputs.job, inputs.limits
    predictions = predictor.predict(job, inputs.candidates)
    selection = select(job, inputs.candidates, predictions, limits)
    if not selection.chosen:
        raise NoContributors(_nobody(selection))
    options = [
        (plan, figures(plan, limits))
        for plan in (
            plan_job(job, selection.chosen[:k], predictor=predictor.name, version=predictor.version)
            for k in range(len(selection.chosen), 0, -1)
        )
    ]
    in_time = [(plan, f) for plan, f in options if f.seconds_p90 <= limits.deadline_seconds]
    if not in_time:
        best = min(f.seconds_p90 for _, f in options)
        raise BadInput(
            "deadline",
            f"in {max(0.0, limits.deadline_seconds):.0f} s",
            f"the job is done in {best:.0f} s with 90% confidence",
            f"allow at least {best:.0f} s from now, take fewer samples, or allow more contributors",
        )
    fitting = [(plan, f) for plan, f in in_time if f.hard_cap <= limits.budget]
    if not fitting:
        least = min(f.hard_cap for _, f in in_time)
        raise BadInput(
            "budget",
            format_tokens(limits.budget, limits.decimals),
            "the job may cost more, with its spending limit counting caps of contributors that are lost",
            f"raise it to at least {format_tokens(least, limits.decimals)}, or take fewer samples",
        )
    plan, f = fitting[0]
    return Quote(
        seconds_p50=f.seconds_p50,
        seconds_p90=f.seconds_p90,
        cost_p50=f.cost,
        cost_p90=f.cost,
        hard_cap=f.hard_cap,
        price_per_step=plan.price,
        single_machine_seconds=job.steps * job.profile.step_seconds(job.batch),
        plaintext_readers=len(plan.seats),
        reasons=_reasons(inputs, selection, plan),
        notes=_notes(inputs, plan, predictor),
        advice=_advice(job, limits, plan, f),
        predictor=predictor.name,
        version=predictor.version,
        plan=plan,
        inputs=inputs,
    )


def _nobody(selection: Selection) -> str:
    if not selection.refused:
        return "no contributor is connected. Fix: start one with `cloudlinkup contribute`, or wait for one"
    first = "; ".join(f"{r.agent[:8]}: {r.reason}" for r in selection.refused[:3])
    return f"none of {len(selection.refused)} connected contributors may and can do this job ({first})"


def _reasons(inputs: QuoteInputs, selection: Selection, plan: JobPlan) -> tuple[str, ...]:
    lines = [_taken(r, plan) for r in selection.chosen[: len(plan.seats)]]
    lines += [
        f"{r.candidate.agent[:8]} does not take part: with it the spending limit or the deadline would not hold"
        for r in selection.chosen[len(plan.seats) :]
    ]
    lines += [f"{r.agent[:8]} does not take part: {r.reason}" for r in selection.refused]
    dearest = max(plan.seats, key=lambda s: s.ask)
    lines.append(
        f"{plan.price} base units per verified step for everybody: the highest ask per step among those taken"
        f" ({dearest.agent[:8]})"
    )
    return tuple(lines)


def _taken(entry: Ranked, plan: JobPlan) -> str:
    p = entry.prediction
    total = sum(1 / s.prediction.seconds for s in plan.seats)
    return (
        f"{p.agent[:8]} takes part with about {100 / p.seconds / total:.0f}% of the steps:"
        f" {1000 * p.seconds:.3g} ms a step ({1000 * p.low:.3g} to {1000 * p.high:.3g}), ask {entry.ask} a step"
    )


def _notes(inputs: QuoteInputs, plan: JobPlan, predictor: Predictor) -> tuple[str, ...]:
    job, limits, n = inputs.job, inputs.limits, len(plan.seats)
    notes = predictor.notes(job, [s.prediction for s in plan.seats])
    notes.append(
        f"{n} contributor{'s' if n > 1 else ''} will decrypt and read their part of your rows, and the auditor all"
    )
    notes.append(
        f"{limits.round_seconds:g} s a round and {limits.setup_seconds:g} s once are allowed for transfers,"
        " audit and chain"
    )
    if plan.total_steps < THIN_STEPS * n and n > 1:
        notes.append(
            f"{plan.total_steps // n} sequential steps per contributor are few: one machine may reach a better score"
            " from the same samples"
        )
    if plan.dropped_steps:
        notes.append(
            f"the last {plan.dropped_steps} of {job.steps} steps fill no segment of {plan.segment_steps}: left out"
        )
    return tuple(notes)


def _advice(job: JobFacts, limits: Limits, plan: JobPlan, f: Figures) -> str | None:
    single = job.steps * job.profile.step_seconds(job.batch)
    against: list[str] = []
    if single <= f.seconds_p50:
        against.append(f"it takes {single:.1f} s there and {f.seconds_p50:.1f} s here")
    if limits.own_hourly is not None and (own := round(limits.own_hourly * single / 3600)) <= f.cost:
        units = format_tokens(own, limits.decimals), format_tokens(f.cost, limits.decimals)
        against.append(f"it costs {units[0]} there and {units[1]} here")
    return f"Train this on your own machine: {', and '.join(against)}" if against else None
