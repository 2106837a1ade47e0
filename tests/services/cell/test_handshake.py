"""Who may come in: every wrong hello is refused before a worker exists, and a right one is let in."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import time
from typing import Any

import pytest
from distributed import Worker
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.wire import frames
from services.cell import hello as handshake
from services.cell import server
from services.cell.cell import Cell
from services.cell.config import CellConfig
from tests.services.cell.contributor import Agent, Keypair, Running, until

OTHER = Signer(Keypair())
PAST = int(time.time()) - 1
STRANGE = {"genesis": "1" * 32}, {"program": "1" * 32}

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "nonce": ("nonce", {"hello": {"nonce": "0" * 64}}),
    "delegation by another wallet": ("hello", {"delegation_signer": OTHER}),
    "delegation by the agent itself": ("hello", {"delegation_signer": "agent"}),
    "hello by another key": ("hello", {"hello_signer": OTHER}),
    "delegation for another agent": ("hello", {"delegation": {"agent": str(OTHER.public)}}),
    "hello for another agent": ("hello", {"hello": {"agent": str(OTHER.public)}}),
    "delegation expired": ("hello", {"delegation": {"expires": PAST}}),
    "sealing key expired": ("hello", {"hello": {"sealing_expires": PAST}}),
    "delegation for another gateway": ("hello", {"delegation": {"gateway": "wss://other"}}),
    "hello for another gateway": ("hello", {"hello": {"gateway": "wss://other"}}),
    "delegation on another chain": ("hello", {"delegation": STRANGE[0]}),
    "hello on another chain": ("hello", {"hello": STRANGE[0]}),
    "delegation for another program": ("hello", {"delegation": STRANGE[1]}),
    "hello for another program": ("hello", {"hello": STRANGE[1]}),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_wrong_hello_is_refused(running: Running, name: str) -> None:
    code, changes = REFUSED[name]
    agent = running.agent()
    agent.changes = {k: agent.key if v == "agent" else v for k, v in changes.items()}
    answer = await agent.greet()
    assert isinstance(answer, frames.Refused) and answer.code == code, answer
    assert agent.socket is not None
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(agent.socket.recv(), 60)
    assert agent.socket.close_code == 1008
    assert running.cell.gateway.connected == 0
    assert await running.cluster.contributors() == []


async def test_delegation_and_hello_swapped(running: Running) -> None:
    agent = running.agent()
    await agent.dial()
    challenge = await agent.next()
    assert isinstance(challenge, frames.Challenge)
    await agent.send(frames.HelloFrame(delegation=agent.hello(challenge.nonce), hello=agent.delegation()))
    answer = await agent.next()
    assert isinstance(answer, frames.Refused) and answer.code == "hello"


async def test_hello_is_no_use_to_another_connection(running: Running) -> None:
    """Recorded by whoever sat in between, it answers only the challenge that it was signed for."""
    agent = running.agent()
    await agent.dial()
    challenge = await agent.next()
    assert isinstance(challenge, frames.Challenge)
    recorded = frames.HelloFrame(delegation=agent.delegation(), hello=agent.hello(challenge.nonce))
    thief = running.agent()
    await thief.dial()
    await thief.next()
    await thief.send(recorded)
    answer = await thief.next()
    assert isinstance(answer, frames.Refused) and answer.code == "nonce"


async def test_duplicate_is_refused_while_the_first_lives(running: Running) -> None:
    first = await running.agent().join()
    second = running.agent(wallet=first.wallet, key=first.key)
    answer = await second.greet()
    assert isinstance(answer, frames.Refused) and answer.code == "duplicate"
    assert [c.agent for c in await running.cluster.contributors()] == [first.name]


async def test_two_at_once_under_one_name(running: Running) -> None:
    first = running.agent()
    pair = [running.agent(wallet=first.wallet, key=first.key) for _ in range(2)]
    answers = await asyncio.gather(*(agent.greet() for agent in pair))
    assert sorted(type(answer).__name__ for answer in answers) == ["Refused", "Welcome"]


async def test_no_more_than_it_serves(running: Running) -> None:
    """Whoever makes keys by the thousand takes places, not the cell's memory; a place that is left is free again."""
    running.cell.gateway._config = dataclasses.replace(running.cell.gateway._config, most=2)
    first = await running.agent().join()
    await running.agent().join()
    answer = await running.agent().greet()
    assert isinstance(answer, frames.Refused) and answer.code == "full"
    await first.leave()
    await until(lambda: len(running.cell.gateway._seats) == 1)
    await running.agent().join()


