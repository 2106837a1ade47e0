"""One job's flow side with its real store, keys, blobs and rows, and real contributors called without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from solders.keypair import Keypair

from cloudlinkup.agent.probes import Probe
from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.cluster.direct import DirectContributor
from cloudlinkup.cluster.dispatch import Cluster, Contributor
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import CloudLinkUpError, ContributorLost
from cloudlinkup.home import Home, Settings
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.outer import Published
from cloudlinkup.types import JobSpec, parse_job
from cloudlinkup.wire.calls import CallRequest, CallResult
from models.correction import Correction
from models.facts import Prediction, ReferenceProfile
from models.plan import RoundPlan, SeatRound
from tasks.audit import Audit, audit_shard
from tasks.context import Run
from tasks.peers import Peer, verified
from tasks.planning import job_facts
from tasks.rounds import _assign_rows, _seal_partitions
from tasks.segment import FACTS
from tasks.state import Entry, Seat, Terms
from tasks.train import _begin, _one
from tasks.tree import round_leaves
from tests.agent.chain_server import GENESIS, ChainServer, SeatState, serving
from tests.agent.flow import JOB_ID, make_chain, make_handler

REQUEST = "00000000-0000-4000-8000-000000000001"
STEP = 5
Tamper = Callable[[CallRequest, CallResult], CallResult]

JOB = {
    "version": 1,
    "data": {"uri": "rows.csv", "format": "csv", "label": "y"},
    "task": "classification",
    "model": {"kind": "mlp", "hidden": [16], "activation": "relu"},
    "train": {"samples": 16_000, "batch": 16, "seed": 5},
    "budget": "10",
    "deadline": "2040-01-01T00:00:00Z",
}


@dataclass
class Contributors:
    """What a `Cluster` is to the round loop. `tamper[agent]`: what a hostile contributor makes of its own answer."""

    by_agent: dict[str, DirectContributor] = field(default_factory=dict)
    tamper: dict[str, Tamper] = field(default_factory=dict)
    fails: dict[str, CloudLinkUpError] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)

    async def contributors(self) -> list[Contributor]:
        if "*" in self.fails:
            raise self.fails["*"]
        described = {agent: one.describe() for agent, one in self.by_agent.items()}
        return [Contributor(agent, agent, d.via, d.delegation, d.hello) for agent, d in described.items()]

    async def call(self, agent: str, request: CallRequest, key: str) -> CallResult:
        self.calls.append((agent, request.kind))
        if (error := self.fails.get(agent)) is not None:
            raise error
        if agent not in self.by_agent:
            raise ContributorLost("not connected")
        result = await self.by_agent[agent].call(request)
        return self.tamper[agent](request, result) if agent in self.tamper else result


@dataclass
class Rig:
    run: Run
    chain: ChainServer
    cluster: Contributors
    folder: Path

    def add(self, name: str, **options: Any) -> str:
        """Another contributor with a seat. Returns its agent key."""
        handler, _ = make_handler(self.folder / name, self.chain, **options)
        identity, agent = handler.identity, str(handler.identity.agent.public)
        probes = (Probe(name="matmul", precision="fp32", seconds=0.001, spread=0.1),)
        store = BlobStore(self.run.settings.home.blobs)
        self.cluster.by_agent[agent] = DirectContributor(
            handler, identity, store, self.run.settings.gateway_url, probes
        )
        self.chain.job.seats.append(SeatState(identity.wallet))
        belief = Correction.start(
            Prediction(agent=agent, seconds=0.01, low=0.009, high=0.012, base=0.01, source="base")
        )
        self.run.state.seats.append(
            Seat(
                seat=len(self.run.state.seats),
                wallet=identity.wallet,
                agent=agent,
                device_class=handler.terms.hardware.device_class,
                share=1.0,
                probes=list(probes),
                state="active",
                predicted=0.01,
                belief={**belief.__dict__},
            )
        )
        return agent

    async def peers(self) -> dict[str, Peer]:
        described = await self.cluster.contributors()
        return verified(described, settings=self.run.settings, genesis=GENESIS, allow=())

    async def begin(self, segments: int = 3, number: int = 1) -> None:
        """Orders of one round, stored and not yet sent."""
        _assign_rows(self.run)
        await _seal_partitions(self.run)
        seats = tuple(
            SeatRound(
                seat=seat.seat,
                agent=seat.agent,
                max_segments=segments,
                segment_steps=STEP,
                progress_from=0,
                progress_to=100_000,
                time_box=30.0,
                prediction=Correction(**seat.belief).prediction,
            )
            for seat in self.run.state.active()
        )
        steps = segments * STEP * len(seats)
        plan = RoundPlan(
            round=number, steps=steps, seats=seats, idle=(), seconds=1, time_box=30, predictor="base", version="1"
        )
        await _begin(self.run, plan)

    async def train(self, segments: int = 3, number: int = 1) -> list[Entry]:
        """One round's orders, sent one after the other."""
        await self.begin(segments, number)
        return await self.send()

    async def send(self) -> list[Entry]:
        assert self.run.round is not None
        peers = await self.peers()
        for entry in self.run.round.entries:
            await _one(self.run, self.run.round, entry, peers)
        return self.run.round.entries

    async def audit(self, entry: Entry, *, whole: bool = False, block_hash: bytes = bytes(32)) -> Audit:
        round_ = self.run.round
        assert round_ is not None
        from cloudlinkup.verify import merkle

        leaves = round_leaves(round_)
        self.chain.job.round, self.chain.job.commit_root = round_.round, merkle.root(leaves)
        return await audit_shard(self.run, round_, entry, leaves, block_hash, whole=whole)


