"""A contributor keeps its optimizer state across rounds: from the order's hash, through restarts, until the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cloudlinkup.training.moments import moments_size
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.training.states import hash_state, moments_of
from cloudlinkup.wire.calls import FinishCall, TrainReply
from cloudlinkup.wire.hashes import segment_leaf, sha256
from cloudlinkup.wire.messages import Commit, Order, Signed
from tests.agent.flow import JOB_ID, PAY, SEAT, STEPS, Desk, small_spec, until

STEPS_A_ROUND = 4 * STEPS


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return keeping(make_desk())


def keeping(desk: Desk) -> Desk:
    desk.flow.spec = small_spec(rounds="kept")
    return desk


def states(desk: Desk, signed: Signed, moments: bytes | None) -> list[bytes]:
    order = Order.model_validate_json(signed.text)
    flow = desk.flow
    runner = SegmentRunner(flow.spec, ShardWork.of(order), flow.weights, flow.features, flow.targets, moments=moments)
    found = [runner.state_bytes()]
    while runner.run_segment():
        found.append(runner.state_bytes())
    return found


async def kept_round(desk: Desk, number: int, **changes: Any) -> tuple[Signed, TrainReply, Commit]:
    signed, _, reply = await desk.order(round=number, **changes)
    commit = desk.flow.read(Commit, reply.commit)
    await desk.challenge(desk.flow.challenge(signed, commit))
    desk.flow.chain.job.seats[SEAT].awarded += STEPS_A_ROUND * PAY
    return signed, reply, commit


async def test_rounds_go_on_from_each_other(desk: Desk) -> None:
    moments, named = None, {}
    for number in (1, 2, 3, 4, 5):
        signed, _, commit = await kept_round(desk, number, **named)
        found = states(desk, signed, moments)
        moments = moments_of(found[-1])
        assert commit.end_moments == sha256(moments)
        named = {"moments": sha256(moments), "steps_before": number * STEPS_A_ROUND}
    assert len(list((desk.jobs / JOB_ID).glob("moments-*"))) == 4
    await desk.handler.finish(FinishCall(job_id=JOB_ID, reason="done"))
    assert not list(desk.jobs.iterdir())


async def test_the_start_is_shown_by_its_moments_alone(desk: Desk) -> None:
    first, _, commit = await kept_round(desk, 1)
    moments = moments_of(states(desk, first, None)[-1])
    signed, _, reply = await desk.order(round=2, moments=sha256(moments), steps_before=STEPS_A_ROUND)
    order, commit = Order.model_validate_json(signed.text), desk.flow.read(Commit, reply.commit)
    shown = await desk.challenge(desk.flow.challenge(signed, commit, open=(1, 3)))
    opened = [await desk.flow.open(o.state, order, "opening", o.at) for o in shown.openings]
    assert opened[0] == moments and len(moments) == moments_size(len(desk.flow.weights))
    wallet, found = desk.identity.wallet, states(desk, signed, moments)
    assert opened[1] == found[2] and wallet
    from solders.pubkey import Pubkey

    leaf = segment_leaf(bytes(Pubkey.from_string(wallet)), 2, STEPS, hash_state(opened[1]))
    assert leaf == shown.leaves[2]


@pytest.mark.parametrize("lost", ["deleted", "damaged", "never had"])
async def test_what_it_does_not_have_is_refused_and_a_fresh_order_taken(desk: Desk, lost: str) -> None:
    first, _, _ = await kept_round(desk, 1)
    moments = moments_of(states(desk, first, None)[-1])
    name = sha256(moments)
    for path in (desk.jobs / JOB_ID).glob("moments-*"):
        if lost == "deleted":
            path.unlink()
        elif lost == "damaged":
            path.write_bytes(path.read_bytes()[:-9] + bytes(9))
        else:
            name = "ab" * 32
    signed = desk.flow.order(round=2, moments=name, steps_before=STEPS_A_ROUND)
    reply, ack = await desk.train(await desk.flow.call(signed))
    bad = desk.flow.bad(ack)
    assert (reply, bad.reason) == (None, "moments")
    fresh, _, _ = await desk.order(round=2, attempt=1)
    assert '"moments"' not in fresh.text and "steps_before" not in fresh.text


async def test_steps_that_the_state_does_not_have_are_refused(desk: Desk) -> None:
    first, _, _ = await kept_round(desk, 1)
    moments = sha256(moments_of(states(desk, first, None)[-1]))
    lies: list[dict[str, Any]] = [{"moments": moments, "steps_before": 5}, {"steps_before": 5}]
    for changes in lies:
        reply, ack = await desk.train(await desk.flow.call(desk.flow.order(round=2, **changes)))
        assert (reply, desk.flow.bad(ack).reason) == (None, "terms")


async def test_killed_in_the_middle_it_goes_on_with_the_same_state(make_desk: Callable[..., Desk]) -> None:
    class Slow(SegmentRunner):
        def step(self, index: int) -> None:
            time.sleep(0.02)
            super().step(index)

    desk = keeping(make_desk())
    first, _, _ = await kept_round(desk, 1)
    moments = moments_of(states(desk, first, None)[-1])
    slow = keeping(make_desk(flow=desk.flow, runner_factory=Slow))
    signed = desk.flow.order(round=2, moments=sha256(moments), steps_before=STEPS_A_ROUND)
    call = await desk.flow.call(signed)
    io = slow.io(call)
    task = asyncio.create_task(slow.handler.train(call, io))
    await until(lambda: any(event == "segment" for event, _ in slow.events))
    io.abandoned = True  # stops at once, and keeps what is on disk, as a kill does
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not slow.handler.busy)
    again = keeping(make_desk(flow=desk.flow))
    reply, _ = await again.train(call)
    assert reply is not None
    commit = desk.flow.read(Commit, reply.commit)
    assert commit.end_moments == sha256(moments_of(states(desk, signed, moments)[-1]))
    assert min(facts["done"] for event, facts in again.events if event == "segment") > 1


async def test_a_stateless_job_says_and_keeps_nothing_of_it(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    _, _, reply = await desk.order()
    assert "end_moments" not in reply.commit.text
    assert not list((desk.jobs / JOB_ID).glob("moments-*"))
    assert np.isfinite(desk.flow.weights).all()
