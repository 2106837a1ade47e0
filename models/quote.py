"""The quote: how long, for how much at most, and why, before any money is locked.

P50 and P90 of the time come from the predictions, from the hours in which each is there, the setup, the rounds and the
audit; how far the P90 lies above the P50 is said in `margin`. The price per step is
fixed in the quote, so a job that ends costs what its verified steps cost; P50 and P90 of the cost are therefore the
same figure, and the hard cap lies above both: it adds what may be locked in caps of contributors that are lost, which
returns to the client when the job is closed.

Who takes part follows from what the client wants (`QuoteInputs.goal`):

    both      what a submitted job gets: the most contributors within budget and deadline
    deadline  the cheapest that keeps the deadline, whatever the budget says
    budget    the fastest that keeps the budget, whatever the deadline says
    cheapest  the least money, whatever either says

Where a job is submitted with a goal, both bind, and the goal chooses among the plans that keep both.

Contributors that name a reserve are asked for it only where the budget would not hold at the asks.

A quote is a pure function of its inputs and a predictor, and carries both (`Quote.inputs`, predictor and version), so
anybody who has them can compute it again (`requote`). Not here: the client's deposit and allowance, which only the
chain knows, and the words (`reasons`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import hypot, inf

import numpy as np

from cloudlinkup.errors import BadInput, NoContributors
from cloudlinkup.types import U64_MAX, Frozen, format_tokens
from models.allocator import water_fill
from models.auditing import audit_cost, shown_seconds
from models.facts import Candidate, JobFacts, Limits
from models.margin import times_p90, training_spread
from models.newcomer import add_newcomer, racing
from models.plan import JobPlan, RoundPlan, plan_job, plan_round
from models.predictor import Predictor
from models.pricing import with_fee
from models.race import stranded_by_race
from models.reasons import Goal, advice, bottleneck, nobody, notes, reasons
from models.search_quote import for_search
from models.selection import Ranked, Selection, select
from models.shortlist import shortlist
from models.trials import SearchWork
from models.wallets import admit

FEW = 4  # up to so many contributors every size of group is weighed


class QuoteInputs(Frozen):
    """Everything a quote is made from, beside the predictor."""

    job: JobFacts
    candidates: tuple[Candidate, ...]
    limits: Limits
    goal: Goal = "both"
    submitted: bool = False  # then budget and deadline bind, whatever the goal: nobody is asked in between
    search: SearchWork | None = None  # then `job` is as many steps of the costliest training

    @property
    def deadline_binds(self) -> bool:
        return self.submitted or self.goal in ("both", "deadline")

    @property
    def budget_binds(self) -> bool:
        return self.submitted or self.goal in ("both", "budget")


class Figures(Frozen):
    """What one plan costs and takes. The audit's seconds are the auditor's; what of them no training hides is part of
    the times."""

    contributors: int
    seconds_p50: float
    seconds_p90: float
    cost: int
    hard_cap: int
    audit_seconds: float
    audit_bytes: int


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
    audit_seconds: float = 0.0  # of the auditor's own machine
    audit_bytes: int = 0
    audit_cost: int | None = None  # of those seconds, where the client said what an hour costs it
    bottleneck: str = ""
    options: tuple[Figures, ...] = ()  # none of which is both slower and dearer than another
    at_reserve: bool = False  # cleared at what contributors take at the least
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    advice: str | None
    predictor: str
    version: str
    plan: JobPlan
    inputs: QuoteInputs


def stranded_steps(plan: JobPlan, first: RoundPlan | None = None) -> int:
    """Steps whose caps may be stranded: a third of the seats (at least one) lost once each, with a round's cap, and the
    pilots of those who race and are not kept.

    A cap on chain never falls, so what a lost seat did not earn stays locked until the job is closed. `first`: the
    plan's first round, where it is known.
    """
    first = first or plan_round(plan, 1, plan.total_steps, plan.predictions)
    steps = sorted((s.steps for s in first.seats), reverse=True)
    return sum(steps[: -(-len(plan.seats) // 3)]) + stranded_by_race(plan)


def figures(plan: JobPlan, chosen: Sequence[Ranked], job: JobFacts, limits: Limits) -> Figures | None:
    """Time and cost of a plan; None where its contributors' hours end before the work does, at the P90."""
    first = plan_round(plan, 1, plan.total_steps, plan.predictions)
    audit = audit_cost(plan, job, first)
    rounds = plan.rounds * limits.round_seconds
    steps_cost = (plan.total_steps + plan.newcomer_steps) * plan.price
    own = limits.setup_seconds + rounds
    alone = _training(plan, chosen, own + audit.seconds, 1.0)  # as if nothing were hidden: a little too long at most
    fixed = own + shown_seconds(audit.seconds, plan.rounds, alone)
    more = hypot(  # independent of each other
        limits.setup_seconds * (times_p90(limits.setup_spread) - 1), rounds * (times_p90(limits.round_spread) - 1)
    )
    slower = times_p90(training_spread([r.prediction for r in chosen]))
    training, training_p90 = _training(plan, chosen, fixed, 1.0), _training(plan, chosen, fixed + more, slower)
    if training_p90 == inf:
        return None
    p50 = fixed + training
    p90 = p50 + hypot(more, training_p90 - training)
    return Figures(
        contributors=len(plan.seats),
        seconds_p50=p50,
        seconds_p90=p90,
        cost=with_fee(steps_cost, limits.fee_bps),
        hard_cap=with_fee(steps_cost + stranded_steps(plan, first) * plan.price, limits.fee_bps),
        audit_seconds=audit.seconds,
        audit_bytes=int(audit.bytes),
    )


