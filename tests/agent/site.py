"""A real cell in this process, a chain server, and `cloudlinkup contribute` as a child process or an Agent here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudlinkup.agent.agent import Agent, Offer
from cloudlinkup.agent.chain import RpcChain
from cloudlinkup.agent.hardware import describe
from cloudlinkup.agent.identity import Identity, open_identity
from cloudlinkup.agent.probes import fingerprint
from cloudlinkup.agent.shard import RunnerFactory
from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.cluster.dispatch import Cluster
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.wire.calls import CallResult, TrainCall
from deployments.tls import Certificates
from services.cell.cell import Cell
from services.cell.config import CellConfig
from tests.agent.chain_server import GENESIS, ChainServer
from tests.agent.flow import Flow, seat_both
from tests.conftest import ROOT, free_port

CONTRIBUTE = "from cloudlinkup.cli.main import main; main()"
PROBE = {"name": "matmul", "precision": "fp32", "seconds": 0.001, "spread": 0.1}


@dataclass
class Child:
    """One `cloudlinkup contribute`. `events`: its JSON lines so far."""

    process: asyncio.subprocess.Process
    events: list[dict[str, Any]] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if line.startswith(b"{"):
                self.events.append(json.loads(line))

    def seen(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    async def exit(self, seconds: float = 30) -> tuple[int, str]:
        assert self.process.stdout is not None
        async with asyncio.timeout(seconds):
            out = await self.process.stdout.read()
            code = await self.process.wait()
            if self.reader is not None:
                await self.reader
        return code, out.decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Site:
    """One gateway address. The cell behind it can go and come back."""

    def __init__(self, folder: Path, certificates: Certificates, chain: ChainServer, verifier: Signer) -> None:
        self.folder, self.certificates, self.chain = folder, certificates, chain
        self.port = free_port()
        self.gateway = f"wss://127.0.0.1:{self.port}"
        self.identity: Identity = open_identity(self.home / "contributors" / "one", None)
        seat_both(chain, self.identity.wallet)
        hardware = describe("cpu", 1)
        kept = {"fingerprint": fingerprint(hardware), "probes": [PROBE]}
        (self.identity.folder / "probes.json").write_text(json.dumps(kept))
        self.flow = Flow(
            chain=chain,
            store=BlobStore(folder / "blobs"),
            wallet=self.identity.wallet,
            agent=str(self.identity.agent.public),
            sealing=self.identity.sealing_keys[0][1].public,
            verifier=verifier,
        )
        self.children: list[Child] = []
        self.agents: list[asyncio.Task[int]] = []

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @asynccontextmanager
    async def cell(self, **changes: Any) -> AsyncIterator[Cluster]:
        config = CellConfig(
            **{
                "genesis": GENESIS,
                "program": PROGRAM_ID,
                "gateway_name": self.gateway,
                "gateway_port": self.port,
                "tls_cert": self.certificates.cert,
                "tls_key": self.certificates.key,
                "blobs": str(self.folder / "blobs"),
            }
            | changes
        )
        async with AsyncExitStack() as stack:
            cell = await stack.enter_async_context(Cell(config))
            cluster = await stack.enter_async_context(Cluster.connect(cell.scheduler_address))
            try:
                yield cluster
            finally:
                await self.close()

    @asynccontextmanager
    async def cell_process(self) -> AsyncIterator[Cluster]:
        """A cell in a process of its own, killed (-9) at the end."""
        scheduler, certificates = free_port(), self.certificates
        line = ["-m", "services.cell", "--gateway-port", str(self.port), "--gateway-name", self.gateway]
        line += ["--scheduler-port", str(scheduler), "--dashboard-port", str(free_port()), "--genesis", GENESIS]
        line += ["--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *line, "--blobs", str(self.folder / "blobs"), cwd=ROOT,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "CLOUDLINKUP_HOME": str(self.home)},
        )  # fmt: skip
        assert process.stderr is not None
        try:
            async with asyncio.timeout(30):
                async for text in process.stderr:
                    if b'"ready"' in text:
                        break
            async with Cluster.connect(f"tcp://127.0.0.1:{scheduler}") as cluster:
                yield cluster
                process.kill()
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def start(self, agent: Agent) -> asyncio.Task[int]:
        """Runs an agent in this process, until it ends or its cell does."""
        task = asyncio.create_task(agent.run())
        self.agents.append(task)
        return task

    async def stop_agents(self) -> None:
        for task in self.agents:
            task.cancel()
        await asyncio.gather(*self.agents, return_exceptions=True)

    def options(self, *more: str) -> list[str]:
        line = ["--name", "one", "--gateway", self.gateway, "--ca-file", str(self.certificates.ca)]
        device = () if "--device" in more else ("--device", "cpu")
        return [*line, "--rpc-url", self.chain.url, *device, *more]

    async def contribute(self, *more: str, command: tuple[str, ...] = ("-c", CONTRIBUTE, "contribute")) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, *self.options(*more), "--json",
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "CLOUDLINKUP_HOME": str(self.home), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        child = Child(process)
        child.reader = asyncio.create_task(child.read())
        self.children.append(child)
        return child

    def agent(self, events: list[tuple[str, dict[str, Any]]], factory: RunnerFactory = SegmentRunner, **changes: Any):
        facts: dict[str, Any] = {
            "gateway": self.gateway,
            "ca_file": self.certificates.ca,
            "delegation": None,
            "hardware": describe("cpu", 1),
            "probes": (),
            "share": 1.0,
            "ask": 0,
            "device": "cpu",
            "threads": 1,
        }
        clock = changes.pop("clock", time.time)
        offer = Offer(**(facts | changes))
        chain = RpcChain(self.chain.url, PROGRAM_ID)
        return Agent(
            self.identity,
            chain,
            PROGRAM_ID,
            offer,
            report=lambda event, facts: events.append((event, facts)),
            runner_factory=factory,
            clock=clock,
        )

    async def train(self, cluster: Cluster, call: TrainCall, deadline: float = 60.0) -> CallResult:
        return await cluster.call(self.flow.agent, self.flow.request(call, deadline), "train")

    async def close(self) -> None:
        await self.stop_agents()
        for child in self.children:
            if child.process.returncode is None:
                child.process.kill()
            await child.exit()
