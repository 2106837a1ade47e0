"""One newcomer's shard a job: who gets it, how much it may cost, whose work it is a duplicate of."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from models.facts import Candidate, JobFacts, Limits, Prediction, TrackRecord
from models.newcomer import MOST_SHARE, add_newcomer, with_newcomer
from models.plan import JobPlan, plan_round
from models.predictor import Predictor
from models.pricing import with_fee
from models.quote import Quote, QuoteInputs, quote_job
from models.reasons import Goal
from models.selection import select

Make = Callable[..., Candidate]
KNOWN = TrackRecord(on_time=50, valid=50)


def ask(job: JobFacts, limits: Limits, field: list[Candidate], goal: Goal = "both") -> Quote:
    return quote_job(QuoteInputs(job=job, candidates=tuple(field), limits=limits, goal=goal), Predictor.rank1())


def market(make: Make, known: int = 4, new: int = 2) -> list[Candidate]:
    return [*(make(i, record=KNOWN) for i in range(known)), *(make(known + i) for i in range(new))]


def test_the_best_newcomer_gets_one_shard_where_all_places_are_taken(
    job: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    quote = ask(job, limits, market(make_candidate))
    plan = quote.plan
    assert [s.agent for s in plan.seats] == ["agent-0", "agent-1", "agent-2", "agent-3"]
    assert plan.newcomer is not None and (plan.newcomer.agent, plan.newcomer.seat) == ("agent-4", 4)
    assert 0 < plan.newcomer_steps <= MOST_SHARE * plan.total_steps and plan.known == (0, 1, 2, 3)
    assert quote.plaintext_readers == 5 and [s.seat for s in plan.everybody] == [0, 1, 2, 3, 4]
    assert quote.cost_p50 == with_fee((plan.total_steps + plan.newcomer_steps) * plan.price, limits.fee_bps)
    assert any(r.startswith("agent-4 is new and does one shard") for r in quote.reasons)
    assert not any(r.startswith("agent-4 does not take part") for r in quote.reasons)
    assert any(r.startswith("agent-5 does not take part") for r in quote.reasons)


def test_there_is_none_where_newcomers_work_anyway_or_nobody_is_known(
    job: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    assert ask(job, limits, market(make_candidate, known=3)).plan.newcomer is None, "one has a place"
    assert ask(job, limits, market(make_candidate, known=0, new=6)).plan.newcomer is None
    doubtful = [
        c.model_copy(update={"record": KNOWN.model_copy(update={"rejected": 1})}) for c in market(make_candidate)[:4]
    ]
    assert ask(job, limits, [*doubtful, make_candidate(9)]).plan.newcomer is None, "nobody to be held against"
    assert ask(job, limits, market(make_candidate, new=0)).plan.newcomer is None


def test_it_never_costs_more_than_the_client_wants(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    field = market(make_candidate)
    assert ask(job, limits, field, "cheapest").plan.newcomer is None
    whole = ask(job, limits, field)
    tight = limits.model_copy(update={"budget": whole.hard_cap - 1})
    without = ask(job, tight, field)
    assert without.plan.newcomer is None and len(without.plan.seats) == 4
    assert whole.hard_cap - without.hard_cap > 0
    dear = [*field[:4], make_candidate(4, ask=7_200_000)]
    assert ask(job, limits, dear).plan.newcomer is None, "it asks for more than the price"
    for samples in range(32 * 4, 32 * 300, 32 * 7):
        plan = ask(job.model_copy(update={"samples": samples}), limits, field).plan
        assert plan.newcomer_steps <= MOST_SHARE * plan.total_steps


def planned(job: JobFacts, limits: Limits, make: Make) -> JobPlan:
    return ask(job, limits, market(make)).plan


@settings(deadline=None, max_examples=50)
@given(
    remaining=st.integers(1, 1_000),
    new=st.floats(1e-4, 10),
    seconds=st.lists(st.floats(1e-3, 1), min_size=1, max_size=4),
    data=st.data(),
)
def test_the_shard_is_a_part_of_its_partners_and_takes_no_longer(
    job: JobFacts,
    limits: Limits,
    make_candidate: Make,
    remaining: int,
    new: float,
    seconds: list[float],
    data: st.DataObject,
) -> None:
    plan = planned(job, limits, make_candidate)
    plan = plan.model_copy(update={"known": tuple(i for i in range(4) if data.draw(st.booleans()))})
    speeds = {
        i: Prediction(agent=f"agent-{i}", seconds=s, low=s / 1.2, high=s * 1.2, base=s, source="observed")
        for i, s in enumerate(seconds)
    }
    round_ = plan_round(plan, 2, remaining, speeds)
    newcomer = Prediction(agent="agent-4", seconds=new, low=new, high=new, base=new, source="base")
    found = with_newcomer(plan, round_, newcomer)
    assert found.seats[: len(round_.seats)] == round_.seats and found.steps == round_.steps
    assert found.seconds == round_.seconds and found.time_box == round_.time_box
    if found is round_:
        partners = [s for s in round_.seats if s.seat in plan.known]
        assert not partners or new * plan.segment_steps > round_.seconds * (1 - 1e-9)
        return
    shard = found.seats[-1]
    partner = next(s for s in round_.seats if s.seat == shard.twin)
    assert shard.seat == 4 and partner.seat in plan.known
    assert shard.max_segments <= min(partner.max_segments, plan.newcomer_segments)
    assert shard.steps * new <= round_.seconds * (1 + 1e-9)
    assert (shard.progress_from, shard.progress_to) == (partner.progress_from, partner.progress_to)


def test_newcomers_are_told_apart_from_the_chosen(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    field = market(make_candidate, known=5, new=3)
    found = select(job, field, Predictor.rank1().predict(job, field), limits)
    assert [r.candidate.agent for r in found.newcomers] == ["agent-5", "agent-6", "agent-7"]


def test_a_duplicate_never_goes_to_another_device_of_a_wallet_at_work(
    job: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    """Its record is its wallet's, so it is no newcomer; nor is it one where a record could not be read."""
    field = [*market(make_candidate, new=0), make_candidate(4, agent="agent-0/1", wallet="wallet-0")]
    assert ask(job, limits, field).plan.newcomer is None
    found = ask(job, limits, [*field, make_candidate(6)]).plan.newcomer
    assert found is not None and found.wallet == "wallet-6"
    alone = ask(job, limits, market(make_candidate, new=0)).plan
    chosen = select(job, field[:4], Predictor.rank1().predict(job, field[:4]), limits).chosen
    other = select(job, field[4:], Predictor.rank1().predict(job, field[4:]), limits).chosen
    assert add_newcomer(alone, chosen, (), other) is alone