def settings_of(home: Home, chain: ChainServer) -> Settings:
    home.make()
    for role in ("operator", "verifier", "cranker", "sponsor"):
        path = home.key(role)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(list(bytes(Keypair()))))
    loaded = Settings.load(home)
    keys = {"mint": str(Keypair().pubkey()), "owner": str(Keypair().pubkey())}
    return Settings(**{**loaded.__dict__, **keys, "rpc_url": chain.url})


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A job with two contributors, its rows dealt; nothing ordered yet. The ledger is absent: see the system tests."""
    with serving(make_chain(Signer(Keypair()))) as chain:
        chain.job.seats = []
        settings = settings_of(Home(tmp_path / "home"), chain)
        job: JobSpec = parse_job(JOB)
        cluster = Contributors()
        run = Run(job, REQUEST, "flow-run", settings, cast(Ledger, None), cast(Cluster, cluster))
        run.store.begin(REQUEST, job.model_dump_json(), "flow-run")
        run.folder.mkdir(mode=0o700, parents=True)
        run.genesis = GENESIS
        chain.job.verifier = str(run.verifier.public)
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(rng.standard_normal((300, 6)), columns=[f"f{i}" for i in range(6)])
        frame["y"] = np.where(frame["f0"] + frame["f1"] > 0, "yes", "no")
        run.prepared = prepare(frame, job)
        run.published = Published(initial_weights(run.prepared.spec))
        reference = ReferenceProfile(overhead=0.001, per_sample=1e-5)
        run.write(FACTS, job_facts(job, run.prepared, reference, run.settings.home).model_dump_json().encode())
        run.state.plan = {"segment_steps": STEP, "rounds": 4}
        run.state.price = 7
        run.state.total_steps = 1_000
        run.state.terms = Terms(
            job_id=JOB_ID,
            account=chain.account,
            budget=10**7,
            deadline=chain.job.deadline,
            dispute_window=60,
            arbiter_window=60,
            fee_bps=0,
        )
        made = Rig(run, chain, cluster, tmp_path)
        made.add("one")
        made.add("two")
        yield made
