"""A seat that looked slow is measured again: seldom, for ever, and at no cost that grows."""

from __future__ import annotations

from dataclasses import replace
from math import log, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.again import AFTER, MOST_DOUBLINGS, Waited
from models.correction import Correction
from models.plan import BELL, LEAST_BOX, plan_round
from models.simulator import Machine, Simulation, World
from tests.models.test_race import planned, speed


@given(st.lists(st.booleans(), max_size=400))
def test_nobody_waits_for_ever_and_tries_grow_with_the_logarithm(others: list[bool]) -> None:
    """`others`: the rounds in which the planner has work for it by itself."""
    waited, tries, without = Waited(), 0, 0
    for planned_ in others:
        tried = not planned_ and waited.due
        tries = 0 if planned_ and not waited.rounds else tries + tried
        without = 0 if planned_ or tried else without + 1
        waited = waited.after(worked=planned_ or tried)
        assert without == waited.rounds <= AFTER * 2 ** min(waited.tries, MOST_DOUBLINGS)
    if not any(others):
        assert tries <= log2(len(others) / AFTER + 1)
        assert tries >= 1 or len(others) <= AFTER


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4_000), st.lists(st.floats(1e-3, 10), min_size=1, max_size=9), st.data())
def test_trying_changes_nothing_for_the_others(remaining: int, seconds: list[float], data: st.DataObject) -> None:
    plan = planned([1.0, 1.0, 1.0, 1.0])
    speeds = {i: speed(i, s, data.draw(st.floats(1.0, 4.0))) for i, s in enumerate(seconds)}
    most = {i: data.draw(st.integers(0, 500)) for i in speeds if data.draw(st.booleans())}
    before = {i: data.draw(st.floats(0, 20)) for i in speeds}
    again = {i for i in speeds if data.draw(st.booleans())}
    usual = plan_round(plan, 3, remaining, speeds, most_steps=most, overheads=before)
    found = plan_round(plan, 3, remaining, speeds, most_steps=most, overheads=before, again=again)
    tried = [s for s in found.seats if s.again]
    same = [(s.seat, s.max_segments, s.time_box) for s in found.seats if not s.again]
    assert same == [(s.seat, s.max_segments, s.time_box) for s in usual.seats]
    assert found.seconds == usual.seconds and found.steps <= remaining
    assert {s.seat for s in tried} <= again & set(usual.idle)
    for one in tried:
        assert one.max_segments == 1 and one.steps <= most.get(one.seat, remaining)
        assert one.time_box <= max(LEAST_BOX, BELL * usual.seconds - before[one.seat])
    room = remaining // plan.segment_steps - usual.steps // plan.segment_steps
    able = [s for s in again & set(usual.idle) if most.get(s, remaining) >= plan.segment_steps]
    assert len(tried) == min(room, len(able))


def job(true: float, *, trying: bool, looks: float = 1.0, overhead: float = 0.0) -> Simulation:
    """Three machines and one whose step takes `true` seconds; after the first round it is believed to take `looks`,
    its order to take `overhead`."""
    machines = {i: Machine(true if i == 3 else 1.0) for i in range(4)}
    going = Simulation(
        planned([1.0] * 4), machines, np.random.default_rng(0), World(dispatch=5.0, jitter=0.0), tells=False
    )
    going.step()
    going.beliefs[3] = replace(going.beliefs[3], mean=log(looks))
    going.transfer[3] = overhead
    while not going.done:
        if not trying:
            going.waited = {}
        going.step()
    return going


@pytest.mark.parametrize(("looks", "overhead"), [(30.0, 0.0), (1.0, 1e6)], ids=["slow", "long orders"])
def test_one_that_looked_too_slow_once_is_back(looks: float, overhead: float) -> None:
    never, back = (job(1.0, trying=trying, looks=looks, overhead=overhead) for trying in (False, True))
    assert back.work[3] > 2 * never.work[3] and back.now < 0.9 * never.now


def test_one_that_is_too_slow_costs_nothing() -> None:
    never, tried = (job(30.0, trying=trying, looks=30.0) for trying in (False, True))
    assert tried.now <= 1.01 * never.now
    assert tried.beliefs[3].prediction.seconds > 20.0, "what it could not finish made it no quicker"


def test_nothing_finished_makes_nobody_quicker() -> None:
    belief = Correction.start(speed(0, 100.0, 1.5)).observe(100.0, 1, 10)
    same = belief.unfinished(10.0, 1)
    assert same.mean == belief.mean and same.segments == belief.segments + 1
    assert belief.unfinished(1_000.0, 1).mean > belief.mean
