"""Work for newcomers: one shard a job, of rows that somebody who is known trains on in the same round.

Who has no record ranks behind everybody, and without work nobody gets one. So where all places of a job go to known
contributors, the best-ranked newcomer that takes the job's price gets one shard: about 5% of the job's steps, at most
10%, and no more than its partner's part of that round. It is a shard like any other: its own order, audited at a first
round's rate, paid for what verifies, on record afterwards. Both are paid; of the two **only the partner's update is
aggregated**, so that nothing of the model depends on somebody unknown, and the rows do not weigh twice. Where the
partner's does not verify the newcomer's stands in for it: it holds what those rows teach, and it did verify.

The batch order differs (every order has a seed of its own), so the two are not compared bit by bit: what holds the
newcomer's work is the audit. It costs the client what the quote says, within the hard cap; a budget that cannot hold
it, and a client that wants the least money, do without. It reads its partner's rows, and the quote counts it.

Newcomers race for places only where one of them has a place, as too few are known: against a record they lose the
race, at the price of their pilots and of so many more readers. Where they work anyway there is no such shard, nor in a
search, whose trainings are each one contributor's. Pure; not here: orders (`tasks.newcomer`).
"""

from __future__ import annotations

from collections.abc import Sequence

from models.facts import Prediction
from models.plan import JobPlan, PlannedSeat, RoundPlan
from models.selection import Ranked, is_new

SHARE, MOST_SHARE = 0.05, 0.10  # of the job's steps
LEAST_SEGMENTS = 2  # one says nothing about a speed


def racing(chosen: Sequence[Ranked], spare: Sequence[Ranked]) -> tuple[Ranked, ...]:
    """Those of `spare` who race for the places of `chosen`: newcomers only where one of them has a place."""
    return tuple(spare) if any(map(is_new, chosen)) else tuple(r for r in spare if not is_new(r))


def add_newcomer(
    plan: JobPlan, chosen: Sequence[Ranked], spare: Sequence[Ranked], newcomers: Sequence[Ranked]
) -> JobPlan:
    """`plan` with a newcomer's seat after all others, where there is work for one.

    `chosen` and `spare`: whom `plan` was made of; `newcomers`: those without a place, best first.
    """
    if not newcomers or any(map(is_new, chosen)) or any(map(is_new, spare)):
        return plan
    by_agent = {r.candidate.agent: r for r in (*chosen, *spare)}
    wallets = {r.candidate.wallet for r in by_agent.values()}  # a known one's other device is no second opinion
    known = tuple(s.seat for s in plan.everybody if by_agent[s.agent].candidate.record.rejected == 0)
    fitting = [r for r in newcomers if r.ask <= plan.price and r.candidate.wallet not in wallets]
    units = plan.total_steps // plan.segment_steps
    segments = min(max(LEAST_SEGMENTS, round(SHARE * units)), plan.local_steps // plan.segment_steps)
    if not known or not fitting or segments > MOST_SHARE * units:
        return plan
    one = fitting[0]
    seat = PlannedSeat(
        seat=len(plan.everybody),
        agent=one.candidate.agent,
        wallet=one.candidate.wallet,
        device_class=one.candidate.device_class,
        ask=one.ask,
        prediction=one.prediction,
    )
    return plan.model_copy(update={"newcomer": seat, "newcomer_segments": segments, "known": known})


def with_newcomer(plan: JobPlan, round_: RoundPlan, newcomer: Prediction) -> RoundPlan:
    """`round_` with the newcomer's shard beside that of the known contributor who does most of it.

    It is so short that the round takes no longer, by its prediction; where not even a segment is, `round_` as it was.
    """
    partners = [s for s in round_.seats if s.seat in plan.known and s.twin is None]
    if plan.newcomer is None or not partners:
        return round_
    partner = max(partners, key=lambda s: (s.max_segments, -s.seat))
    fitting = int(round_.seconds / (newcomer.seconds * plan.segment_steps))
    segments = min(plan.newcomer_segments, partner.max_segments, fitting)
    if segments < 1:
        return round_
    shard = partner.model_copy(
        update={
            "seat": plan.newcomer.seat,
            "agent": plan.newcomer.agent,
            "max_segments": segments,
            "prediction": newcomer,
            "twin": partner.seat,
        }
    )
    return round_.model_copy(update={"seats": (*round_.seats, shard)})
