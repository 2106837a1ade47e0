"""The split against a linear program, and whole units against every other split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from models.allocator import integer_fill, water_fill

speeds = st.floats(0.01, 100)


def least_makespan(total: float, v: np.ndarray, caps: np.ndarray) -> float:
    """min t subject to x_i <= v_i t, x_i <= cap_i, sum x = total."""
    n = len(v)
    result = linprog(
        c=[0.0] * n + [1.0],
        A_ub=np.hstack([np.eye(n), -v[:, None]]),
        b_ub=np.zeros(n),
        A_eq=np.array([[1.0] * n + [0.0]]),
        b_eq=[total],
        bounds=[(0, c) for c in caps] + [(0, None)],
        method="highs",
    )
    assert result.success
    return float(result.x[-1])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(speeds, st.floats(0.1, 50)), min_size=1, max_size=8), st.floats(0.05, 1.0))
def test_matches_the_linear_program(pairs: list[tuple[float, float]], part: float) -> None:
    v, caps = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    total = part * caps.sum() * (1 - 1e-9)
    fill = water_fill(total, v, caps)
    assert fill.makespan == pytest.approx(least_makespan(total, v, caps), rel=1e-6)
    assert fill.amounts.sum() == pytest.approx(total)
    assert (fill.amounts <= caps * (1 + 1e-9)).all() and (fill.amounts >= 0).all()
    assert (fill.amounts / v <= fill.makespan * (1 + 1e-6)).all()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(speeds, st.floats(0.0, 20), st.floats(0.1, 50)), min_size=1, max_size=8), st.floats(0.05, 0.99)
)
def test_overheads(triples: list[tuple[float, float, float]], part: float) -> None:
    """The makespan is the least t in which the work can be done: a hair less is not enough, by the definition."""
    v, o, caps = (np.array(column) for column in zip(*triples, strict=True))
    total = part * caps.sum()
    fill = water_fill(total, v, caps, o)

    def can(t: float) -> float:
        return float(np.minimum(caps, np.maximum(0, t - o) * v).sum())

    assert can(fill.makespan * (1 + 1e-9)) >= total * (1 - 1e-6)
    assert can(fill.makespan * (1 - 1e-6)) < total * (1 + 1e-9)
    assert fill.amounts.sum() == pytest.approx(total)
    busy = fill.amounts > 0
    assert (o[busy] + fill.amounts[busy] / v[busy] <= fill.makespan * (1 + 1e-6) + 1e-9).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.integers(0, 12))
def test_whole_units_are_exact(v: list[float], total: int) -> None:
    units = integer_fill(total, v) if total else np.zeros(len(v), dtype=np.int64)
    assert units.sum() == total

    def best(left: int, index: int) -> float:
        if index == len(v) - 1:
            return left / v[index]
        return min(max(k / v[index], best(left - k, index + 1)) for k in range(left + 1))

    assert max(units / np.array(v)) == pytest.approx(best(total, 0), rel=1e-9)


@given(st.lists(st.tuples(speeds, st.integers(0, 20)), min_size=1, max_size=8), st.integers(1, 60))
def test_whole_units_keep_caps(pairs: list[tuple[float, int]], total: int) -> None:
    caps = np.array([p[1] for p in pairs])
    assume(caps.sum() >= total)
    units = integer_fill(total, [p[0] for p in pairs], caps)
    assert units.sum() == total and (units <= caps).all() and (units >= 0).all()


def test_a_contributor_whose_overhead_is_too_long_gets_nothing() -> None:
    fill = water_fill(10, [1.0, 1.0], overheads=[0.0, 100.0])
    assert fill.amounts.tolist() == [10.0, 0.0] and fill.makespan == 10.0


@pytest.mark.parametrize(
    ("total", "v", "caps"),
    [(1, [0.0], None), (1, [], None), (3, [1.0], [2.0]), (-1, [1.0], None), (1, [1.0, 2.0], [1.0])],
)
def test_nonsense_is_refused(total: float, v: list[float], caps: list[float] | None) -> None:
    with pytest.raises(ValueError, match=r"."):
        water_fill(total, v, caps)


def test_a_hundred_thousand_contributors() -> None:
    rng = np.random.default_rng(0)
    v = rng.uniform(1, 10, 100_000)
    units = integer_fill(1_000_000, v, rng.integers(10, 100, 100_000))
    assert units.sum() == 1_000_000
