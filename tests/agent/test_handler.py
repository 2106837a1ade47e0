"""The contributor's side of a round: the orders that it takes or refuses, and what it commits to."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.agent.checks import Refusal, check_mode
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.crypto.seal import SealingKey
from cloudlinkup.training.data import pack_partition
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.training.states import hash_state
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import shard_leaves
from cloudlinkup.wire.calls import TrainReply, WeightsRef
from cloudlinkup.wire.hashes import partition_hash, seal_context, sha256
from cloudlinkup.wire.messages import Ack, BadShard, Commit, Hardware, Order, Signed
from tests.agent.chain_server import GENESIS, ChainServer
from tests.agent.flow import JOB_ID, PAY, SEAT, STEPS, Desk, Flow, small_spec, until


def commit_of(flow: Flow, reply: TrainReply) -> Commit:
    return flow.read(Commit, reply.commit)


def honest(flow: Flow, signed: Signed) -> tuple[list[bytes], list[bytes], bytes]:
    """(states, leaves, update) of the shard, computed here."""
    order = Order.model_validate_json(signed.text)
    runner = SegmentRunner(flow.spec, ShardWork.of(order), flow.weights, flow.features, flow.targets)
    states = [runner.state_bytes()]
    while runner.run_segment():
        states.append(runner.state_bytes())
    update = quantise(runner.update())
    hashes = [hash_state(state) for state in states[1:]]
    wallet = bytes(Pubkey.from_string(flow.wallet))
    leaves = shard_leaves(signed.hash, wallet, order.segment_steps, hashes, hashlib.sha256(update).digest())
    return states, leaves, update


# ---------------------------------------------------------------- a good round


async def test_commits_to_exactly_the_honest_shard(desk: Desk) -> None:
    begun = time.monotonic()
    signed, _, reply = await desk.order()
    assert time.monotonic() - begun < 30
    _, leaves, update = honest(desk.flow, signed)
    commit = commit_of(desk.flow, reply)
    assert (commit.order, commit.segments) == (signed.hash.hex(), 4)
    assert commit.root == merkle.root(leaves).hex()
    assert commit.upload == sha256(update)
    assert reply.upload is not None
    order = Order.model_validate_json(signed.text)
    assert await desk.flow.open(reply.upload, order, "update") == update


async def test_time_box_commits_whole_segments_only(make_desk: Callable[..., Desk]) -> None:
    class Slow(SegmentRunner):
        def step(self, index: int) -> None:
            time.sleep(0.02)
            super().step(index)

    desk = make_desk(runner_factory=Slow)
    signed, _, reply = await desk.order(time_box=0.25, max_segments=50, progress_to=900_000)
    commit = commit_of(desk.flow, reply)
    _, full, _ = honest(desk.flow, signed)
    assert 1 <= commit.segments <= 3
    opened = await desk.challenge(desk.flow.challenge(signed, commit, open=(commit.segments,), after=True))
    last = opened.openings[-1]
    steps = [(step.left, step.hash) for step in last.path]
    assert merkle.check(full[commit.segments], steps, bytes.fromhex(commit.root))


async def test_a_segment_that_the_time_box_would_cut_off_is_not_begun(make_desk: Callable[..., Desk]) -> None:
    ran: list[int] = []

    class Slow(SegmentRunner):
        def step(self, index: int) -> None:
            ran.append(index)
            time.sleep(0.3)
            super().step(index)

    desk = make_desk(runner_factory=Slow)
    _, _, reply = await desk.order(time_box=1.7 * 0.3 * STEPS, max_segments=50, progress_to=900_000)
    commit = commit_of(desk.flow, reply)
    assert commit.segments == 0 or len(ran) == commit.segments * STEPS, "none only where this machine stalled"


async def test_no_segment_in_time_is_an_empty_commit(make_desk: Callable[..., Desk]) -> None:
    class Stuck(SegmentRunner):
        def step(self, index: int) -> None:
            time.sleep(0.05)

    desk = make_desk(runner_factory=Stuck)
    signed, _, reply = await desk.order(time_box=0.05)
    commit = commit_of(desk.flow, reply)
    assert (reply.upload, commit.segments, commit.upload) == (None, 0, sha256(b""))
    wallet = bytes(Pubkey.from_string(desk.flow.wallet))
    assert commit.root == merkle.root(shard_leaves(signed.hash, wallet, STEPS, [], hashlib.sha256(b"").digest())).hex()


async def test_delta_builds_on_the_kept_weights(desk: Desk) -> None:
    flow = desk.flow
    signed, _, reply = await desk.order()
    await desk.challenge(flow.challenge(signed, commit_of(flow, reply)))
    flow.chain.job.seats[SEAT].awarded = 4 * STEPS * PAY
    published, base = Published(flow.weights), sha256(flow.weights.tobytes())
    delta = published.advance(flow.weights + np.float32(0.01))
    flow.weights = published.published
    second = flow.order(round=2)
    order = Order.model_validate_json(second.text)
    ref = WeightsRef(delta=await flow.sealed(delta, flow.weights_context(order)), base=base)
    reply2, ack = await desk.train(await flow.call(second, weights=ref))
    flow.accepted(ack, second)
    assert reply2 is not None
    assert commit_of(flow, reply2).root == merkle.root(honest(flow, second)[1]).hex()
    assert len(list((desk.jobs / JOB_ID).glob("weights-*"))) == 2


async def test_an_order_sealed_to_the_sealing_key_before_the_present_one(desk: Desk) -> None:
    expiry, _ = desk.identity.sealing_keys[0]
    SealingKey.generate().write(desk.identity.folder / "sealing" / f"{expiry + 5}.key")
    assert desk.identity.sealing_keys[0][1].public != desk.flow.sealing
    await desk.order()


# ---------------------------------------------------------------- refusals


def other_key() -> str:
    return str(Keypair().pubkey())


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("terms", {"wallet": other_key()}),
        ("terms", {"agent": other_key()}),
        ("terms", {"genesis": other_key()}),
        ("terms", {"program": other_key()}),
        ("terms", {"seed": "00" * 32}),
        ("terms", {"max_bytes": 20}),
        ("terms", {"progress_from": 9, "progress_to": 1}),
        ("terms", {"numeric_mode": "bf16"}),
        ("seat", {"job": other_key()}),
        ("seat", {"job_id": "f" * 32}),
        ("seat", {"seat": 0}),
        ("seat", {"seat": 5}),
        ("seat", {"pay_per_step": 10**9}),
        ("hash", {"spec_hash": "00" * 32}),
        ("weights", {"weights_hash": "00" * 32}),
    ],
)
async def test_refuses_an_order_with_a_wrong_field(desk: Desk, reason: str, changes: dict[str, Any]) -> None:
    signed = desk.flow.order(**changes)
    reply, ack = await desk.train(await desk.flow.call(signed))
    if changes.keys() & {"genesis", "program"}:  # the refusal itself is for the chain we are on
        assert ack is not None
    bad = desk.flow.bad(ack)
    assert reply is None
    assert (bad.reason, bad.order) == (reason, signed.hash.hex())
    assert not list(desk.jobs.glob("*/orders/*"))


async def refused(desk: Desk, reason: str, signed: Signed | None = None, **call: Any) -> str:
    signed = signed or desk.flow.order()
    reply, ack = await desk.train(await desk.flow.call(signed, **call))
    bad = desk.flow.bad(ack)
    assert (reply, bad.reason) == (None, reason)
    return bad.detail


async def test_refuses_what_the_chain_does_not_back(desk: Desk, chain: ChainServer) -> None:
    assert "verifier" in await refused(desk, "seat", desk.flow.order(signer=Signer(Keypair())))
    chain.job.seats[SEAT].cap, chain.job.seats[SEAT].awarded = 4 * STEPS * PAY + 10, 11
    assert "cap leaves" in await refused(desk, "seat")
    chain.job.seats[SEAT].awarded, chain.job.seats[SEAT].state = 0, 0
    assert "bond" in await refused(desk, "seat")
    chain.job.seats[SEAT].state, chain.job.deadline = 1, int(time.time()) - 1
    assert "deadline" in await refused(desk, "seat")
    chain.job.deadline, chain.job.round = int(time.time()) + 60, 1
    assert "committed" in await refused(desk, "terms")
    chain.job.round, chain.job.exists = 0, False
    assert "no such job" in await refused(desk, "seat")
    chain.job.exists, chain.silent = True, True
    assert "chain" in await refused(desk, "seat")


async def test_refuses_free_work_only_when_it_asks_for_pay(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(ask=1)
    await refused(desk, "terms", desk.flow.order(pay_per_step=0))
    free = make_desk("free")
    await free.order(pay_per_step=0)


async def test_refuses_inputs_that_do_not_open_or_fit(desk: Desk) -> None:
    flow = desk.flow
    signed = flow.order()
    order = Order.model_validate_json(signed.text)
    elsewhere = seal_context("data", "0" * 32, flow.sealing, bytes.fromhex(order.partition_hash))
    await refused(desk, "seal", signed, partition=await flow.sealed(flow.partition, elsewhere))
    here = seal_context("data", JOB_ID, flow.sealing, bytes.fromhex(order.partition_hash))
    await refused(desk, "hash", signed, partition=await flow.sealed(flow.partition + b" ", here))
    await refused(desk, "hash", signed, salt=bytes(16))
    good = await flow.call(signed)
    swapped = good.partition.model_copy(update={"sealed_key": (await flow.call(signed)).partition.sealed_key})
    await refused(desk, "seal", signed, partition=swapped)
    for bad in (pack_partition(flow.features[:, :3], flow.targets), b"rows?"):
        flow.partition = bad
        await refused(desk, "data", flow.order())
    flow.partition = pack_partition(np.full_like(flow.features, np.nan), flow.targets)
    assert "nan" not in (await refused(desk, "data", flow.order())).lower()


async def test_refuses_weights_it_cannot_build_on(desk: Desk) -> None:
    flow = desk.flow
    signed = flow.order()
    order = Order.model_validate_json(signed.text)
    delta = await flow.sealed(quantise(np.zeros_like(flow.weights)), flow.weights_context(order))
    detail = await refused(desk, "weights", signed, weights=WeightsRef(delta=delta, base="ab" * 32))
    assert "snapshot" in detail
    short = await flow.sealed(flow.weights.tobytes()[:-4], flow.weights_context(order))
    await refused(desk, "weights", signed, weights=WeightsRef(snapshot=short))
    await refused(desk, "weights", signed, weights=WeightsRef(delta=delta))
    await refused(desk, "weights", signed, weights=WeightsRef())
    flow.weights = np.full_like(flow.weights, np.inf)
    await refused(desk, "weights", flow.order())


@pytest.mark.parametrize("spec", [b"{}", b"[" * 5_000, b"not json", small_spec(inputs=8).to_bytes() + b" "])
async def test_refuses_a_spec_that_is_none(desk: Desk, spec: bytes) -> None:
    await refused(desk, "spec", desk.flow.order(spec_hash=sha256(spec)), spec=spec)


async def test_refuses_a_spec_beyond_its_caps(desk: Desk) -> None:
    for changes in ({"model": {"kind": "pickle"}}, {"lr": 2.0}, {"inputs": 10**9}, {"batch": 0}):
        spec = small_spec(**changes).to_bytes()
        await refused(desk, "spec", desk.flow.order(spec_hash=sha256(spec)), spec=spec)


async def test_refuses_what_does_not_fit_in_memory(make_desk: Callable[..., Desk]) -> None:
    tiny = Hardware(kind="cpu", name="tiny", memory=1_000, threads=1, torch="x", capability="y")
    await refused(make_desk(hardware=tiny), "memory")


@pytest.mark.parametrize(("capability", "able"), [("7.5", False), ("8.0", True), ("12.0", True), ("none", False)])
def test_bf16_is_refused_where_the_device_has_none(desk: Desk, capability: str, able: bool) -> None:
    order = Order.model_validate_json(desk.flow.order(numeric_mode="bf16").text)
    hardware = Hardware(kind="cuda", name="a gpu", memory=1, threads=1, torch="x", capability=capability)
    if able:
        return check_mode(order, hardware)
    with pytest.raises(Refusal, match="bf16"):
        check_mode(order, hardware)


async def test_rows_are_sent_once_and_kept_within_a_limit(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(cache=10_000)
    size = len(desk.flow.partition)
    assert 2 * size < 10_000 < 3 * size
    others = [desk.jobs / name / "partition-aa" for name in ("00" * 16, "11" * 16)]
    for age, path in enumerate(others):
        path.parent.mkdir(mode=0o700)
        path.write_bytes(bytes(size))
        os.utime(path, (1_000 + age, 1_000 + age))
    signed = desk.flow.order()
    reply, _ = await desk.train(await desk.flow.call(signed))
    assert reply is not None
    assert [path.exists() for path in others] == [False, True]  # the least recently used gave way
    (own,) = (desk.jobs / JOB_ID).glob("partition-*")
    os.utime(own, (2_000, 2_000))
    call = await desk.flow.call(desk.flow.order(attempt=1))
    nowhere = call.partition.model_copy(update={"sha256": "00" * 32})  # what is kept is not asked for again
    reply, _ = await desk.train(call.model_copy(update={"partition": nowhere}))
    assert reply is not None and own.stat().st_mtime > 2_000


async def test_refuses_rows_that_the_limit_cannot_hold(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(cache=1_000)
    signed = desk.flow.order()
    reply, ack = await desk.train(await desk.flow.call(signed))
    assert reply is None and ack is not None
    bad = desk.flow.read(BadShard, ack)
    assert bad.reason == "memory" and "1000 are kept" in bad.detail
    assert not list(desk.jobs.glob("*/partition-*"))


async def test_a_bf16_shard_is_committed_as_it_replays(desk: Desk) -> None:
    desk.flow.spec = replace(desk.flow.spec, precision="bf16")
    signed, _, reply = await desk.order(numeric_mode="bf16")
    assert commit_of(desk.flow, reply).root == merkle.root(honest(desk.flow, signed)[1]).hex()


# ---------------------------------------------------------------- again, and restarts


async def test_the_same_order_is_answered_without_training_again(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    signed, call, reply = await desk.order()
    again, ack = await desk.train(call)
    assert again == reply
    desk.flow.accepted(ack, signed)
    restarted = make_desk(flow=desk.flow)
    third, ack = await restarted.train(call)
    assert third == reply
    assert ack is not None
    assert [event for event, _ in restarted.events] == ["offered_again"]
    assert [event for event, _ in desk.events].count("trained") == 1
    await restarted.challenge(desk.flow.challenge(signed, commit_of(desk.flow, reply), open=(2,)))


async def test_a_broken_connection_leaves_the_shard_running(make_desk: Callable[..., Desk]) -> None:
    class Slow(SegmentRunner):
        def step(self, index: int) -> None:
            time.sleep(0.01)
            super().step(index)

    desk = make_desk(runner_factory=Slow)
    signed = desk.flow.order()
    call = await desk.flow.call(signed)
    first = asyncio.create_task(desk.handler.train(call, desk.io(call)))
    await until(lambda: desk.handler.busy)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert desk.handler.busy
    reply, ack = await desk.train(call)
    desk.flow.accepted(ack, signed)
    assert reply is not None
    assert commit_of(desk.flow, reply).root == merkle.root(honest(desk.flow, signed)[1]).hex()
    assert [event for event, _ in desk.events].count("order") == 1


async def test_an_abandoned_call_stops_training(make_desk: Callable[..., Desk]) -> None:
    class Endless(SegmentRunner):
        def step(self, index: int) -> None:
            time.sleep(0.02)
            super().step(index)

    desk = make_desk(runner_factory=Endless)
    call = await desk.flow.call(desk.flow.order(max_segments=100, progress_to=900_000))
    io = desk.io(call)
    task = asyncio.create_task(desk.handler.train(call, io))
    await until(lambda: any(event == "segment" for event, _ in desk.events))
    io.abandoned = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not desk.handler.busy)
    assert not any(event == "trained" for event, _ in desk.events)
    # started again, it goes on from the states on disk and commits to the same as if nothing had happened
    resumed = make_desk(flow=desk.flow)
    reply, _ = await resumed.train(call)
    assert reply is not None
    assert commit_of(desk.flow, reply).root == merkle.root(honest(desk.flow, call.order)[1]).hex()
    assert min(facts["done"] for event, facts in resumed.events if event == "segment") > 1


async def test_what_is_signed_names_the_order_and_chain(desk: Desk) -> None:
    signed, call, _ = await desk.order()
    _, ack = await desk.train(call)
    assert ack is not None
    document = desk.flow.read(Ack, ack)
    assert (document.genesis, document.order) == (GENESIS, signed.hash.hex())
    assert partition_hash(desk.flow.salt, desk.flow.partition).hex() in signed.text
