"""The commitment of a round that goes ahead is on its way while the next is planned. No order goes out before it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from cloudlinkup.errors import JobFailed, NotConfirmed, ProgramError, ShardTimeout
from flows.train import _close_books
from tasks.rebalance import close_round, rebalance
from tasks.release import release
from tasks.rounds import next_round
from tasks.together import every
from tasks.train import order_round, train_round
from tasks.verify import ahead_committed, verify_round
from tests.tasks.conftest import Rig
from tests.tasks.test_ahead import a_round, market

__all__ = ["market"]


def asked(market: Rig) -> list[str]:
    """The paths and orders that go to contributors from now on: their kind and round, "path 2"."""
    keys, real = [], market.cluster.call

    async def call(to: str, request: Any, key: str) -> Any:
        kind, round_ = key.partition("-")[0], key.rsplit("-", 3)[1]
        keys.append(f"{kind} {round_}")
        return await real(to, request, key)

    market.cluster.call = call  # type: ignore[method-assign]
    return keys


async def test_planning_and_sealing_wait_for_no_commitment_and_orders_do(
    market: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = market.run
    await a_round(run)
    lands, real = asyncio.Event(), run.ledger.commit_round

    async def slowly(*args: Any) -> list[str]:
        await lands.wait()
        return await real(*args)

    monkeypatch.setattr(run.ledger, "commit_round", slowly)
    keys = asked(market)
    second = await a_round(run)
    assert second is not None and second.ahead and second.stage == "trained"
    assert await next_round(run)
    await order_round.fn(run)
    assert run.round is not None and run.round.stage == "ordered", "it is stored, and its caps are raised"
    going = asyncio.create_task(every(train_round.fn(run), close_round.fn(run)))
    await asyncio.sleep(0.3)
    assert not {"path 2", "train 3"} & set(keys)
    lands.set()
    await going
    said = [key for key in keys if key in ("path 2", "train 3")]
    assert said == ["path 2"] * len(second.entries) + ["train 3"] * len(run.round.entries), "each path once"
    await verify_round.fn(run)
    await release.fn(run)
    await rebalance.fn(run)
    assert {entry.outcome for entry in second.entries} == {"accepted"}


async def test_whose_path_was_lost_gets_it_with_its_order(market: Rig) -> None:
    run = market.run
    await a_round(run)
    agent, real, lost = run.state.seat(1).agent, market.cluster.call, [0]

    async def deaf(to: str, request: Any, key: str) -> Any:
        if to == agent and key.startswith("path-") and not lost[0]:
            lost[0] += 1
            raise ShardTimeout("the line is down")
        return await real(to, request, key)

    market.cluster.call = deaf  # type: ignore[method-assign]
    second = await a_round(run)
    assert second is not None and second.ahead
    await ahead_committed(run)
    taken = await asyncio.gather(*run.handing.values())
    assert lost[0] == 1 and sorted(taken) == [False, True, True]
    keys = asked(market)
    third = await a_round(run)
    assert third is not None and {entry.outcome for entry in third.entries} == {"committed"}
    assert [entry.attempt for entry in third.entries] == [2, 2, 2], "nobody had to refuse"
    assert keys.count("path 2") == 1


async def test_a_commitment_that_fails_ends_the_run_and_is_made_again_by_the_next(
    market: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = market.run
    await a_round(run)

    async def fails(*_: Any) -> list[str]:
        raise NotConfirmed("its block hash expired")

    with monkeypatch.context() as patch:
        patch.setattr(run.ledger, "commit_round", fails)
        second = await a_round(run)
        assert second is not None and second.ahead
        with pytest.raises(NotConfirmed):
            await a_round(run)
    third = await a_round(run)
    assert third is not None
    assert {entry.outcome for entry in second.entries} == {"accepted"}


async def test_a_round_that_the_deadline_left_uncommitted_is_taken_out(
    market: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that died with the commitment on its way, and was submitted again after the deadline."""
    run = market.run
    await a_round(run)
    before, done = run.weights.weights.copy(), run.state.steps_done

    async def late(*_: Any) -> list[str]:
        raise ProgramError(6022, "JobEnded", "the deadline has passed")

    monkeypatch.setattr(run.ledger, "commit_round", late)
    second = await a_round(run)
    assert second is not None and second.ahead and run.state.steps_done > done
    await close_round.fn(run)
    assert run.open is None and {entry.outcome for entry in second.entries} == {"lost"}
    assert run.state.steps_done == done and run.state.unpublished
    np.testing.assert_array_equal(run.weights.weights, before)


async def test_a_job_that_fails_with_its_commitment_unconfirmed_loses_no_work(
    market: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have landed. Whoever submits the job again has it committed, judged and paid."""
    run, told = market.run, []
    await a_round(run)

    async def unsure(*_: Any) -> list[str]:
        raise NotConfirmed("the RPC fell silent")

    monkeypatch.setattr("flows.train.close_round", close_round.fn)
    monkeypatch.setattr(run.store, "fail", lambda _, error, final: told.append((error["error"], final)))
    with monkeypatch.context() as patch:
        patch.setattr(run.ledger, "commit_round", unsure)
        second = await a_round(run)
        assert second is not None and second.ahead
        await _close_books(run, JobFailed("nobody is left"))
    assert told == [("NotConfirmed", False)] and run.open is second
    assert {entry.outcome for entry in second.entries} == {"committed"}
    await close_round.fn(run)
    assert {entry.outcome for entry in second.entries} == {"accepted"}


async def test_a_deaf_contributor_holds_up_nobody_elses_order(market: Rig) -> None:
    run = market.run
    await a_round(run)
    agent, real, hears = run.state.seat(1).agent, market.cluster.call, asyncio.Event()

    async def deaf(to: str, request: Any, key: str) -> Any:
        if to == agent and key.startswith("path-"):
            await hears.wait()
        return await real(to, request, key)

    market.cluster.call = deaf  # type: ignore[method-assign]
    second = await a_round(run)
    assert second is not None and second.ahead and await next_round(run)
    await order_round.fn(run)
    going = asyncio.create_task(train_round.fn(run))
    assert run.round is not None
    others = [entry for entry in run.round.entries if entry.seat != 1]
    async with asyncio.timeout(20):
        while {entry.outcome for entry in others} != {"committed"}:  # noqa: ASYNC110 - set by the round
            await asyncio.sleep(0.02)
    assert not going.done()
    hears.set()
    await going
    assert {entry.outcome for entry in run.round.entries} == {"committed"}
