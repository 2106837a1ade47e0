"""A small contributor that speaks the frames over TLS as an agent does, and fixtures for a cell in this process."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from websockets.asyncio.client import ClientConnection, connect

from cloudlinkup.cluster.dispatch import Cluster
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.crypto.seal import SealingKey
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.wire import frames
from cloudlinkup.wire.messages import Ack, BadShard, Delegation, Hardware, Hello, Signed, sign
from cloudlinkup.wire.packed import Packed
from deployments.tls import Certificates, client_context, make_certificates
from services.cell.cell import Cell
from services.cell.config import CellConfig

GENESIS = str(Hash(bytes([7] * 32)))
GATEWAY = "wss://cell.test"
JOB = "0" * 31 + "1"

Handler = Callable[["Agent", frames.Call], Awaitable[bytes]]


@dataclass
class Agent:
    """A contributor. `handle` answers a call; its result is the reply, unless it raises."""

    url: str
    tls: ssl.SSLContext
    wallet: Signer = field(default_factory=lambda: Signer(Keypair()))
    key: Signer = field(default_factory=lambda: Signer(Keypair()))
    sealing: SealingKey = field(default_factory=SealingKey.generate)
    handle: Handler | None = None
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the documents that are to be wrong
    socket: ClientConnection | None = None
    session: str = ""
    calls: list[frames.Call] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    tickets: asyncio.Queue[frames.Ticket | frames.Refused] = field(default_factory=asyncio.Queue)
    _task: asyncio.Task[None] | None = None
    _calls: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def name(self) -> str:
        return str(self.key.public)

    def hardware(self) -> Hardware:
        return Hardware(kind="cpu", name="test", memory=2**30, threads=1, torch="none", capability="none")

    def delegation(self) -> Signed:
        document = Delegation(
            genesis=GENESIS,
            program=PROGRAM_ID,
            wallet=str(self.wallet.public),
            agent=self.name,
            gateway=GATEWAY,
            expires=int(time.time()) + 3_600,
        )
        return sign(
            self.changes.get("delegation_signer", self.wallet),
            document.model_copy(update=self.changes.get("delegation", {})),
        )

    def hello(self, nonce: str) -> Signed:
        document = Hello(
            genesis=GENESIS,
            program=PROGRAM_ID,
            nonce=nonce,
            gateway=GATEWAY,
            agent=self.name,
            sealing_key=self.sealing.public,
            sealing_expires=int(time.time()) + 3_600,
            hardware=self.hardware(),
            probes=(),
            share=1.0,
            ask=1_000,
            version="test",
        )
        return sign(
            self.changes.get("hello_signer", self.key), document.model_copy(update=self.changes.get("hello", {}))
        )

    async def dial(self) -> ClientConnection:
        self.socket = await connect(self.url, ssl=self.tls, max_size=frames.MAX_FRAME, compression=None)
        return self.socket

    async def next(self) -> frames.ToAgent:
        assert self.socket is not None
        data = await asyncio.wait_for(self.socket.recv(), 60)
        assert isinstance(data, bytes)
        return frames.read_for_agent(data)

    async def send(self, frame: Packed) -> None:
        assert self.socket is not None
        await self.socket.send(frame.pack())

    async def greet(self) -> frames.ToAgent:
        """Dials, answers the challenge, and returns what the gateway says to it."""
        await self.dial()
        challenge = await self.next()
        assert isinstance(challenge, frames.Challenge)
        await self.send(frames.HelloFrame(delegation=self.delegation(), hello=self.hello(challenge.nonce)))
        return await self.next()

    async def join(self) -> Agent:
        """Greets, and serves calls in the background."""
        welcome = await self.greet()
        assert isinstance(welcome, frames.Welcome), welcome
        self.session = welcome.session
        self._task = asyncio.create_task(self._serve())
        return self

    async def leave(self) -> None:
        """Closes as an orderly agent does."""
        for task in (self._task, *self._calls):
            if task is not None:
                task.cancel()
        if self.socket is not None:
            await self.socket.close()
        await asyncio.gather(*(t for t in (self._task, *self._calls) if t is not None), return_exceptions=True)

    async def vanish(self) -> None:
        """Drops TCP without a word."""
        assert self.socket is not None
        self.socket.transport.abort()
        await self.leave()

    async def _serve(self) -> None:
        assert self.socket is not None
        async for data in self.socket:
            assert isinstance(data, bytes)
            frame = frames.read_for_agent(data)
            if isinstance(frame, frames.Call):
                self.calls.append(frame)
                task = asyncio.create_task(self._answer(frame, self.handle))  # as it is now: a test may change it
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            elif isinstance(frame, frames.Cancel):
                self.cancelled.append(frame.id)
            elif isinstance(frame, frames.Ticket | frames.Refused):
                self.tickets.put_nowait(frame)

    async def _answer(self, call: frames.Call, handle: Handler | None) -> None:
        body = call.body if handle is None else await handle(self, call)
        await self.send(frames.Reply(id=call.id, body=body))

    async def ack(self, call: frames.Call, kind: type[Ack | BadShard] = Ack, signer: Signer | None = None) -> None:
        extra: dict[str, Any] = {} if kind is Ack else {"reason": "hash", "detail": ""}
        document = kind(genesis=GENESIS, program=PROGRAM_ID, order="ab" * 32, **extra)
        await self.send(frames.AckFrame(id=call.id, signed=sign(signer or self.key, document)))

    async def ask(self, call: frames.Call, sha256: str, size: int) -> frames.Ticket | frames.Refused:
        await self.send(frames.AskTicket(id=call.id, sha256=sha256, size=size))
        return await asyncio.wait_for(self.tickets.get(), 60)

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            base_url=self.url.replace("wss:", "https:").removesuffix("/ws"), verify=self.tls, timeout=60
        ) as client:
            yield client

    async def get_blob(self, name: str, token: str | None = None) -> httpx.Response:
        async with self.http() as client:
            return await client.get(f"/blobs/{name}", headers=bearer(token or self.session))

    async def put_blob(self, name: str, data: bytes, token: str) -> httpx.Response:
        async with self.http() as client:
            return await client.put(f"/blobs/{name}", content=data, headers=bearer(token))


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Waits for what another task or process does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@dataclass
class Running:
    """A cell in this process, with a flow's connection to it."""

    cell: Cell
    cluster: Cluster
    tls: ssl.SSLContext
    blobs: Path
    agents: list[Agent] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.cell.gateway_port}/ws"

    def agent(self, handle: Handler | None = None, **options: Any) -> Agent:
        """A contributor that has not connected yet; it leaves with the test."""
        agent = Agent(self.url, self.tls, handle=handle, **options)
        self.agents.append(agent)
        return agent


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(certificates: Certificates) -> ssl.SSLContext:
    return client_context(certificates.ca)


@pytest.fixture
def config(certificates: Certificates, tmp_path: Path) -> CellConfig:
    return CellConfig(
        genesis=GENESIS,
        program=PROGRAM_ID,
        gateway_name=GATEWAY,
        tls_cert=certificates.cert,
        tls_key=certificates.key,
        blobs=str(tmp_path / "blobs"),
    )


@pytest.fixture
async def running(config: CellConfig, tls: ssl.SSLContext, tmp_path: Path) -> AsyncIterator[Running]:
    async with Cell(config) as cell, Cluster.connect(cell.scheduler_address) as cluster:
        it = Running(cell, cluster, tls, tmp_path / "blobs")
        yield it
        await asyncio.gather(*(agent.leave() for agent in it.agents))
