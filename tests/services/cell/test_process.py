"""The cell as a process of its own: how it starts and stops, what it listens on, what idle contributors cost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cloudlinkup.cluster.dispatch import Cluster
from cloudlinkup.errors import ClusterLost, ContributorLost, Unavailable
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.wire import frames
from cloudlinkup.wire.calls import CallRequest
from deployments.tls import Certificates
from services.cell.cell import Cell
from services.cell.config import CellConfig
from tests.services.cell.contributor import GATEWAY, GENESIS, Agent, Running, until

ROOT = Path(__file__).resolve().parents[3]


class Process:
    """A cell started as the local stack starts it."""

    def __init__(self, certificates: Certificates, folder: Path, gateway: int = 0, scheduler: int = 0) -> None:
        self.log = folder / "cell.log"
        self.line = [sys.executable, "-m", "services.cell", "--genesis", GENESIS, "--program", PROGRAM_ID]
        self.line += ["--gateway-port", str(gateway), "--scheduler-port", str(scheduler), "--dashboard-port", "0"]
        self.line += ["--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key)]
        self.line += ["--blobs", str(folder / "blobs"), "--gateway-name", GATEWAY]
        self.child: subprocess.Popen[bytes]
        self.gateway, self.scheduler = 0, ""

    async def start(self) -> Process:
        with self.log.open("wb") as output:
            self.child = subprocess.Popen(self.line, cwd=ROOT, stdout=output, stderr=output)  # noqa: ASYNC220
        await until(lambda: self.ready() or self.child.poll() is not None, 30)
        if (ready := self.ready()) is not None:
            self.gateway, self.scheduler = ready["gateway"], ready["scheduler"]
        return self

    def ready(self) -> dict[str, Any] | None:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return next((event for event in map(json.loads, lines) if event["event"] == "ready"), None)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        return await asyncio.to_thread(self.child.wait, 20)

    def agent(self, tls: ssl.SSLContext, handle: Any = None) -> Agent:
        return Agent(f"wss://127.0.0.1:{self.gateway}/ws", tls, handle=handle)


@pytest.fixture
async def start(certificates: Certificates, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    running: list[Process] = []

    async def begin(**ports: int) -> Process:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Process(certificates, folder, **ports))
        return await running[-1].start()

    yield begin
    for process in running:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()


@asynccontextmanager
async def several(process: Process, tls: ssl.SSLContext, count: int, handle: Any) -> AsyncIterator[list[Agent]]:
    agents = [process.agent(tls, handle) for _ in range(count)]
    for agent in agents:
        await agent.join()
    yield agents
    await asyncio.gather(*(agent.leave() for agent in agents))


async def forever(agent: Agent, call: frames.Call) -> bytes:
    await asyncio.sleep(600)
    return b""


async def test_idle_is_cheap_and_a_signal_ends_it_cleanly(
    start: Callable[..., Awaitable[Process]], tls: ssl.SSLContext
) -> None:
    process = await start()
    async with several(process, tls, 50, forever) as agents, Cluster.connect(process.scheduler) as cluster:
        usage = psutil.Process(process.child.pid)
        before, begun = usage.cpu_times(), time.monotonic()
        await asyncio.sleep(4)
        after, took = usage.cpu_times(), time.monotonic() - begun
        share = (after.user + after.system - before.user - before.system) / took
        print(f"50 idle contributors: {share:.1%} of a core, {usage.memory_info().rss / 2**20:.0f} MiB")
        assert share < 0.15  # stock workers: 29%
        assert usage.num_threads() < 20

        connections = await asyncio.to_thread(usage.net_connections, "inet")
        listening = {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
        assert {ip for ip, _ in listening} == {"127.0.0.1"}
        assert len(listening) == 3  # gateway, scheduler, health or dashboard

        assert len(await cluster.contributors()) == 50
        request = CallRequest(kind="challenge", body=b"", deadline=60)
        task = asyncio.create_task(cluster.call(agents[0].name, request, "call"))
        await until(lambda: agents[0].calls)
        begun = time.monotonic()
        code = await process.stop(signal.SIGTERM)
        print(f"stopped in {time.monotonic() - begun:.1f} s")
        assert code == 0
        assert time.monotonic() - begun < 60
        with pytest.raises((ContributorLost, ClusterLost)):
            await task
    written = process.log.read_text()
    events = [json.loads(line)["event"] for line in written.splitlines()]  # nothing but our own lines
    assert events[-1] == "stopped"
    assert events.count("disconnected") == 50
    assert "Traceback" not in written
    for agent in agents:
        assert agent.session not in written


async def test_killed_in_the_middle_of_a_call(start: Callable[..., Awaitable[Process]], tls: ssl.SSLContext) -> None:
    process = await start()
    async with several(process, tls, 1, forever) as (agent,), Cluster.connect(process.scheduler) as cluster:
        request = CallRequest(kind="challenge", body=b"", deadline=60)
        task = asyncio.create_task(cluster.call(agent.name, request, "call"))
        await until(lambda: agent.calls)
        begun = time.monotonic()
        await process.stop(signal.SIGKILL)
        with pytest.raises(ClusterLost):
            await task
        assert time.monotonic() - begun < 30
        with pytest.raises(ClusterLost):
            await cluster.contributors()
        with pytest.raises(ClusterLost):
            await cluster.call(agent.name, request, "call")
        assert time.monotonic() - begun < 30


async def test_taken_ports_are_named(running: Running, config: CellConfig) -> None:
    gateway, scheduler = running.cell.gateway_port, int(running.cell.scheduler_address.rpartition(":")[2])
    with pytest.raises(Unavailable, match=f"{gateway}.*Fix:"):
        async with Cell(dataclasses.replace(config, gateway_port=gateway)):
            raise AssertionError("it started")
    with pytest.raises(Unavailable, match=f"{scheduler}.*Fix:"):
        async with Cell(dataclasses.replace(config, scheduler_port=scheduler)):
            raise AssertionError("it started")


async def test_without_our_authority_nobody_trusts_it(running: Running) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(f"https://127.0.0.1:{running.cell.gateway_port}/healthz")
