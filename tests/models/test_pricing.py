"""Money: integers that are conserved, never above the budget, never beyond u64; and asks in every unit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.ledger.money import most_for_caps
from cloudlinkup.types import U64_MAX
from models.facts import Candidate, JobFacts, Limits
from models.predictor import Predictor
from models.pricing import (
    affordable_steps,
    ask_per_step,
    cleared_price,
    refund,
    seat_cap,
    step_ask,
    unpayable,
    with_fee,
)
from models.selection import select

u64 = st.integers(0, U64_MAX)
bps = st.integers(0, 1_000)
Make = Callable[..., Candidate]


@settings(deadline=None, max_examples=200)
@given(u64, bps, st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(1, 2**24))
def test_money_is_conserved_and_never_above_the_budget(budget: int, fee: int, steps: list[int], price: int) -> None:
    """Rounds of caps and awards as the flow makes them: what is affordable is capped, verified, paid, returned."""
    caps: dict[int, int] = {}
    awarded: dict[int, int] = {}
    for seat, wanted in enumerate(steps):
        most = affordable_steps(budget, caps, awarded, price, fee)
        verified = min(wanted, most)
        caps[seat] = seat_cap(0, verified, price)
        awarded[seat] = seat_cap(0, verified // 2, price)
        assert with_fee(sum(caps.values()), fee) <= budget
    assert all(0 <= awarded[s] <= caps[s] <= U64_MAX for s in caps)
    paid = sum(awarded.values())
    left = refund(budget, paid, fee)
    assert 0 <= left <= U64_MAX and paid + (with_fee(paid, fee) - paid) + left == budget
    assert paid <= most_for_caps(budget, fee)


def test_what_cannot_be_money_is_refused() -> None:
    assert seat_cap(0, 1, U64_MAX) == U64_MAX
    for bad in ((1, 1, U64_MAX), (0, 2, U64_MAX), (-1, 1, 1), (0, -1, 1)):
        with pytest.raises(ValueError, match="u64"):
            seat_cap(*bad)
    with pytest.raises(ValueError, match="u64"):
        cleared_price([1, U64_MAX + 1])
    with pytest.raises(ValueError, match="budget"):
        refund(100, 100, 100)


@settings(deadline=None, max_examples=200)
@given(u64, st.floats(1e-6, 1e4), st.floats(0.001, 1))
def test_nobody_works_below_its_ask(ask: int, seconds: float, share: float) -> None:
    exact = Fraction(ask) * Fraction(seconds) * Fraction(share) / 3600
    found = ask_per_step(ask, seconds, share)
    assert abs(found - exact) <= 1 + exact * Fraction(1, 2**50)
    if ask >= 2**53:
        assert found >= exact


def test_asks_in_every_unit(job: JobFacts, make_candidate: Make) -> None:
    hourly = make_candidate(0, ask=3_600_000, share=0.5, reserve=1_800_000)
    assert step_ask(hourly, job, 0.010) == 5 and step_ask(hourly, job, 0.010, reserve=True) == 3
    by_step = make_candidate(0, ask=7, ask_per="step")
    assert step_ask(by_step, job, 0.010) == step_ask(by_step, job, 100.0) == 7
    by_work = make_candidate(0, ask=10**9, ask_per="tmac")
    macs = int(job.features["macs"])
    assert step_ask(by_work, job, 1.0) == -(-(10**9) * macs // 10**12) > 1
    assert step_ask(make_candidate(0, ask=0), job, 1.0) == 1  # asks for nothing: a step costs one base unit
    assert unpayable(step_ask(make_candidate(0, ask=U64_MAX, share=1.0), job, 3_601.0))


def test_who_cannot_be_paid_or_is_not_there_is_refused_in_words(
    job: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    slow = make_candidate(0, 4e6, ask=U64_MAX)  # its step takes hours
    candidates = [slow, make_candidate(1, open_seconds=0.0), make_candidate(2, open_seconds=5.0), make_candidate(3)]
    found = select(job, candidates, Predictor.rank1().predict(job, candidates), limits)
    reasons = {r.agent: r.reason for r in found.refused}
    assert [r.candidate.agent for r in found.chosen] == ["agent-3"]
    assert "account can hold" in reasons["agent-0"] and "outside its hours" in reasons["agent-1"]
    assert "end in 5 s" in reasons["agent-2"]
