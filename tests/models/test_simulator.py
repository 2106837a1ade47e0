"""The simulator against what is known without it: single machines by hand, the bound, who vanishes, who comes late."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.facts import Candidate, JobFacts, Prediction
from models.plan import JobPlan, plan_job
from models.selection import Ranked
from models.simulated_units import simulate_units
from models.simulator import Machine, Simulation, World, simulate

STEPS = 2_000
CALM = World(dispatch=5.0, jitter=0.0)


def ranked(seconds: list[float], first: int = 0) -> list[Ranked]:
    return [
        Ranked(
            Candidate(agent=f"a{i}", wallet=f"w{i}", device_class="c", ask=1),
            Prediction(agent=f"a{i}", seconds=s, low=s / 1.6, high=s * 1.6, base=s, source="rank-1"),
            1,
            1.0,
        )
        for i, s in enumerate(seconds, first)
    ]


def planned(seconds: list[float], spare: list[Ranked] | None = None) -> JobPlan:
    profile = {"overhead": 0.0, "per_sample": 1.0}
    job = JobFacts.model_validate({"features": {}, "samples": STEPS, "batch": 1, "profile": profile})
    return plan_job(job, ranked(seconds), predictor="p", version="0", spare=spare or [])


def test_one_machine_by_hand() -> None:
    plan = planned([1.0])
    done = simulate(plan, [Machine(2.0)], np.random.default_rng(0), CALM)
    assert done.seconds == pytest.approx(2 * STEPS + 5 * done.rounds) and done.busy == pytest.approx(2 * STEPS)
    slow = World(dispatch=5.0, jitter=0.0, update=100.0, rows=1_000.0)
    line = simulate(plan, [Machine(2.0, bandwidth=50.0)], np.random.default_rng(0), slow)
    assert line.seconds == pytest.approx(2 * STEPS + 5 * line.rounds + 2 * line.rounds + 20)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0.2, 5.0), min_size=1, max_size=8), st.integers(0, 100), st.floats(0, 0.2))
def test_never_below_the_bound_and_all_work_is_done(seconds: list[float], seed: int, jitter: float) -> None:
    plan, rng = planned([1.0] * len(seconds)), np.random.default_rng(seed)
    done = simulate(plan, [Machine(s) for s in seconds], rng, World(dispatch=0.0, jitter=jitter))
    assert done.seconds >= plan.total_steps / sum(1 / s for s in seconds) * np.exp(-4 * jitter) * (1 - 1e-9)
    assert done.seconds < inf and len(done.kept) == len(seconds) and done.late == 0
    assert len(done.told) == done.rounds


def test_calm_and_known_machines_come_near_the_bound() -> None:
    seconds = [1.0, 1.3, 0.8, 1.1, 0.9, 1.2]
    done = simulate(planned(seconds), [Machine(s) for s in seconds], np.random.default_rng(0), World(0.0, 0.0))
    assert done.seconds < 1.1 * STEPS / sum(1 / s for s in seconds)


def test_the_quick_are_kept_and_one_that_was_not_comes_back_for_who_vanishes() -> None:
    plan = planned([1.0] * 4, ranked([1.0] * 4, 4))
    assert len(plan.racers) == 4 and plan.pilot_segments
    true = [3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0]
    calm = simulate(plan, [Machine(s) for s in true], np.random.default_rng(0), CALM)
    assert set(calm.kept) == {2, 3, 4, 5}
    machines = [Machine(s, until=calm.seconds / 2 if i == 4 else inf) for i, s in enumerate(true)]
    stormy = simulate(plan, machines, np.random.default_rng(0), CALM)
    assert set(stormy.kept) == {2, 3, 5, 6} and stormy.late == 1
    assert calm.seconds < stormy.seconds < 1.4 * calm.seconds


def test_a_latecomer_takes_a_free_place_and_nobody_left_ends_it() -> None:
    plan = planned([1.0, 1.0])
    machines = [Machine(1.0), Machine(1.0, until=100.0)]
    alone = simulate(plan, machines, np.random.default_rng(0), CALM)
    joined = simulate(
        plan, machines, np.random.default_rng(0), CALM, [(ranked([1.0], 7)[0], Machine(1.0, since=300.0))]
    )
    assert joined.late == 1 and joined.seconds < alone.seconds - 200
    busy = Simulation(
        plan,
        dict(enumerate(machines)),
        np.random.default_rng(0),
        CALM,
        [(ranked([1.0], 7)[0], Machine(1.0, since=300.0))],
        free=lambda agent: agent != "a7",
    )
    while busy.step():
        pass
    assert busy.outcome().late == 0
    gone = simulate(plan, [Machine(1.0, until=50.0)] * 2, np.random.default_rng(0), CALM)
    assert gone.seconds == inf and gone.kept == ()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 3_000),
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(1, 3_000) | st.just(inf)), min_size=1, max_size=8),
    st.booleans(),
)
def test_every_unit_is_done_while_somebody_stays(total: int, crowd: list[tuple[float, float]], ahead: bool) -> None:
    machines = [Machine(s, until=u) for s, u in crowd]
    took = simulate_units(total, machines, np.random.default_rng(0), ahead=ahead)
    if any(m.until == inf for m in machines):
        assert took < inf
    if took < inf and total:
        assert took >= total / sum(1 / m.seconds for m in machines) * 0.8
    assert took <= 5 * total + 10 * total + 3_000 or took == inf


def test_asking_ahead_hides_the_dispatch() -> None:
    machines = [Machine(0.1 * (1 + i % 5)) for i in range(20)]
    bound = 40_000 / sum(1 / m.seconds for m in machines) + 5
    later, ahead = (simulate_units(40_000, machines, np.random.default_rng(1), ahead=a) / bound for a in (False, True))
    assert 1 <= ahead < later < 1.2 and ahead < 1.06
    with pytest.raises(ValueError, match="machines"):
        simulate_units(1, [], np.random.default_rng(0))
