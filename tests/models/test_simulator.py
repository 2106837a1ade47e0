"""The simulator against what is known without it: single machines by hand, the bound, who vanishes, who comes late."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.search import Halving
from models.auditing import shown_seconds
from models.facts import Candidate, JobFacts, Prediction
from models.plan import JobPlan, plan_job
from models.selection import Ranked
from models.simulator import Machine, Search, Simulation, World, simulate
from models.trials import SearchWork

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


@pytest.mark.parametrize("audit", [1.0, 10_000.0])
def test_audits_run_beside_all_rounds_but_the_first_and_the_last(audit: float) -> None:
    """What of them shows is what the quote says shows, where rounds are alike."""
    plan = planned([1.0])
    free = simulate(plan, [Machine(1.0)], np.random.default_rng(0), World(dispatch=0.0, jitter=0.0))
    done = simulate(plan, [Machine(1.0)], np.random.default_rng(0), World(0.0, 0.0, audit=audit))
    assert done.rounds == free.rounds > 3
    more = done.seconds - free.seconds
    if audit == 1.0:
        assert more == pytest.approx(2 * audit) == shown_seconds(audit * done.rounds, done.rounds, free.seconds)
    else:  # each is longer than a round, and begins when the one before it has ended
        assert 2 * audit < more <= done.rounds * audit


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


def searched(
    trials: int, seconds: list[float], steps: int = 2_000, halving: Halving | None = None, weights: float = 1.0
) -> tuple[JobPlan, SearchWork]:
    work = SearchWork(
        steps=(steps,) * trials,
        weights=tuple(weights if k % 2 else 1.0 for k in range(trials)),
        most_segments=(10**6,) * trials,
        segment=10,
        halving=halving,
    )
    return planned(seconds), work


def run_search(plan: JobPlan, work: SearchWork, machines: list[Machine], world: World, seed: int = 0) -> Search:
    running = Search(plan, dict(enumerate(machines)), np.random.default_rng(seed), world, search=work)
    while running.step():
        pass
    return running


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.floats(0.02, 0.5), st.floats(1, 3_000) | st.just(inf)), min_size=1, max_size=6),
    st.sampled_from([None, Halving(eta=2, rungs=1)]),
    st.sampled_from([1.0, 0.5]),
)
def test_every_step_of_a_search_is_done_while_somebody_stays(
    trials: int, crowd: list[tuple[float, float]], halving: Halving | None, weights: float
) -> None:
    plan, work = searched(trials, [0.1] * len(crowd), 400, halving, weights)
    done = run_search(plan, work, [Machine(s, until=u) for s, u in crowd], World(5.0, 0.05))
    steps = sum(one.done for one in done.trials)
    if any(u == inf for _, u in crowd):
        assert done.outcome().seconds < inf and steps == work.total_steps
    if done.outcome().seconds < inf:
        full = sum(one.done * one.weight for one in done.trials)
        assert done.outcome().seconds >= full / sum(1 / s for s, _ in crowd) * 0.8


def test_a_search_comes_near_the_bound_and_one_slow_contributor_holds_nobody_up() -> None:
    true = [0.1, 0.12, 0.08, 0.11, 0.09, 0.1]
    plan, work = searched(24, [0.1] * 6)
    calm = run_search(plan, work, [Machine(s) for s in true], World(1.0, 0.05))
    bound = 24 * 2_000 / sum(1 / s for s in true) + 1
    assert bound < calm.outcome().seconds < 1.08 * bound
    slow = run_search(plan, work, [Machine(s) for s in [1.0, *true[1:]]], World(1.0, 0.05))
    assert slow.outcome().seconds < 1.1 * (24 * 2_000 / (sum(1 / s for s in true[1:]) + 1) + 1)
