"""How many contributors one training can use: by goodput, not by throughput."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.facts import Candidate, JobFacts, Limits
from models.goodput import LEAST_GAIN, efficiency, most_useful
from models.predictor import Predictor
from models.quote import Quote, QuoteInputs, quote_job
from models.trials import SearchWork

Make = Callable[..., Candidate]


@given(st.integers(1, 500), st.integers(1, 10**6))
def test_a_step_counts_less_the_more_share_it(contributors: int, steps: int) -> None:
    one, more = efficiency(contributors, steps), efficiency(contributors + 1, steps)
    assert 0 < more < one <= 1 and efficiency(1, steps) == 1
    assert efficiency(contributors + 1, 2 * steps) >= more, "and more the longer the job is"


@given(st.integers(1, 300_000), st.integers(1, 64))
def test_the_cap_is_where_one_more_adds_too_little(steps: int, most: int) -> None:
    def goodput(count: int) -> float:
        return count * efficiency(count, steps)

    cap = most_useful(steps, most)
    assert 1 <= cap <= most
    assert all(goodput(k + 1) >= goodput(k) + LEAST_GAIN for k in range(1, cap))
    assert cap == most or goodput(cap + 1) < goodput(cap) + LEAST_GAIN
    assert most_useful(2 * steps, most) >= cap


def test_the_measured_trap_is_kept_out_of() -> None:
    """4,000 steps: 92.8% by 4 contributors, 84.2% by 16, 67.7% by 64."""
    assert 4 <= most_useful(4_000, 64) < 16
    assert efficiency(4, 4_000) > 0.9 and efficiency(16, 4_000) < 0.2 and efficiency(64, 4_000) < 0.05
    assert most_useful(1_000_000, 64) == 64
    with pytest.raises(ValueError, match="at least 1"):
        efficiency(0, 1)


def ask(job: JobFacts, limits: Limits, make: Make, search: SearchWork | None = None, count: int = 20) -> Quote:
    field = tuple(make(i) for i in range(count))
    return quote_job(QuoteInputs(job=job, candidates=field, limits=limits, search=search), Predictor.rank1())


def test_the_quote_says_why_no_more_take_part(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    many = limits.model_copy(update={"max_contributors": 16})
    quote = ask(job, many, make_candidate)
    assert len(quote.plan.seats) == most_useful(job.steps, 16) == 4
    said = [r for r in quote.reasons if "(goodput)" in r]
    assert said and "2000 steps by more than 4 contributors teach less: by 8, a step would count" in said[0]
    assert any("a step counts about 71%" in note for note in quote.notes)

    long = job.model_copy(update={"samples": 32 * 60_000})
    assert len(ask(long, many, make_candidate).plan.seats) == 16
    assert not [r for r in ask(long, many, make_candidate).reasons if "(goodput)" in r]


def test_who_names_its_contributors_gets_them_and_a_search_has_no_such_limit(
    job: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    many = limits.model_copy(update={"max_contributors": 16})
    assert len(ask(job, many.model_copy(update={"by_goodput": False}), make_candidate).plan.seats) == 16
    work = SearchWork(steps=(2_000,) * 16, weights=(1.0,) * 16, most_segments=(10,) * 16, segment=10, halving=None)
    trials = job.model_copy(update={"samples": 32 * work.total_steps})
    assert len(ask(trials, many, make_candidate, work).plan.seats) == 16
    assert not [n for n in ask(trials, many, make_candidate, work).notes if "sequential" in n]
    few = SearchWork(steps=(100,) * 16, weights=(1.0,) * 16, most_segments=(10,) * 16, segment=10, halving=None)
    assert len(ask(job.model_copy(update={"samples": 32 * 1_600}), many, make_candidate, few).plan.seats) == 16
