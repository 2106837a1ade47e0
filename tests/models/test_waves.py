"""Waves of independent trainings: who does how much of which, when the bell rings, and that it all ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.search import Halving
from models.facts import Prediction
from models.plan import BELL, LEAST_BOX
from models.trials import SearchWork, Standing, after_wave, boundary, steps_in_all
from models.waves import LAST, LEAST_SECONDS, MOST_SECONDS, Chunk, forecast, moved, plan_wave

HALVINGS = [None, Halving(eta=2, rungs=1), Halving(eta=3, rungs=2)]


def speeds_of(seconds: Sequence[float] | Mapping[int, float], width: float = 1.1) -> dict[int, Prediction]:
    pairs: Iterable[tuple[int, float]] = seconds.items() if isinstance(seconds, Mapping) else enumerate(seconds)
    return {
        i: Prediction(agent=f"a{i}", seconds=s, low=s / width, high=s * width, base=s, source="observed")
        for i, s in pairs
    }


def by_number(one: Standing) -> float:
    return -float(one.number)


def drive(
    standings: Sequence[Standing],
    speeds: Mapping[int, Prediction],
    halving: Halving | None = None,
    *,
    score: Callable[[Standing], float] = by_number,
    brings: Callable[[Chunk], int] | None = None,
    fixed: float = 5.0,
) -> tuple[list[Standing], list[tuple[Chunk, ...]]]:
    """Every wave until the end. `brings`: segments of a chunk that come back; by default what fits into its time."""

    def in_time(chunk: Chunk) -> int:
        each = speeds[chunk.seat].seconds * standings[chunk.trial].weight * 10
        return min(chunk.segments, int(chunk.time_box / each))

    now, rung, waves = list(standings), 0, []
    while chunks := plan_wave(now, speeds, segment=10, halving=halving, rung=rung, first=not waves, fixed=fixed):
        waves.append(chunks)
        for c in chunks:
            left = boundary(now[c.trial], halving, rung, 10) - now[c.trial].done
            assert 1 <= c.segments <= min(left // 10, now[c.trial].most_segments)
        done = {c.trial: (brings or in_time)(c) * 10 for c in chunks}
        now = [replace(moved(one, done.get(one.number, 0)), score=score(one)) for one in now]
        gone, rung = after_wave(now, halving, rung, 10)
        now = [replace(one, state="stopped") if one.number in gone else one for one in now]
        assert len(waves) < 2_000
    return now, waves


def makespan(waves: Sequence[Sequence[Chunk]]) -> float:
    return sum(max(c.seconds for c in chunks) for chunks in waves)


@settings(max_examples=50, deadline=None)
@given(
    totals=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    seconds=st.lists(st.floats(0.001, 2.0), min_size=1, max_size=6),
    lost=st.sampled_from([0.0, 0.4]),
    halving=st.sampled_from(HALVINGS),
    most=st.sampled_from([3, 10**6]),
    fixed=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_every_training_ends_and_nothing_is_done_twice(
    totals: list[int], seconds: list[float], lost: float, halving: Halving | None, most: int, fixed: float
):
    standings = [Standing(k, 10 * t, weight=1 / (1 + k % 3), most_segments=most) for k, t in enumerate(totals)]
    brings = (lambda c: max(1, int(c.segments * (1 - lost)))) if lost else None
    now, waves = drive(standings, speeds_of(seconds), halving, brings=brings, fixed=fixed)
    assert all(one.state != "open" and one.done <= one.total for one in now)
    assert sum(one.done for one in now) <= steps_in_all([one.total for one in standings], halving, 10)
    if halving is None:
        assert all(one.done == one.total for one in now)
    for chunks in waves:
        assert len({c.seat for c in chunks}) == len({c.trial for c in chunks}) == len(chunks)
        for c in chunks:
            assert 0 <= c.progress_from < c.progress_to <= 1_000_000


@settings(max_examples=50, deadline=None)
@given(
    totals=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    seconds=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=6),
    first=st.booleans(),
    overhead=st.floats(0, 20),
)
def test_nobody_waits_longer_than_until_the_bell(totals: list[int], seconds: list[float], first: bool, overhead: float):
    """All answer at one moment; each can do a segment until then at the P90 of its time, and has more to do than the
    prediction says wherever its trial has more."""
    standings, speeds = [Standing(k, 10 * t) for k, t in enumerate(totals)], speeds_of(seconds)
    overheads = {0: overhead}
    chunks = plan_wave(standings, speeds, segment=10, first=first, overheads=overheads)
    ends = {round(c.time_box + overheads.get(c.seat, 0.0), 6) for c in chunks if c.time_box > LEAST_BOX}
    assert len(ends) <= 1
    last = all(c.segments == totals[c.trial] for c in chunks) and len(chunks) == len(totals)
    shortest = max(overhead + p.high * 10 for p in speeds.values())
    for c in chunks:
        assert c.seconds <= c.time_box + overheads.get(c.seat, 0.0) + 1e-6
        assert c.time_box <= max((MOST_SECONDS * (1 + LAST) + 5) * BELL, shortest * BELL)
        if not last:
            assert c.time_box >= 10 * speeds[c.seat].high * 0.999
            able = int(c.time_box / (10 * speeds[c.seat].seconds))
            assert c.segments >= min(able, totals[c.trial]) or c.time_box == LEAST_BOX


def test_the_longest_training_is_the_fastest_contributors():
    standings = [Standing(0, 1_000), Standing(1, 5_000), Standing(2, 3_000)]
    chunks = plan_wave(standings, speeds_of({7: 0.5, 8: 0.1}), segment=10, first=True)
    assert [(c.seat, c.trial) for c in chunks] == [(8, 1), (7, 2)]


def test_the_first_wave_is_a_pilot_and_the_budget_binds():
    standings = [Standing(k, 100_000) for k in range(4)]
    speeds = speeds_of([0.05] * 4)
    first, later = (plan_wave(standings, speeds, segment=10, first=is_first) for is_first in (True, False))
    assert {round(c.seconds) for c in first} == {250} and max(c.seconds for c in later) <= 300
    assert all(c.segments > c.seconds / 0.5 for c in later), "more than predicted, if it turns out quick"
    capped = plan_wave(standings, speeds, segment=10, most_steps={0: 35, 1: 5})
    assert {c.seat: c.segments for c in capped}[0] == 3 and {c.seat for c in capped} == {0, 2, 3}
    assert plan_wave(standings, speeds_of([0.05]), segment=10, most_steps={0: 9}) == ()
    small = [replace(one, most_segments=4) for one in standings]
    assert {c.segments for c in plan_wave(small, speeds, segment=10)} == {4}


def test_all_that_is_left_is_done_at_once_where_another_wave_would_cost_more():
    standings = [Standing(k, 1_000, done=900 + 10 * k) for k in range(3)]
    chunks = plan_wave(standings, speeds_of([0.05, 0.06, 0.07]), segment=10)
    assert {c.trial: c.segments for c in chunks} == {0: 10, 1: 9, 2: 8}
    assert len({c.time_box for c in chunks}) == 1 and chunks[0].time_box > 1.5 * max(c.seconds for c in chunks)


def test_where_waves_cost_more_there_are_fewer_of_them():
    standings, speeds = [Standing(k, 6_000) for k in range(12)], speeds_of([0.02 * (1 + k % 5) for k in range(12)])
    counts = [len(drive(standings, speeds, fixed=fixed)[1]) for fixed in (0.5, 5.0, 60.0)]
    assert counts[0] > counts[1] > counts[2] >= 2


def test_a_wave_that_nobody_but_one_is_quick_enough_for_is_long_enough_for_it():
    standings = [Standing(k, 100) for k in range(2)]
    chunks = plan_wave(standings, speeds_of([60.0, 300.0], 1.2), segment=10)
    assert [(c.seat, c.segments >= 1) for c in chunks] == [(0, True)] and chunks[0].time_box >= 720
    assert LEAST_SECONDS <= LEAST_BOX


def test_halving_stops_the_worst_at_the_same_share_of_their_steps():
    standings = [Standing(k, 900) for k in range(9)]
    halving = Halving(eta=3, rungs=2)
    now, waves = drive(standings, speeds_of([0.01, 0.02]), halving, score=lambda one: float(one.number))
    assert [one.done for one in now] == [100] * 6 + [300] * 2 + [900], "a higher number scores better here"
    assert sum(one.done for one in now) == steps_in_all([900] * 9, halving, 10) == 2_100
    assert len(waves) > 3


@pytest.mark.parametrize("halving", HALVINGS)
@pytest.mark.parametrize("count", [5, 24])
def test_the_forecast_is_about_what_happens(halving: Halving | None, count: int):
    """Waves are chosen anew each time, so what happens may be a little sooner; vanishing is forecast and not here."""
    standings, speeds = [Standing(k, 6_000) for k in range(count)], speeds_of([0.02, 0.04, 0.03], 1.001)
    found = forecast(standings, speeds, segment=10, halving=halving)
    _, waves = drive(standings, speeds, halving)
    took = makespan(waves) + 5 * len(waves)
    assert 0.85 * (found.seconds + 5 * found.waves) < took < 1.05 * (found.seconds + 5 * found.waves)
    assert found.largest == tuple(sorted(found.largest, reverse=True))
    assert max(c.segments * 10 for chunks in waves for c in chunks) <= 1.6 * found.largest[0]


def test_many_trainings_keep_unequal_contributors_busy():
    """Ideal: all work at the joint speed. The forecast counts that some vanish."""
    work = SearchWork(steps=(20_000,) * 32, weights=(1.0,) * 32, most_segments=(10**6,) * 32, segment=10)
    seconds = [0.08, 0.04, 0.02, 0.01]
    found = forecast(work.standings(), speeds_of(seconds), segment=10)
    assert found.seconds < 1.08 * 32 * 20_000 / sum(1 / s for s in seconds)