async def test_description_is_what_was_signed(running: Running) -> None:
    agent = await running.agent().join()
    (found,) = await running.cluster.contributors()
    assert (found.agent, found.name, found.via) == (agent.name, agent.name, "gateway")
    assert found.delegation.signer == str(agent.wallet.public)


async def test_name_that_an_operators_worker_has_taken(running: Running) -> None:
    agent = running.agent()
    async with Worker(running.cell.scheduler_address, name=agent.name, nthreads=1, dashboard_address=":0"):
        answer = await agent.greet()
        assert isinstance(answer, frames.Refused) and answer.code == "scheduler"
    await until(lambda: running.cell.gateway.connected == 0)
    await running.agent(wallet=agent.wallet, key=agent.key).join()


FIRST: dict[str, Any] = {
    "text": "hello",
    "junk": b"\x00junk",
    "not a hello": frames.Drain().pack(),
    "empty": b"",
}


@pytest.mark.parametrize("name", FIRST)
async def test_other_first_frames_are_refused(running: Running, name: str) -> None:
    agent = running.agent()
    socket = await agent.dial()
    await agent.next()
    await socket.send(FIRST[name])
    answer = await agent.next()
    assert isinstance(answer, frames.Refused) and answer.code == "protocol"
    assert running.cell.gateway.connected == 0


async def test_oversized_hello_is_refused(running: Running) -> None:
    agent = running.agent()
    socket = await agent.dial()
    await agent.next()
    await socket.send(bytes(frames.MAX_FRAME + 1))
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(socket.recv(), 60)
    assert socket.close_code == 1009


async def test_silence_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE", 0.2)
    agent = running.agent()
    await agent.dial()
    await agent.next()
    answer = await agent.next()
    assert isinstance(answer, frames.Refused) and answer.code == "timeout"


async def test_connection_that_asks_nothing_is_dropped(
    running: Running, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.cell.gateway_port, ssl=tls)
    writer.write(b"GET /healthz HT")
    with pytest.raises(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 60) == b""
        raise ConnectionResetError  # some kernels and TLS versions show an abort as the end of the stream
    writer.close()
    agent = await running.agent().join()  # a WebSocket that has been opened is not dropped
    await asyncio.sleep(0.4)
    assert [c.agent for c in await running.cluster.contributors()] == [agent.name]


async def test_allow_list(config: CellConfig, tls: ssl.SSLContext) -> None:
    known = Signer(Keypair())
    async with Cell(dataclasses.replace(config, allow=frozenset({str(known.public)}))) as cell:
        url = f"wss://127.0.0.1:{cell.gateway_port}/ws"
        stranger, friend = Agent(url, tls), Agent(url, tls, wallet=known)
        answer = await stranger.greet()
        assert isinstance(answer, frames.Refused) and answer.code == "wallet"
        assert isinstance(await friend.greet(), frames.Welcome)
        await asyncio.gather(stranger.leave(), friend.leave())


async def test_no_other_place_to_connect(running: Running) -> None:
    agent = Agent(running.url.replace("/ws", "/other"), running.tls)
    with pytest.raises(InvalidStatus):
        await agent.dial()
    async with running.agent().http() as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "contributors": 0}
        assert (await client.get("/")).status_code == 404
