"""The newcomer's shard with real contributors on a real chain: same rows, audited, both paid, one aggregated."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import numpy as np
import pytest

from cloudlinkup.errors import ContributorLost
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.training.aggregate import aggregate
from cloudlinkup.training.quantize import dequantise
from models.telemetry import Telemetry
from tasks.awards import read_job
from tasks.orders import read_order, update_name
from tasks.rebalance import _count, _count_audit, _record
from tasks.release import release
from tasks.rounds import next_round
from tasks.state import JobState, RoundState
from tasks.train import _begin, order_round, train_round
from tasks.verify import verify_round
from tests.conftest import Platform
from tests.tasks.conftest import STEP, Rig
from tests.tasks.on_chain import join
from tests.tasks.test_ending import PLAN, lock

SEGMENTS = 3


@pytest.fixture
async def market(rig: Rig, platform: Platform) -> AsyncIterator[Rig]:
    """Two known contributors with the two places, and a newcomer's seat, locked."""
    run = rig.run
    rig.add("new")
    async with Ledger.connect(platform.chain.url, platform.chain.program_id, poll=0.02) as ledger:
        places = await join(rig, platform, ledger, 2)
        more = {"seats": places[:2], "newcomer": places[2], "newcomer_segments": SEGMENTS, "known": (0, 1)}
        plan = PLAN.model_copy(update=more)
        run.state.plan = json.loads(plan.model_dump_json())
        run.state.seats[2].dropped, run.state.seats[2].state = True, "idle"
        await lock(run, platform, 3_600)
        yield rig


def entries(rig: Rig) -> RoundState:
    assert rig.run.round is not None
    return rig.run.round


async def whole_round(rig: Rig) -> RoundState:
    """One round as the flow runs it, up to what it adds to the job's state."""
    run = rig.run
    assert await next_round(run)
    await order_round.fn(run)
    await train_round.fn(run)
    await verify_round.fn(run)
    await release.fn(run)
    round_ = entries(rig)
    await _count(run, round_)
    await _record(run, round_)
    _count_audit(run, round_)
    run.round = None
    return round_


async def test_the_newcomers_shard_is_paid_beside_its_partners_and_one_is_aggregated(market: Rig) -> None:
    run = market.run
    before = run.weights.weights.copy()
    assert await next_round(run) and run.plan is not None
    assert run.plan.seats[-1].seat == 2 and run.plan.seats[-1].twin in (0, 1)
    twin = run.plan.seats[-1].twin
    round_ = await whole_round(market)
    outcomes = {e.seat: (e.outcome, e.reason) for e in round_.entries}
    assert outcomes == {0: ("accepted", ""), 1: ("accepted", ""), 2: ("accepted", "")}
    new, partner = (next(e for e in round_.entries if e.seat == s) for s in (2, twin))
    assert new.replayed >= 2, "audited like anybody's first round"
    assert read_order(run, new).partition_hash == read_order(run, partner).partition_hash
    assert new.segments == SEGMENTS

    job = await read_job(run)
    assert [seat.awarded for seat in job.seats] == [
        next(e.segments for e in round_.entries if e.seat == s) * STEP * 7 for s in (0, 1, 2)
    ]
    counted = [e for e in round_.entries if e.seat != 2]
    assert run.state.steps_done == sum(e.segments for e in counted) * STEP
    updates = {
        e.seat: (
            dequantise((run.folder / update_name(round_.round, e.seat)).read_bytes(), len(before)),
            e.segments * STEP,
        )
        for e in counted
    }
    assert np.array_equal(run.weights.weights, before + aggregate(updates).update)
    record = await Telemetry(run.settings.home.telemetry_db).track_record(run.state.seat(2).wallet, str(run.owner))
    assert record.valid == 1 and record.on_time == 1, "it is on record now"

    assert await next_round(run) and run.plan is not None
    assert [s.seat for s in run.plan.seats if s.twin is not None] == [], "one shard a job"
    assert 2 not in {s.seat for s in run.plan.seats}


async def test_it_stands_in_for_its_partner_and_takes_its_place(market: Rig) -> None:
    run = market.run
    assert await next_round(run) and run.plan is not None
    twin = run.plan.seats[-1].twin
    assert twin is not None
    market.cluster.fails[run.state.seat(twin).agent] = ContributorLost("gone in the round")
    round_ = await whole_round(market)
    outcomes = {e.seat: e.outcome for e in round_.entries}
    assert outcomes[twin] == "lost" and outcomes[2] == "accepted"
    assert run.state.steps_done == sum(e.segments for e in round_.entries if e.outcome == "accepted") * STEP
    del market.cluster.by_agent[run.state.seat(twin).agent]
    assert await next_round(run) and run.plan is not None
    assert {s.seat for s in run.plan.seats} == {2, 1 - twin}, "measured, so it takes the place that is free"
    await order_round.fn(run)
    await train_round.fn(run)
    assert {e.seat: e.outcome for e in entries(market).entries} == {2: "committed", 1 - twin: "committed"}


async def test_who_cheats_in_it_is_not_paid_and_never_asked_again(market: Rig) -> None:
    run = market.run
    assert await next_round(run)
    await order_round.fn(run)
    await train_round.fn(run)
    new = entries(market).entries[-1]
    path = run.folder / update_name(entries(market).round, 2)
    path.write_bytes(path.read_bytes()[::-1])  # what it sent is not what its states lead to
    await verify_round.fn(run)
    assert (new.seat, new.outcome) == (2, "rejected")
    await release.fn(run)
    round_ = entries(market)
    await _count(run, round_)
    await _record(run, round_)
    _count_audit(run, round_)
    run.round = None
    assert (await read_job(run)).seats[2].awarded == 0
    del market.cluster.by_agent[run.state.seat(0).agent]
    assert await next_round(run) and run.plan is not None
    assert {s.seat for s in run.plan.seats} == {1}


async def test_killed_after_the_orders_it_goes_on_with_the_same_shard(market: Rig) -> None:
    run = market.run
    assert await next_round(run) and run.plan is not None
    await _begin(run, run.plan)
    sent = [e.order for e in entries(market).entries]
    state, stored = run.store.state(run.request_id), run.store.rounds(run.request_id)
    assert state is not None
    run.state, run.round = JobState.model_validate_json(state), RoundState.model_validate_json(stored[-1])
    assert await next_round(run)
    await order_round.fn(run)
    await train_round.fn(run)
    await verify_round.fn(run)
    found = entries(market).entries
    assert [e.order for e in found] == sent and {e.outcome for e in found} == {"accepted"}
    run.round = None
    assert await next_round(run) and run.plan is not None
    assert all(s.twin is None for s in run.plan.seats)


async def test_there_is_no_shard_where_the_budget_holds_no_more_than_the_job(market: Rig) -> None:
    run = market.run
    assert run.state.terms is not None
    run.state.terms.budget = (run.state.total_steps * 7) * 10_100 // 10_000 + 2
    assert await next_round(run) and run.plan is not None
    assert all(s.twin is None for s in run.plan.seats)
