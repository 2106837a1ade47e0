"""When a job will be done: a distribution, the same for the same facts, that grows with doubt and is kept as stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.calibration import draw_cases, judge
from models.estimate import FLOOR, KEPT, LAST, Rest, estimate, raw
from models.facts import Prediction
from models.plan import MOST_WORK


def speed(number: int, seconds: float, width: float = 1.2) -> Prediction:
    return Prediction(
        agent=f"a{number}", seconds=seconds, low=seconds / width, high=seconds * width, base=seconds, source="observed"
    )


def test_it_is_reproducible_and_grows_with_doubt() -> None:
    sure, doubtful = ([speed(i, 1.0, width) for i in range(4)] for width in (1.05, 2.0))
    rest = Rest(1_000, rounds=5, handling=2.0)
    first = estimate(rest, sure)
    assert first.quantile(0.9) == estimate(rest, sure).quantile(0.9)
    assert 260 < first.quantile(0.5) < first.quantile(0.8) <= first.quantile(0.9) < 600
    assert estimate(rest, doubtful).quantile(0.9) > first.quantile(0.9)
    assert first.probability(first.quantile(0.9)) == pytest.approx(0.9, abs=0.01)
    assert estimate(Rest(0, rounds=0), sure).quantile(0.99) == pytest.approx(0)
    with pytest.raises(ValueError, match="contributors"):
        estimate(rest, [])
    with pytest.raises(ValueError, match="at least 0"):
        Rest(-1)


def test_nobody_lost_and_nothing_in_doubt_is_the_formula() -> None:
    seen = raw(Rest(1_000, rounds=4, handling=3.0, segments=8), [speed(0, 2.0, 1 + 1e-9), speed(1, 1.0, 1 + 1e-9)])
    assert seen.quantile(0.45) == pytest.approx(12 + 1_000 / 1.5 * (1 + FLOOR / 8 + LAST / 4), rel=0.02)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.floats(1, 1e5), st.integers(1, 50))
def test_more_hands_or_less_work_never_take_longer(seconds: list[float], steps: float, rounds: int) -> None:
    speeds = [speed(i, s) for i, s in enumerate(seconds)]
    rest = Rest(steps, rounds, 1.0)
    now = estimate(rest, speeds)
    assert (np.diff(now.draws) >= 0).all() and np.isfinite(now.draws).all() and now.draws[0] > 0
    assert (estimate(Rest(steps / 2, rounds, 1.0), speeds).draws <= now.draws).all()
    assert (estimate(rest, speeds, [speed(99, min(seconds))]).draws <= now.draws + 1e-9).all(), "a spare stands in"


def test_a_giant_counts_for_no_more_than_the_work_that_it_may_do() -> None:
    three = [speed(i, 1.0) for i in range(3)]
    without = raw(Rest(1_000), three).quantile(0.5)
    with_it = raw(Rest(1_000), [*three, speed(3, 1e-6)]).quantile(0.5)
    assert 0.85 * float(1 - MOST_WORK) < with_it / without < 1.15 * float(1 - MOST_WORK)


def test_the_table_is_a_map_of_levels() -> None:
    stated, told = zip(*KEPT, strict=True)
    assert list(stated) == sorted(set(stated)) and list(told) == sorted(told)
    assert (stated[0], told[0], stated[-1], told[-1]) == (0, 0, 1, 1)


def test_what_is_stated_is_kept_by_other_jobs_than_the_fitted() -> None:
    cases = [c for c in draw_cases(120, seed=5) if c.kind["round"] == "1"]
    found = judge(cases, [estimate(c.rest, c.speeds, c.spares) for c in cases])
    assert 0.35 <= found["P50"]["kept"] <= 0.65 and found["P95"]["kept"] >= 0.88
    assert found["error"] < 0.08
