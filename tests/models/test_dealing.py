"""Rows are dealt so that a change of seats changes few partitions, and is undone when it is taken back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dealing import LEAST, MOST, NOBODY, anew, deal

speeds = st.lists(st.floats(0.2, 5.0), min_size=2, max_size=9)


def parts(speed: dict[int, float]) -> dict[int, float]:
    return {seat: one / sum(speed.values()) for seat, one in speed.items()}


def first(rows: int, speed: dict[int, float], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    empty = np.full(rows, NOBODY, np.int32)
    return deal(empty, empty, parts(speed), seed=seed, minimum=8)


def changed(before: np.ndarray, after: np.ndarray) -> set[int]:
    """Seats whose partition has to be sent."""
    return {s for s in set(after.tolist()) if not ((before == s) == (after == s)).all()}


def bytes_of(before: np.ndarray, after: np.ndarray) -> int:
    return sum(int((after == s).sum()) for s in changed(before, after))


@given(speeds, st.integers(100, 600), st.data())
@settings(deadline=None)
def test_who_stays_keeps_its_rows_and_who_returns_finds_its_own(speed: list[float], rows: int, data) -> None:
    seats = dict(enumerate(speed))
    held, home = first(rows, seats)
    assert set(held.tolist()) == set(seats) and (held == home).all()
    gone = data.draw(st.sets(st.sampled_from(sorted(seats)), min_size=1, max_size=len(seats) - 1))
    left = {s: v for s, v in seats.items() if s not in gone}
    after, still = deal(held, home, parts(left), seed=2, minimum=8)
    stay = np.isin(held, list(left))
    assert set(after.tolist()) == set(left) and (after[stay] == held[stay]).all()
    again = deal(after, still, parts(left), seed=9, minimum=8)
    assert (again[0] == after).all() and (again[1] == still).all(), "asked again, nothing moves"
    back, _ = deal(after, still, parts(seats), seed=3, minimum=8)
    assert (back == held).all(), "everybody has the very partition that it had"


@given(speeds, st.integers(200, 600), st.floats(0.2, 5.0))
@settings(deadline=None)
def test_who_stays_gets_nothing_when_somebody_new_comes(speed: list[float], rows: int, new: float) -> None:
    held, home = first(rows, dict(enumerate(speed)))
    seats = dict(enumerate([*speed, new]))
    after, belongs = deal(held, home, parts(seats), seed=2, minimum=8)
    moved = after != held
    assert set(after.tolist()) == set(seats)
    assert (after[moved] == len(speed)).all() and (after == belongs).all()


@given(speeds, st.integers(300, 600), st.data())
@settings(deadline=None)
def test_nobody_is_lent_more_than_its_bound_unless_all_take(speed: list[float], rows: int, data) -> None:
    seats = dict(enumerate(speed))
    held, home = first(rows, seats)
    gone = data.draw(st.sampled_from(sorted(seats)))
    left = {s: v for s, v in seats.items() if s != gone}
    after, _ = deal(held, home, parts(left), seed=2, minimum=8)
    sizes = {s: int((after == s).sum()) for s in left}
    took = changed(held, after)
    if took != set(left):
        assert all(sizes[s] <= MOST * parts(left)[s] * rows + 1 for s in took)
        assert all(sizes[s] >= LEAST * parts(left)[s] * rows - 1 for s in left)


def test_fewer_partitions_are_sent_than_when_all_are_dealt_anew() -> None:
    """Eight alike: before, all rows were sent again, whatever changed."""
    seats = dict.fromkeys(range(8), 1.0)
    held, home = first(8_000, seats)
    left = {s: 1.0 for s in range(7)}
    after, still = deal(held, home, parts(left), seed=2, minimum=32)
    assert bytes_of(held, after) < 0.6 * 8_000
    new = {**left, 8: 1.0}
    come, _ = deal(after, still, parts(new), seed=3, minimum=32)
    assert bytes_of(after, come) < 0.7 * 8_000


def test_what_was_kept_back_is_dealt_by_speed() -> None:
    held = np.full(400, NOBODY, np.int32)
    held[:100], held[100:200] = 0, 1
    after, home = deal(held, held, {0: 0.75, 1: 0.25}, seed=1, minimum=8)
    assert (after == home).all() and (after[:200] == held[:200]).all()
    assert [int((after == s).sum()) for s in (0, 1)] == [300, 100]


def test_few_rows() -> None:
    held, home = first(3, {0: 1.0, 1: 1.0})
    after, _ = deal(held, home, parts({0: 1.0, 1: 1.0, 2: 1.0}), seed=1, minimum=32)
    assert sorted(after.tolist()) == [0, 1, 2]
    with pytest.raises(ValueError):
        anew(2, parts({0: 1.0, 1: 1.0, 2: 1.0}), 1, 1)
