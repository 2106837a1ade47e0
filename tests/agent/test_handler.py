"""The contributor's side of a round: what it commits to, opens, refuses, keeps and offers again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.agent.checks import Refusal, check_mode
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.crypto.seal import SealingKey
from cloudlinkup.errors import ContributorRefused, ProtocolError
from cloudlinkup.training.data import pack_partition
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.training.states import hash_state
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import shard_leaves
from cloudlinkup.wire.calls import FinishCall, TrainReply, WeightsRef
from cloudlinkup.wire.hashes import partition_hash, seal_context, segment_leaf, sha256
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


async def test_openings_prove_their_states(desk: Desk) -> None:
    signed, _, reply = await desk.order()
    states, leaves, _ = honest(desk.flow, signed)
    order, commit = Order.model_validate_json(signed.text), commit_of(desk.flow, reply)
    opened = await desk.challenge(desk.flow.challenge(signed, commit, open=(1, 3)))
    assert [o.at for o in opened.openings] == [0, 2]
    assert list(opened.leaves) == leaves
    for opening in opened.openings:
        assert await desk.flow.open(opening.state, order, "opening", opening.at) == states[opening.at]
        steps = [(step.left, step.hash) for step in opening.path]
        assert merkle.check_at(leaves[opening.at], opening.at, len(leaves), steps, bytes.fromhex(commit.root))
    leaf = segment_leaf(bytes(Pubkey.from_string(desk.flow.wallet)), 2, STEPS, hash_state(states[2]))
    assert leaf == leaves[2]
    after = await desk.challenge(desk.flow.challenge(signed, commit, open=(3,), after=True))
    assert [o.at for o in after.openings] == [2, 3]
    with pytest.raises(ContributorRefused, match="no_state"):
        await desk.challenge(desk.flow.challenge(signed, commit, open=(5,)))
    with pytest.raises(ContributorRefused, match="unknown_order"):
        await desk.challenge(desk.flow.challenge(desk.flow.order(round=9), commit))


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


async def test_the_last_rounds_states_are_kept_for_an_audit_beside_this_one(desk: Desk) -> None:
    orders = []
    for number in (1, 2, 3):
        signed, _, reply = await desk.order(round=number)
        await desk.challenge(desk.flow.challenge(signed, commit_of(desk.flow, reply), more=True))
        assert desk.handler.awaits_audit
        desk.flow.chain.job.seats[SEAT].awarded = 4 * number * STEPS * PAY
        orders.append((signed, reply))
    assert [len(states_of(desk, signed)) > 0 for signed, _ in orders] == [False, True, True]
    desk.flow.chain.job.round = 2
    shown = await desk.challenge(desk.flow.challenge(orders[1][0], commit_of(desk.flow, orders[1][1]), open=(2,)))
    assert [opening.at for opening in shown.openings] == [1]


def states_of(desk: Desk, signed: Signed) -> list[Path]:
    return list((desk.jobs / JOB_ID / "orders" / signed.hash.hex()).glob("state-*"))


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


# ---------------------------------------------------------------- credit and inclusion


async def test_a_missing_inclusion_path_ends_the_credit(desk: Desk, chain: ChainServer) -> None:
    flow = desk.flow
    signed, _, reply = await desk.order()
    await desk.order(attempt=1)  # round 1 is not committed on chain: another attempt at it is no new round
    chain.job.round, chain.job.commit_root = 1, b"\x01" * 32
    assert "no inclusion path" in await refused(desk, "inclusion", flow.order(round=2))
    with pytest.raises(ContributorRefused, match="inclusion"):  # a path to a root that the chain does not show
        call = flow.challenge(signed, commit_of(flow, reply))
        chain.job.commit_root = b"\x02" * 32
        await desk.challenge(call)


async def test_a_root_that_was_left_out_ends_the_work(desk: Desk) -> None:
    flow = desk.flow
    signed, _, reply = await desk.order()
    call = flow.challenge(signed, commit_of(flow, reply).model_copy(update={"root": "00" * 32}))
    with pytest.raises(ContributorRefused, match="inclusion"):
        await desk.challenge(call)
    assert "not in the round" in await refused(desk, "inclusion", flow.order(round=2))


async def test_one_round_of_credit_and_no_more(desk: Desk, chain: ChainServer) -> None:
    flow = desk.flow
    for round_ in (1, 2):
        signed, _, reply = await desk.order(round=round_)
        await desk.challenge(flow.challenge(signed, commit_of(flow, reply)))
    assert "2 rounds" in await refused(desk, "credit", flow.order(round=3))
    chain.job.seats[SEAT].awarded = 4 * STEPS * PAY  # the first of the two is awarded
    await desk.order(round=3)


# ---------------------------------------------------------------- again, restarts, the end


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


async def test_finishing_deletes_the_rows_and_keeps_the_evidence(desk: Desk) -> None:
    await desk.order()
    secret = desk.flow.partition[-64:]
    assert any(secret in path.read_bytes() for path in desk.jobs.rglob("*") if path.is_file())
    for path in desk.jobs.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    await desk.handler.finish(FinishCall(job_id=JOB_ID, reason="rejected", evidence=b'{"why": 1}'))
    assert not list(desk.jobs.iterdir())
    assert (desk.identity.folder / "evidence" / f"{JOB_ID}.json").read_bytes() == b'{"why": 1}'
    with pytest.raises(ProtocolError):
        await desk.handler.finish(FinishCall(job_id="../" * 4, reason="done"))


@pytest.mark.parametrize("awarded", [0, 4 * STEPS * PAY])
async def test_what_is_not_awarded_can_be_appealed_after_the_end(desk: Desk, chain: ChainServer, awarded: int) -> None:
    """A client that says "done" without paying does not take the proof along; rows and states go in any case."""
    signed, _, reply = await desk.order()
    chain.job.seats[SEAT].awarded = awarded
    await desk.handler.finish(FinishCall(job_id=JOB_ID, reason="done"))
    assert not list(desk.jobs.iterdir())
    kept = desk.identity.folder / "evidence" / JOB_ID / signed.hash.hex()
    assert kept.exists() == (awarded == 0)
    if not awarded:
        assert Signed.from_bytes((kept / "order.json").read_bytes()) == signed
        assert TrainReply.unpack((kept / "reply").read_bytes(), 10**6) == reply
        leaves = (kept / "leaves").read_bytes()
        root = merkle.root([leaves[i : i + 32] for i in range(0, len(leaves), 32)])
        assert commit_of(desk.flow, reply).root == root.hex()
        assert {path.name for path in kept.iterdir()} == {"order.json", "ack.json", "leaves", "reply"}


async def test_expired_jobs_are_deleted_at_the_start(desk: Desk, chain: ChainServer) -> None:
    chain.job.deadline = int(time.time()) + 100
    await desk.order()
    record = next(desk.jobs.glob("*/seat-*.json"))
    record.write_text(record.read_text().replace(str(chain.job.deadline), str(int(time.time()) - 200_000)))
    desk.handler.clean()
    assert not list(desk.jobs.iterdir())


async def test_what_is_signed_names_the_order_and_chain(desk: Desk) -> None:
    signed, call, _ = await desk.order()
    _, ack = await desk.train(call)
    assert ack is not None
    document = desk.flow.read(Ack, ack)
    assert (document.genesis, document.order) == (GENESIS, signed.hash.hex())
    assert partition_hash(desk.flow.salt, desk.flow.partition).hex() in signed.text
