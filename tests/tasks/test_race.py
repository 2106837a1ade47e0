"""The race with real contributors on a real chain: who is kept, paid, asked again, and what a kill in between costs.

Speeds are put in where the gateway's clock would have measured them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import flows.train as flow
from cloudlinkup.jobs import JobStore
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.types import JobSpec
from tasks.context import Run
from tasks.rebalance import _learn, _tally
from tasks.rounds import next_round
from tasks.state import JobState
from tasks.train import order_round, train_round
from tests.conftest import Platform
from tests.tasks.conftest import STEP, Rig
from tests.tasks.on_chain import join
from tests.tasks.test_ending import PLAN, lock

SECONDS = {0: 0.3, 1: 0.1, 2: 0.2, 3: 0.4}  # of a pilot's shard
PILOT = 2  # segments


@pytest.fixture
async def race(rig: Rig, platform: Platform) -> AsyncIterator[Rig]:
    """Four candidates for two places, locked."""
    run = rig.run
    rig.add("three")
    rig.add("four")
    async with Ledger.connect(platform.chain.url, platform.chain.program_id, poll=0.02) as ledger:
        places = await join(rig, platform, ledger, 2)
        plan = PLAN.model_copy(update={"seats": places[:2], "racers": places[2:], "pilot_segments": PILOT})
        run.state.plan = json.loads(plan.model_dump_json())
        await lock(run, platform, 3_600)
        yield rig


async def pilot(rig: Rig) -> None:
    """Plans and trains the pilot; it counts as verified with the seconds above."""
    run = rig.run
    assert await next_round(run) and run.plan is not None
    assert {s.seat: s.max_segments for s in run.plan.seats} == dict.fromkeys(SECONDS, PILOT)
    await order_round.fn(run)
    await train_round.fn(run)
    assert run.round is not None
    for entry in run.round.entries:
        assert entry.outcome == "committed", entry.reason
        entry.outcome, entry.seconds = "accepted", SECONDS[entry.seat]
        _learn(run, entry, 0.0)
        _tally(run, entry)
    run.state.round, run.state.steps_done, run.round = 1, 4 * PILOT * STEP, None
    run.save()


def died(run: Run) -> None:
    """Only what was stored is left."""
    text = run.store.state(run.request_id)
    assert text is not None
    run.state, run.plan = JobState.model_validate_json(text), None


def kinds(run: Run) -> list[str]:
    return [event.kind for event in run.store.events(run.request_id)]


async def test_the_best_are_kept_once_and_the_others_come_back(race: Rig) -> None:
    run = race.run
    await pilot(race)
    assert await next_round(run) and run.plan is not None
    assert {s.seat for s in run.plan.seats} | set(run.plan.idle) == {1, 2}
    assert (race.run.state.seat(0).agent, "finish") in race.cluster.calls
    died(run)
    assert await next_round(run) and run.plan is not None, "taken up again"
    assert {s.seat for s in run.state.active()} == {1, 2} and kinds(run).count("raced") == 1
    gone = race.cluster.by_agent.pop(run.state.seat(1).agent)
    assert await next_round(run)
    assert {s.seat for s in run.state.active()} == {0, 2}, "the fastest of the others"
    race.cluster.by_agent[run.state.seat(1).agent] = gone
    assert await next_round(run)
    assert {s.seat for s in run.state.active()} == {0, 2}, "its place is taken"
    await order_round.fn(run)
    await train_round.fn(run)
    assert run.round is not None
    assert {e.seat: e.outcome for e in run.round.entries} == {0: "committed", 2: "committed"}, (
        "rows and weights come anew"
    )


async def test_who_was_away_at_the_race_takes_no_place(race: Rig) -> None:
    run = race.run
    await pilot(race)
    gone = race.cluster.by_agent.pop(run.state.seat(0).agent)
    assert await next_round(run)
    race.cluster.by_agent[run.state.seat(0).agent] = gone
    assert await next_round(run)
    assert {s.seat for s in run.state.active()} == {1, 2}


async def test_the_pilot_is_held_again_where_all_that_delivered_left(race: Rig) -> None:
    run = race.run
    await pilot(race)
    for seat in run.state.seats[:3]:
        seat.accepted = 0
    race.cluster.by_agent.pop(run.state.seat(3).agent)
    assert await next_round(run) and run.plan is not None
    assert run.state.raced == "" and {s.seat for s in run.plan.seats} == {0, 1, 2}


async def test_the_caps_of_the_losers_bind_the_budget(race: Rig) -> None:
    run = race.run
    await pilot(race)
    assert run.state.terms is not None
    # two losers hold 140 units: enough for the rest without them, not with them
    steps = run.state.total_steps - run.state.steps_done
    run.state.terms.budget = (steps * 7 + 70) * 10_100 // 10_000 + 2
    assert not await next_round(run)
    assert "budget" in run.state.ended_early and run.state.raced == "ended"
    died(run)
    race.cluster.by_agent.clear()
    assert not await next_round(run), "it ended, whoever is here"
    assert kinds(run).count("race_ended") == 1


async def test_a_pilot_that_is_too_slow_ends_the_job(race: Rig) -> None:
    run = race.run
    await pilot(race)
    run.job = run.job.model_copy(update={"deadline": run.job.deadline.fromtimestamp(1, run.job.deadline.tzinfo)})
    assert not await next_round(run)
    assert "deadline" in run.state.ended_early and run.state.raced == "ended"


async def test_an_unexpected_error_is_stored_without_its_words(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def opened(job: JobSpec, *_: Any) -> AsyncIterator[Run]:
        yield rig.run

    async def breaks(_: Run) -> None:
        raise ZeroDivisionError("secret row")

    monkeypatch.setattr(flow, "open_run", opened)
    monkeypatch.setattr(flow, "_stages", breaks)
    with pytest.raises(ZeroDivisionError):
        await flow.train.fn(rig.run.job, rig.run.request_id)
    view = JobStore(rig.run.settings.home.jobs_db).view(rig.run.request_id)
    assert view is not None and view.error is not None and view.stage == "segment"
    assert view.error["error"] == "ZeroDivisionError" and "secret" not in json.dumps(view.error)
