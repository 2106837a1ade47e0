"""Calls through a real scheduler and gateway over TLS: answers, refusals, deadlines, and every way to be lost."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import ContributorLost, ContributorRefused, ShardTimeout
from cloudlinkup.wire import frames
from cloudlinkup.wire.calls import MAX_BODY, CallRequest
from cloudlinkup.wire.messages import Ack, BadShard, verify
from tests.services.cell.contributor import GENESIS, PROGRAM_ID, Agent, Keypair, Running, until


def train(deadline: float = 60, ack_within: float = 60) -> CallRequest:
    return CallRequest(kind="train", body=b"order", deadline=deadline, ack_within=ack_within)


def challenge(deadline: float = 60, body: bytes = b"open") -> CallRequest:
    return CallRequest(kind="challenge", body=body, deadline=deadline)


async def acknowledge(agent: Agent, call: frames.Call) -> bytes:
    if call.kind == "train":
        await agent.ack(call)
    return b"done"


async def forever(agent: Agent, call: frames.Call) -> bytes:
    await asyncio.sleep(600)
    return b""


async def test_call_and_reply(running: Running) -> None:
    agent = await running.agent().join()
    result = await running.cluster.call(agent.name, challenge(), "challenge")
    assert result.body == b"open" and result.ack is None
    sent = frames.Call(id=1, kind="challenge", body=b"open", deadline=60).pack()
    assert result.bytes_down == len(sent)
    assert result.bytes_up == len(frames.Reply(id=1, body=b"open").pack())
    assert 0 < result.seconds < 60


async def test_training_is_acknowledged_first(running: Running) -> None:
    async def handle(agent: Agent, call: frames.Call) -> bytes:
        await asyncio.sleep(0.1)
        await agent.ack(call)
        await asyncio.sleep(0.1)
        return b"commit"

    agent = await running.agent(handle).join()
    result = await running.cluster.call(agent.name, train(), "train")
    assert result.body == b"commit" and result.ack is not None
    assert verify(Ack, result.ack, signer=agent.name, genesis=GENESIS, program=PROGRAM_ID).order == "ab" * 32
    assert 0.1 <= result.seconds_to_ack < result.seconds - 0.05


async def test_bad_shard_ends_the_call(running: Running) -> None:
    async def handle(agent: Agent, call: frames.Call) -> bytes:
        await agent.ack(call, BadShard)
        return await forever(agent, call)

    agent = await running.agent(handle).join()
    result = await running.cluster.call(agent.name, train(), "train")
    assert result.body == b"" and result.ack is not None
    assert verify(BadShard, result.ack, signer=agent.name, genesis=GENESIS, program=PROGRAM_ID).reason == "hash"


async def test_no_acknowledgement_in_time(running: Running) -> None:
    agent = await running.agent(forever).join()
    start = time.monotonic()
    with pytest.raises(ShardTimeout, match=r"acknowledge within 0\.2 s"):
        await running.cluster.call(agent.name, train(deadline=60, ack_within=0.2), "train")
    assert time.monotonic() - start < 30
    await until(lambda: agent.cancelled == [1])


async def test_deadline(running: Running) -> None:
    agent = await running.agent(forever).join()
    start = time.monotonic()
    with pytest.raises(ShardTimeout):
        await running.cluster.call(agent.name, challenge(deadline=0.3), "challenge")
    assert 0.3 <= time.monotonic() - start < 30
    await until(lambda: agent.cancelled == [1])
    agent.handle = None
    assert (await running.cluster.call(agent.name, challenge(), "challenge")).body == b"open"


async def test_failure_of_its_own(running: Running) -> None:
    async def handle(agent: Agent, call: frames.Call) -> bytes:
        await agent.send(frames.Failed(id=call.id, code="memory", message="not enough"))
        return await forever(agent, call)

    agent = await running.agent(handle).join()
    with pytest.raises(ContributorRefused, match="memory: not enough") as caught:
        await running.cluster.call(agent.name, challenge(), "challenge")
    assert caught.value.code == "memory"


async def test_short_calls_do_not_wait_behind_training_and_training_has_the_device_alone(running: Running) -> None:
    release = asyncio.Event()

    async def handle(agent: Agent, call: frames.Call) -> bytes:
        if call.kind == "train":
            await agent.ack(call)
            await release.wait()
        return b"ok"

    agent = await running.agent(handle).join()
    first = asyncio.create_task(running.cluster.call(agent.name, train(), "train-1"))
    second = asyncio.create_task(running.cluster.call(agent.name, train(), "train-2"))
    await until(lambda: agent.calls)
    assert (await running.cluster.call(agent.name, challenge(), "challenge")).body == b"ok"
    assert [c.agent for c in await running.cluster.contributors()] == [agent.name]
    assert [call.kind for call in agent.calls] == ["train", "challenge"]
    release.set()
    assert [(await first).body, (await second).body] == [b"ok", b"ok"]


async def test_several_contributors_at_once(running: Running) -> None:
    everybody = asyncio.Barrier(8)  # nobody answers before all have been asked

    async def handle(agent: Agent, call: frames.Call) -> bytes:
        await everybody.wait()
        return agent.name.encode()

    agents = [await running.agent(handle).join() for _ in range(8)]
    results = await asyncio.gather(*(running.cluster.call(a.name, challenge(), "challenge") for a in agents))
    assert [r.body.decode() for r in results] == [a.name for a in agents]


@pytest.mark.parametrize("how", ["leave", "vanish"])
async def test_lost_in_the_middle_of_a_call(running: Running, how: str) -> None:
    agent = await running.agent(forever).join()
    task = asyncio.create_task(running.cluster.call(agent.name, challenge(deadline=60), "challenge"))
    await until(lambda: agent.calls)
    start = time.monotonic()
    await getattr(agent, how)()
    with pytest.raises(ContributorLost):
        await task
    assert time.monotonic() - start < 30
    assert await running.cluster.contributors() == []


async def test_frozen_agent_is_noticed_by_ping(running: Running) -> None:
    agent = await running.agent(forever).join()
    task = asyncio.create_task(running.cluster.call(agent.name, challenge(deadline=60), "challenge"))
    await until(lambda: agent.calls)
    assert agent.socket is not None
    start = time.monotonic()
    agent.socket.transport.pause_reading()  # TCP stays open; nobody answers pings
    with pytest.raises(ContributorLost):
        await task
    took = time.monotonic() - start
    print(f"a frozen agent was noticed after {took:.1f} s")
    assert took < 30
    agent.socket.transport.abort()


async def test_nobody_of_that_name(running: Running) -> None:
    start = time.monotonic()
    with pytest.raises(ContributorLost, match="not connected"):
        await running.cluster.call(str(Keypair().pubkey()), challenge(), "challenge")
    assert time.monotonic() - start < 30


async def test_gone_since_it_was_listed(running: Running) -> None:
    agent = await running.agent().join()
    assert await running.cluster.contributors() != []
    await agent.leave()
    await until(lambda: running.cell.gateway.connected == 0)
    with pytest.raises(ContributorLost):
        await running.cluster.call(agent.name, challenge(), "challenge")


async def test_rejoin_under_the_same_name(running: Running) -> None:
    agent = await running.agent(forever).join()
    task = asyncio.create_task(running.cluster.call(agent.name, challenge(deadline=60), "shard-1"))
    await until(lambda: agent.calls)
    await agent.vanish()
    again = await running.agent(wallet=agent.wallet, key=agent.key).join()
    with pytest.raises(ContributorLost):
        await task
    assert again.calls == []  # what waited for the old one is not inherited
    assert (await running.cluster.call(agent.name, challenge(), "shard-1")).body == b"open"


async def test_rejoins_in_a_row(running: Running) -> None:
    first = running.agent()
    for _ in range(5):
        agent = await running.agent(wallet=first.wallet, key=first.key).join()
        assert (await running.cluster.call(agent.name, challenge(), "shard")).body == b"open"
        await agent.vanish()


async def test_drain(running: Running) -> None:
    release = asyncio.Event()

    async def handle(agent: Agent, call: frames.Call) -> bytes:
        if call.kind == "train":
            await agent.ack(call)
            await release.wait()
        return b"done"

    agent = await running.agent(handle).join()
    task = asyncio.create_task(running.cluster.call(agent.name, train(), "train"))
    await until(lambda: agent.calls)
    await agent.send(frames.Drain())
    async with asyncio.timeout(60):
        while await running.cluster.contributors():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with pytest.raises(ContributorRefused, match="draining"):
        async with asyncio.timeout(60):
            release.set()
            await task  # the running one finishes
            await running.cluster.call(agent.name, train(), "train-2")
    assert task.result().body == b"done"
    # what it has done can still be opened and paid
    assert (await running.cluster.call(agent.name, challenge(), "challenge")).body == b"done"


async def test_key_is_usable_again(running: Running) -> None:
    count = 0

    async def handle(agent: Agent, call: frames.Call) -> bytes:
        nonlocal count
        count += 1
        return str(count).encode()

    agent = await running.agent(handle).join()
    bodies = [(await running.cluster.call(agent.name, challenge(), "same")).body for _ in range(5)]
    assert bodies == [b"1", b"2", b"3", b"4", b"5"]


async def test_call_that_the_flow_gives_up(running: Running) -> None:
    agent = await running.agent(forever).join()
    task = asyncio.create_task(running.cluster.call(agent.name, challenge(deadline=60), "same"))
    await until(lambda: agent.calls)
    task.cancel()
    agent.handle = None
    again = running.cluster.call(agent.name, challenge(body=b"second"), "same")  # at once, under the same key
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await again).body == b"second"
    await until(lambda: agent.cancelled == [1])


# ---------------------------------------------------------------- what a hostile contributor may try


class Bomb(Exception):
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


async def test_pickled_replies_are_just_bytes(running: Running, tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(str(target)))
    pickle.loads(bomb)  # it works where somebody unpickles it
    assert target.exists()
    target.rmdir()

    async def handle(agent: Agent, call: frames.Call) -> bytes:
        return bomb

    agent = await running.agent(handle).join()
    assert (await running.cluster.call(agent.name, challenge(), "challenge")).body == bomb

    async def fail(agent: Agent, call: frames.Call) -> bytes:
        await agent.send(frames.Failed(id=call.id, code="x", message=bomb.hex()[:200]))
        return await forever(agent, call)

    agent.handle = fail
    with pytest.raises(ContributorRefused):
        await running.cluster.call(agent.name, challenge(), "challenge")
    assert not target.exists()


HOSTILE: dict[str, Any] = {
    "empty": b"",
    "junk": bytes(range(256)),
    "pickle": pickle.dumps(ValueError("boo")),
    "deep": b"\x91" * 100_000,
    "huge array": b"\xdd\xff\xff\xff\xff",
    "huge string": b"\xdb\xff\xff\xff\xff",
    "unknown kind": frames.Call(id=1, kind="train", body=b"", deadline=1).pack(),
    "unknown id": frames.Reply(id=99, body=b"").pack(),
    "second hello": None,
    "text": "hello",
    "oversized": bytes(frames.MAX_FRAME + 1),
    "reply too large": frames.Reply(id=1, body=bytes(MAX_BODY + 1)).pack(),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_frame_ends_its_connection_and_no_other(running: Running, name: str) -> None:
    agent, other = await running.agent(forever).join(), await running.agent().join()
    task = asyncio.create_task(running.cluster.call(agent.name, challenge(deadline=60), "challenge"))
    await until(lambda: agent.calls)
    assert agent.socket is not None
    data = HOSTILE[name]
    if data is None:
        data = frames.HelloFrame(delegation=agent.delegation(), hello=agent.hello("0" * 64)).pack()
    await agent.socket.send(data)
    with pytest.raises(ContributorLost):
        await asyncio.wait_for(task, 30)
    assert (await running.cluster.call(other.name, challenge(), "challenge")).body == b"open"
    assert [c.agent for c in await running.cluster.contributors()] == [other.name]


async def test_largest_reply_passes(running: Running) -> None:
    async def handle(agent: Agent, call: frames.Call) -> bytes:
        return bytes(MAX_BODY)

    agent = await running.agent(handle).join()
    assert len((await running.cluster.call(agent.name, challenge(), "challenge")).body) == MAX_BODY


@pytest.mark.parametrize("case", ["reply first", "by another key", "of another kind", "twice", "unasked"])
async def test_wrong_acknowledgements_end_the_connection(running: Running, case: str) -> None:
    async def handle(agent: Agent, call: frames.Call) -> bytes:
        if case == "by another key":
            await agent.ack(call, signer=Signer(Keypair()))
        elif case == "of another kind":
            await agent.send(frames.AckFrame(id=call.id, signed=agent.delegation()))
        elif case in ("twice", "unasked"):
            await agent.ack(call)
            await agent.ack(call)
        return await forever(agent, call) if case != "reply first" else b"early"

    agent = await running.agent(handle).join()
    request = challenge() if case == "unasked" else train()
    with pytest.raises(ContributorLost, match="protocol"):
        await running.cluster.call(agent.name, request, "call")


async def test_late_answers_to_ended_calls_are_ignored(running: Running) -> None:
    async def late(agent: Agent, call: frames.Call) -> bytes:
        await asyncio.sleep(0.4)
        return b"late"

    agent = await running.agent(late).join()
    with pytest.raises(ShardTimeout):
        await running.cluster.call(agent.name, challenge(deadline=0.2), "challenge")
    await asyncio.sleep(0.4)
    agent.handle = None
    assert (await running.cluster.call(agent.name, challenge(), "challenge")).body == b"open"