def _training(plan: JobPlan, chosen: Sequence[Ranked], fixed: float, slower: float) -> float:
    """Seconds of training, all being `slower` than predicted: exact water-filling, each contributor within its hours
    (less all that is not training); infinite where those end before."""
    speeds = np.array([1 / (slower * r.prediction.seconds) for r in chosen])
    hours = np.array([inf if r.candidate.open_seconds is None else r.candidate.open_seconds for r in chosen])
    caps = np.maximum(0.0, hours - fixed) * speeds
    return inf if caps.sum() < plan.total_steps else water_fill(plan.total_steps, speeds, caps).makespan


def _plans(inputs: QuoteInputs, selection: Selection, group: Sequence[Ranked], predictor: Predictor) -> list[JobPlan]:
    """The plans of one group, those first that do more than the job needs: with those left over racing for its places
    where all are taken, and with a newcomer's shard. Neither in a search, which has waves."""

    def plan(spare: tuple[Ranked, ...]) -> JobPlan:
        return plan_job(inputs.job, group, predictor=predictor.name, version=predictor.version, spare=spare)

    if inputs.search is not None:
        return [plan(())]
    racers = racing(group, selection.spare) if len(group) == len(selection.chosen) else ()
    spares = [racers, racers[: len(group)], ()] if racers else [()]
    found: list[JobPlan] = []
    for spare in spares:
        alone = plan(spare)
        more = add_newcomer(alone, group, spare, selection.newcomers)
        # who wants the least money does not pay for a newcomer
        found += [more, alone] if more is not alone and inputs.goal != "cheapest" else [alone]
    return found


