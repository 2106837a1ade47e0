"""Sealed blobs by HTTPS: exactly those of a contributor's running call, once, of the promised size and hash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.errors import ShardTimeout
from cloudlinkup.wire import frames
from cloudlinkup.wire.calls import CallRequest, CallResult
from cloudlinkup.wire.hashes import sha256
from tests.services.cell.contributor import JOB, Agent, Running, bearer, until

DATA, NAME = b"sealed", sha256(b"sealed")
BIG = bytes(3 * 2**20 + 5)


def request(**options: Any) -> CallRequest:
    options = {"max_upload": 100, "max_uploads": 1, "deadline": 10, **options}
    return CallRequest(kind="challenge", body=b"", job_id=JOB, **options)


async def during(running: Running, handle: Any, call: CallRequest) -> CallResult:
    """Lets `handle` try things while the call runs; what it raises fails the test."""
    failures: list[BaseException] = []

    async def guarded(agent: Agent, frame: frames.Call) -> bytes:
        try:
            await handle(agent, frame)
        except BaseException as error:
            failures.append(error)
        return b""

    agent = await running.agent(guarded).join()
    result = await running.cluster.call(agent.name, call, "call")
    for failure in failures:
        raise failure
    return result


async def test_put_then_get(running: Running) -> None:
    store = BlobStore(running.blobs)
    given = await store.put(JOB, BIG)

    async def handle(agent: Agent, call: frames.Call) -> None:
        got = await agent.get_blob(given)
        assert got.status_code == 200 and got.content == BIG
        ticket = await agent.ask(call, NAME, len(DATA))
        assert isinstance(ticket, frames.Ticket) and ticket.sha256 == NAME
        assert (await agent.put_blob(NAME, DATA, ticket.token)).status_code == 201

    result = await during(running, handle, request(reads=(given,)))
    assert await store.get(JOB, NAME, 100) == DATA
    assert len(BIG) < result.bytes_down < len(BIG) + 1_000
    assert len(DATA) < result.bytes_up < len(DATA) + 1_000


async def test_get_needs_a_session_and_a_running_call(running: Running) -> None:
    store = BlobStore(running.blobs)
    mine, not_mine = await store.put(JOB, b"mine"), await store.put(JOB, b"not mine")
    elsewhere = await store.put("0" * 31 + "2", b"of another job")
    other = await running.agent().join()

    async def handle(agent: Agent, call: frames.Call) -> None:
        assert (await agent.get_blob(mine)).status_code == 200
        assert (await agent.get_blob(mine, "no-such-session-at-all")).status_code == 401
        assert (await agent.get_blob(not_mine)).status_code == 403
        assert (await agent.get_blob(mine, other.session)).status_code == 403
        assert (await agent.get_blob(elsewhere)).status_code == 404  # granted by name, but not of this job
        assert (await agent.get_blob("../" + mine)).status_code in (403, 404)
        assert (await agent.get_blob("%2e%2e%2f" + mine)).status_code in (403, 404)
        async with agent.http() as client:
            assert (await client.get(f"/blobs/{mine}")).status_code == 401
            basic = {"authorization": f"Basic {agent.session}"}
            assert (await client.get(f"/blobs/{mine}", headers=basic)).status_code == 401

    await during(running, handle, request(reads=(mine, elsewhere)))
    agent = running.agents[-1]
    assert (await agent.get_blob(mine)).status_code == 403  # the call is over
    await agent.leave()
    await until(lambda: running.cell.gateway.connected == 1)
    assert (await agent.get_blob(mine)).status_code == 401  # and so is the session


async def test_ticket_is_good_once_for_one_blob(running: Running) -> None:
    async def handle(agent: Agent, call: frames.Call) -> None:
        ticket = await agent.ask(call, NAME, len(DATA))
        assert isinstance(ticket, frames.Ticket)
        assert (await agent.put_blob(sha256(b"other!"), b"other!", ticket.token)).status_code == 401
        assert (await agent.put_blob(NAME, DATA, agent.session)).status_code == 401
        assert (await agent.put_blob(NAME, DATA, ticket.token)).status_code == 201
        assert (await agent.put_blob(NAME, DATA, ticket.token)).status_code == 401

    await during(running, handle, request())


async def test_size_and_hash_are_held(running: Running) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield DATA

    async def handle(agent: Agent, call: frames.Call) -> None:
        statuses = []
        for attempt in range(4):  # each breaks its ticket, and gives the upload back
            ticket = await agent.ask(call, NAME, len(DATA))
            assert isinstance(ticket, frames.Ticket)
            if attempt == 0:
                response = await agent.put_blob(NAME, DATA + b"more", ticket.token)
            elif attempt == 1:
                response = await agent.put_blob(NAME, b"forged", ticket.token)
            elif attempt == 2:
                async with agent.http() as client:
                    response = await client.put(f"/blobs/{NAME}", content=pieces(), headers=bearer(ticket.token))
            else:
                response = await agent.put_blob(NAME, b"short", ticket.token)
            statuses.append(response.status_code)
        assert statuses == [413, 422, 413, 413]
        assert isinstance(await agent.ask(call, NAME, len(DATA)), frames.Refused)  # but not for ever

    await during(running, handle, request())
    assert not await BlobStore(running.blobs).exists(JOB, NAME)
    assert not any(path.is_file() for path in running.blobs.rglob("*"))


@pytest.mark.parametrize(
    ("options", "size"),
    [({"max_upload": 5}, 6), ({"max_uploads": 0}, 6), ({"max_upload": 0}, 1)],
    ids=["too large", "none allowed", "nothing allowed"],
)
async def test_no_ticket_beyond_the_grant(running: Running, options: dict[str, int], size: int) -> None:
    async def handle(agent: Agent, call: frames.Call) -> None:
        answer = await agent.ask(call, NAME, size)
        assert isinstance(answer, frames.Refused) and answer.id == call.id and answer.code == "no-grant"

    await during(running, handle, request(**options))


async def test_no_more_blobs_than_granted(running: Running) -> None:
    async def handle(agent: Agent, call: frames.Call) -> None:
        answers = [await agent.ask(call, sha256(bytes([i])), 1) for i in range(3)]
        assert [type(answer).__name__ for answer in answers] == ["Ticket", "Ticket", "Refused"]

    await during(running, handle, request(max_uploads=2))


async def test_upload_that_breaks_off_can_be_tried_again(running: Running) -> None:
    name = sha256(BIG)

    async def cut() -> AsyncIterator[bytes]:
        yield BIG[: 2**20]
        raise ConnectionError("cut")

    async def handle(agent: Agent, call: frames.Call) -> None:
        ticket = await agent.ask(call, name, len(BIG))
        assert isinstance(ticket, frames.Ticket)
        with pytest.raises((ConnectionError, httpx.TransportError)):
            async with agent.http() as client:
                headers = {**bearer(ticket.token), "content-length": str(len(BIG))}
                await client.put(f"/blobs/{name}", content=cut(), headers=headers)
        again = await agent.ask(call, name, len(BIG))
        assert isinstance(again, frames.Ticket)
        assert (await agent.put_blob(name, BIG, again.token)).status_code == 201

    await during(running, handle, request(max_upload=len(BIG)))
    assert await BlobStore(running.blobs).get(JOB, name, len(BIG)) == BIG
    assert [path.name for path in (running.blobs / JOB).iterdir()] == [name]


async def test_upload_beyond_the_deadline_is_broken_off(running: Running) -> None:
    statuses: list[int] = []

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[:3]
        await asyncio.sleep(1.5)
        yield DATA[3:]

    async def handle(agent: Agent, call: frames.Call) -> bytes:
        ticket = await agent.ask(call, NAME, len(DATA))
        assert isinstance(ticket, frames.Ticket)
        async with agent.http() as client:
            headers = {**bearer(ticket.token), "content-length": str(len(DATA))}
            try:
                statuses.append((await client.put(f"/blobs/{NAME}", content=slow(), headers=headers)).status_code)
            except httpx.TransportError:
                statuses.append(0)
        return b""

    agent = await running.agent(handle).join()
    with pytest.raises(ShardTimeout):
        await running.cluster.call(agent.name, request(deadline=0.6), "call")
    await until(lambda: statuses)
    assert statuses[0] in (0, 408)
    assert not any(path.is_file() for path in running.blobs.rglob("*"))


async def test_ticket_of_an_ended_call_is_void(running: Running) -> None:
    kept: list[str] = []

    async def handle(agent: Agent, call: frames.Call) -> None:
        ticket = await agent.ask(call, NAME, len(DATA))
        assert isinstance(ticket, frames.Ticket)
        kept.append(ticket.token)

    await during(running, handle, request())
    assert (await running.agents[-1].put_blob(NAME, DATA, kept[0])).status_code == 401
    answer = await running.agents[-1].ask(running.agents[-1].calls[0], NAME, len(DATA))
    assert isinstance(answer, frames.Refused) and answer.code == "ended"
