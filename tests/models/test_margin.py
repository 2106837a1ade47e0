"""The P90 over the P50: independent errors average out, what all share does not; rounds and setup have their own."""

from __future__ import annotations

from math import exp, log, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.correction import HIDDEN
from models.facts import Prediction
from models.margin import TOGETHER, times_p90, training_spread
from models.overheads import FINAL, PRIOR_JOBS, ROUND, SETUP, SLOT, Spent, expected


def said(seconds: float, width: float) -> Prediction:
    return Prediction(
        agent="a", seconds=seconds, low=seconds / width, high=seconds * width, base=seconds, source="rank-1"
    )


def test_independent_errors_average_out_and_common_ones_stay() -> None:
    alone, many = training_spread([said(1.0, 1.0)]), training_spread([said(1.0, 1.0)] * 16)
    assert alone == pytest.approx(HIDDEN) and many == pytest.approx(HIDDEN / 4)
    assert training_spread([said(1.0, 1.6)] * 10_000) == pytest.approx(TOGETHER * log(1.6), rel=0.01)
    # one that does nearly all of the work decides alone
    assert training_spread([said(1.0, 1.0), said(1_000.0, 1.0)]) == pytest.approx(HIDDEN, rel=0.01)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(1.0, 3.0)), min_size=1, max_size=30))
def test_it_lies_between_nothing_shared_and_all_shared(many: list[tuple[float, float]]) -> None:
    found = training_spread([said(s, w) for s, w in many])
    widest = max(log(w) for _, w in many)
    assert HIDDEN / sqrt(len(many)) * 0.999 <= found <= sqrt((TOGETHER * widest) ** 2 + HIDDEN**2) * 1.001
    assert times_p90(found) > 1


def test_without_past_jobs_the_prior_speaks_and_a_cluster_waits_until_blocks_are_final() -> None:
    local, cluster = expected(), expected([], challenge_delay=8)
    assert (local.setup, local.round, local.jobs) == pytest.approx((SETUP, ROUND, 0))
    assert cluster.setup == local.setup and cluster.round == pytest.approx(ROUND + SLOT * (FINAL + 8))


@given(st.floats(0.1, 1_000), st.floats(0.1, 1_000), st.integers(1, 20))
def test_past_jobs_outweigh_the_prior(setup: float, each: float, jobs: int) -> None:
    found = expected([Spent(setup, each)] * jobs)
    seen = min(jobs, 8)
    assert found.jobs == seen
    assert log(found.round / each) == pytest.approx(log(ROUND / each) * PRIOR_JOBS / (PRIOR_JOBS + seen), abs=1e-9)
    assert min(SETUP, setup) * 0.999 <= found.setup <= max(SETUP, setup) * 1.001


def test_jobs_that_agree_narrow_the_spread_and_one_that_does_not_widens_it() -> None:
    same = [expected([Spent(SETUP, ROUND)] * n).round_spread for n in range(9)]
    assert same == sorted(same, reverse=True) and same[8] < 0.5 * same[0]
    odd = expected([Spent(SETUP, ROUND)] * 7 + [Spent(SETUP, 10 * ROUND)])
    assert odd.round_spread > 2 * same[8] > 1.9 * odd.setup_spread and odd.round < 2 * ROUND
    assert expected([Spent(0.0, 0.0)]).round > 0  # what overlapped with training altogether
    assert exp(0) == times_p90(0.0)
