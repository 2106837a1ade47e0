"""The quote of independent trainings: waves at predicted speeds, halving's saving, and that it is had again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.search import Halving
from models.facts import Candidate, JobFacts, Limits
from models.predictor import Predictor
from models.pricing import with_fee
from models.quote import Quote, QuoteInputs, quote_job, requote
from models.trials import SearchWork
from models.waves import forecast

Make = Callable[..., Candidate]


def work(steps: tuple[int, ...] = (600,) * 9, halving: Halving | None = None) -> SearchWork:
    count = len(steps)
    return SearchWork(steps=steps, weights=(1.0,) * count, most_segments=(1_000,) * count, segment=10, halving=halving)


def ask(job: JobFacts, limits: Limits, candidates: list[Candidate], search: SearchWork) -> Quote:
    facts = job.model_copy(update={"samples": search.total_steps * job.batch})
    inputs = QuoteInputs(job=facts, candidates=tuple(candidates), limits=limits, search=search)
    return quote_job(inputs, Predictor.rank1())


@pytest.fixture
def heavy(job: JobFacts) -> JobFacts:
    return job.model_copy(update={"profile": job.profile.model_copy(update={"per_sample": 0.01})})


def test_time_and_cost_are_those_of_the_waves(heavy: JobFacts, limits: Limits, make_candidate: Make) -> None:
    quote = ask(heavy, limits, [make_candidate(0), make_candidate(1, 2.0)], work())
    speeds = {seat.seat: seat.prediction for seat in quote.plan.seats}
    found = forecast(work().standings(), speeds, segment=10, fixed=limits.round_seconds)
    assert (quote.plan.rounds, quote.plan.total_steps, quote.plan.segment_steps) == (found.waves, 5_400, 10)
    fixed = limits.setup_seconds + found.waves * limits.round_seconds + quote.audit_seconds
    assert quote.seconds_p50 == pytest.approx(fixed + found.seconds) and quote.seconds_p50 < quote.seconds_p90
    assert quote.cost_p50 == with_fee(5_400 * quote.price_per_step, limits.fee_bps) < quote.hard_cap
    assert "9 independent trainings, 5400 steps" in quote.notes[0]
    assert requote(quote, Predictor.rank1()) == quote, "a stored quote is had again"
    assert Quote.model_validate_json(quote.model_dump_json()) == quote


def test_halving_is_cheaper_and_says_by_how_much(heavy: JobFacts, limits: Limits, make_candidate: Make) -> None:
    candidates = [make_candidate(0), make_candidate(1)]
    whole = ask(heavy, limits, candidates, work((900,) * 9))
    halved = ask(heavy, limits, candidates, work((900,) * 9, Halving(eta=3, rungs=2)))
    assert halved.plan.total_steps == 2_100 and halved.cost_p50 < whole.cost_p50 / 3
    assert "saves 6000 of 8100 steps (74%)" in " ".join(halved.notes)


def test_more_contributors_take_less_time_for_the_same_money(
    heavy: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    long = limits.model_copy(update={"deadline_seconds": 1e6})
    one, four = (ask(heavy, long, [make_candidate(k) for k in range(n)], work((6_000,) * 8)) for n in (1, 4))
    assert four.cost_p50 == one.cost_p50
    assert four.seconds_p50 < 0.4 * one.seconds_p50


def test_budget_and_deadline_bind(heavy: JobFacts, limits: Limits, make_candidate: Make) -> None:
    candidates = [make_candidate(0)]
    quote = ask(heavy, limits, candidates, work())
    exact = limits.model_copy(update={"budget": quote.hard_cap})
    assert ask(heavy, exact, candidates, work()).hard_cap == quote.hard_cap
    for changes, field in (
        ({"budget": quote.hard_cap - 1}, "budget"),
        ({"deadline_seconds": quote.seconds_p90 - 1}, "deadline"),
    ):
        with pytest.raises(BadInput) as caught:
            ask(heavy, limits.model_copy(update=changes), candidates, work())
        assert caught.value.field == field
