"""Factoring: every unit is taken once, whatever the speeds, and the end comes near the bound without a prediction."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.factoring import next_chunk


def work_off(total: int, seconds: list[float], *, dispatch: float = 0.0, least: int = 1) -> tuple[list[int], float]:
    """Units by worker and the makespan, where a chunk takes `dispatch` and then `seconds` a unit."""
    speeds: dict[int, float | None] = dict.fromkeys(range(len(seconds)))
    free, done, left, end = [(0.0, i) for i in range(len(seconds))], [0] * len(seconds), total, 0.0
    heapq.heapify(free)
    while left:
        now, i = heapq.heappop(free)
        units = next_chunk(left, speeds, i, total=total, least=least, overhead=dispatch)
        assert 1 <= units <= left
        left -= units
        done[i] += units
        speeds[i] = 1 / seconds[i]
        end = max(end, now + dispatch + units * seconds[i])
        heapq.heappush(free, (now + dispatch + units * seconds[i], i))
    return done, end


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5_000), st.lists(st.floats(1e-3, 100), min_size=1, max_size=12), st.integers(1, 20))
def test_every_unit_is_taken_once(total: int, seconds: list[float], least: int) -> None:
    done, _ = work_off(total, seconds, least=least)
    assert sum(done) == total


def test_it_comes_near_the_bound_with_no_prediction() -> None:
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(20):
        seconds = list(np.exp(rng.normal(0, 0.6, 8)))
        bound = 20_000 / sum(1 / s for s in seconds)
        ratios.append(work_off(20_000, seconds, dispatch=1.0)[1] / bound)
    assert np.mean(ratios) < 1.02 and max(ratios) < 1.05
    assert min(ratios) >= 1


def test_a_pilot_first_and_then_by_speed() -> None:
    assert next_chunk(1_000, {"a": None, "b": None}, "a", total=1_000) == 25
    assert next_chunk(900, {"a": 3.0, "b": 1.0}, "a", total=1_000) == math.ceil(900 / 2 * 3 / 4)
    assert next_chunk(900, {"a": 3.0, "b": 1.0}, "a", total=1_000, most=40) == 40
    assert next_chunk(100, {"a": 3.0, "b": 1.0}, "b", total=1_000, overhead=60.0) == 60
    assert next_chunk(3, {"a": 3.0}, "a", total=1_000, least=10) == 3
    assert next_chunk(0, {"a": 3.0}, "a", total=1_000) == 0


def test_bad_input_is_refused() -> None:
    for remaining, speeds, options in (
        (-1, {"a": 1.0}, {}),
        (11, {"a": 1.0}, {}),
        (5, {"a": 1.0}, {"least": 0}),
        (5, {"a": 1.0}, {"most": -1}),
        (5, {"a": 0.0}, {}),
        (5, {"a": float("nan")}, {}),
    ):
        with pytest.raises(ValueError):
            next_chunk(remaining, speeds, "a", total=10, **options)
    with pytest.raises(KeyError):
        next_chunk(5, {"a": 1.0}, "b", total=10)