def sizes(most: int) -> list[int]:
    """Sizes of groups that are weighed, largest first: every one up to `FEW`, then steps of a third.

    Weighing all of 64 took 0.3 s; `benchmarks.planner_scale` prints what the sample loses.
    """
    found, size = [], most
    while size > FEW:
        found.append(size)
        size = max(FEW, size * 2 // 3)
    return found + list(range(size, 0, -1))


Option = tuple[JobPlan, Figures, tuple[Ranked, ...]]


def options(inputs: QuoteInputs, selection: Selection, predictor: Predictor) -> list[Option]:
    """Plans to choose from: the first k of the ranking, most first, then everybody below each price that is asked.

    All are paid the highest ask among them, so at one price everybody who takes it is worth having: the least price
    that keeps the deadline, and the highest that keeps the budget, are found by bisection where the goal is that.
    """
    chosen, limits = selection.chosen, inputs.limits
    asks = sorted({r.ask for r in chosen})
    weighed: dict[frozenset[str], list[Option]] = {}

    def weigh(some: tuple[Ranked, ...]) -> list[Option]:
        group = some
        if limits.by_wallet:
            group = tuple(some[i] for i in admit([r.candidate.wallet for r in some], len(some)))
        key = frozenset(r.candidate.agent for r in group)
        if key not in weighed:
            weighed[key] = _weigh(inputs, selection, group, predictor)
        return weighed[key]

    def at_price(k: int) -> list[Option]:
        return weigh(tuple(r for r in chosen if r.ask <= asks[k - 1]))

    def in_time(k: int) -> bool:
        return any(f.seconds_p90 <= limits.deadline_seconds for _, f, _ in at_price(k))

    def too_dear(k: int) -> bool:
        return all(f.hard_cap > limits.budget for _, f, _ in at_price(k))

    for k in sizes(len(chosen)):
        weigh(chosen[:k])
    for k in sizes(len(asks)):
        at_price(k)
    if inputs.goal in ("deadline", "budget"):
        bisect_left(range(1, len(asks)), True, key=in_time if inputs.goal == "deadline" else too_dear)
    return [option for group in weighed.values() for option in group]


def _weigh(inputs: QuoteInputs, selection: Selection, group: tuple[Ranked, ...], predictor: Predictor) -> list[Option]:
    """The plans of one group up to the first that the budget holds: those after it are a smaller race or none, and no
    newcomer."""
    found: list[Option] = []
    for plan in _plans(inputs, selection, group, predictor):
        if (numbers := figures(plan, group, inputs.job, inputs.limits)) is None:
            continue
        found.append((plan, numbers, group))
        if numbers.hard_cap <= inputs.limits.budget or not inputs.budget_binds:
            break
    return found


def quote_job(inputs: QuoteInputs, predictor: Predictor) -> Quote:
    """The quote for what the client wants (see above).

    Raises NoContributors when nobody may and can do the work, BadInput("budget") naming the least budget that would
    do, BadInput("deadline") when the P90 finish passes it; each only where it binds.
    """
    asked = inputs
    if inputs.search is not None:  # its waves decide about the deadline, not the rounds of a shared training
        free = {"deadline_seconds": inf, "by_goodput": False, "by_wallet": False}  # each training is one contributor's
        asked = inputs.model_copy(update={"limits": inputs.limits.model_copy(update=free)})
    try:
        quote = _quote(asked, predictor, at_reserve=inputs.limits.at_reserve)
    except BadInput as error:
        if error.field != "budget" or all(c.reserve is None for c in inputs.candidates):
            raise
        quote = _quote(asked, predictor, at_reserve=True)
    if inputs.search is None:
        return quote
    return for_search(quote.model_copy(update={"inputs": inputs}), inputs.search)


def requote(quote: Quote, predictor: Predictor) -> Quote:
    """The same quote, computed again from its stored inputs. Raises ValueError for another predictor than its own."""
    if (predictor.name, predictor.version) != (quote.predictor, quote.version):
        raise ValueError(f"it was made with {quote.predictor} {quote.version}")
    return quote_job(quote.inputs, predictor)


def _quote(inputs: QuoteInputs, predictor: Predictor, *, at_reserve: bool) -> Quote:
    job, limits = inputs.job, inputs.limits.model_copy(update={"at_reserve": at_reserve})
    candidates = shortlist(job, inputs.candidates, limits)
    predictions = predictor.predict(job, candidates)
    selection = select(job, candidates, predictions, limits)
    if not selection.chosen:
        raise NoContributors(nobody(job, candidates, selection))
    found = options(inputs, selection, predictor)
    plan, f, group = _choose(found, inputs, limits)
    single = job.steps * job.profile.step_seconds(job.batch)
    return Quote(
        seconds_p50=f.seconds_p50,
        seconds_p90=f.seconds_p90,
        cost_p50=f.cost,
        cost_p90=f.cost,
        hard_cap=f.hard_cap,
        price_per_step=plan.price,
        single_machine_seconds=single,
        plaintext_readers=len(plan.everybody),
        audit_seconds=f.audit_seconds,
        audit_bytes=f.audit_bytes,
        audit_cost=None if limits.own_hourly is None else round(limits.own_hourly * f.audit_seconds / 3600),
        bottleneck=bottleneck(job, candidates, predictions, limits, plan, group, f.seconds_p50),
        options=frontier([entry[1] for entry in found]),
        at_reserve=at_reserve,
        reasons=reasons(selection, plan, group),
        notes=notes(
            job,
            limits,
            plan,
            predictor,
            inputs.goal,
            (f.seconds_p90, f.hard_cap, f.audit_seconds),
            shared=inputs.search is None,
        ),
        advice=advice(limits, single, f.seconds_p50, f.cost),
        predictor=predictor.name,
        version=predictor.version,
        plan=plan,
        inputs=inputs,
    )


def _choose(found: Sequence[Option], inputs: QuoteInputs, limits: Limits) -> Option:
    goal, possible = inputs.goal, list(found)
    if not possible:
        raise BadInput(
            "deadline",
            f"in {max(0.0, limits.deadline_seconds):.0f} s",
            "the contributors' hours end before the job would",
            "submit it when their hours begin, or take fewer samples",
        )
    if inputs.deadline_binds:
        best = min(f.seconds_p90 for _, f, _ in possible)
        possible = [option for option in possible if option[1].seconds_p90 <= limits.deadline_seconds]
        if not possible:
            raise BadInput(
                "deadline",
                f"in {max(0.0, limits.deadline_seconds):.0f} s",
                f"the job is done in {best:.0f} s with 90% confidence",
                f"allow at least {best:.0f} s from now, take fewer samples, or allow more contributors",
            )
    if inputs.budget_binds:
        least = min(f.hard_cap for _, f, _ in possible)
        possible = [option for option in possible if option[1].hard_cap <= limits.budget]
        if not possible:
            raise BadInput(
                "budget",
                format_tokens(limits.budget, limits.decimals),
                "the job may cost more, with its spending limit counting caps of contributors that are lost",
                f"raise it to at least {format_tokens(least, limits.decimals)}, or take fewer samples"
                if least <= U64_MAX
                else "take fewer samples: no token account can hold what it may cost",
            )
    order: dict[Goal, Callable[[Option], tuple[float, ...]]] = {
        "deadline": lambda option: (option[1].cost, option[1].seconds_p90),
        "budget": lambda option: (option[1].seconds_p90, option[1].cost),
        "cheapest": lambda option: (option[1].cost, option[1].seconds_p90),
    }
    return possible[0] if goal == "both" else min(possible, key=order[goal])


def frontier(found: Sequence[Figures]) -> tuple[Figures, ...]:
    """Those than which no other is both faster (P90) and cheaper, fastest first."""
    kept: list[Figures] = []
    for f in sorted(found, key=lambda f: (f.seconds_p90, f.cost, f.hard_cap)):
        if not kept or f.cost < kept[-1].cost:
            kept.append(f)
    return tuple(kept)
