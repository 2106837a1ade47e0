"""The flow's side of one job, with its real keys, sealing and blob store: signs orders, opens what comes back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from solders.keypair import Keypair

from cloudlinkup.agent.acceptance import Terms
from cloudlinkup.agent.chain import RpcChain
from cloudlinkup.agent.handler import Handler
from cloudlinkup.agent.hardware import describe
from cloudlinkup.agent.identity import Identity, open_identity
from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.cluster.direct import DirectIo
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.crypto.seal import SealingKey, decrypt_blob, encrypt_blob, open_key, seal_key
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.data import pack_partition
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.verify import merkle
from cloudlinkup.wire.calls import BlobRef, CallRequest, ChallengeCall, PathStep, TrainCall, WeightsRef
from cloudlinkup.wire.hashes import partition_hash, rows_seed, seal_context, seat_leaf, secret_leaf, sha256
from cloudlinkup.wire.messages import Ack, BadShard, Commit, Document, Order, Signed, agent_key, sign, verify
from tests.agent.chain_server import GENESIS, ChainServer, JobState, SeatState

JOB_ID = "0190" + "ab" * 14
SEAT, PAY, STEPS = 1, 7, 5


def small_spec(**changes: Any) -> TrainingSpec:
    facts: dict[str, Any] = {
        "task": "classification",
        "model": {"kind": "mlp", "hidden": [16], "activation": "relu"},
        "inputs": 8,
        "outputs": 3,
        "batch": 16,
        "lr": 0.01,
        "seed": 5,
    }
    return TrainingSpec(**(facts | changes))


@dataclass
class Flow:
    """One job of one client, and the contributor it works with."""

    chain: ChainServer
    store: BlobStore
    wallet: str
    agent: str
    sealing: str  # hex
    verifier: Signer
    spec: TrainingSpec = field(default_factory=small_spec)
    result: SealingKey = field(default_factory=SealingKey.generate)
    salt: bytes = field(default_factory=lambda: os.urandom(16))

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.features = rng.standard_normal((120, self.spec.inputs)).astype(np.float32)
        self.targets = rng.integers(0, self.spec.outputs, 120)
        self.partition = pack_partition(self.features, self.targets)
        self.weights = initial_weights(self.spec)

    # ------------------------------------------------------------ orders

    def order(self, *, signer: Signer | None = None, **changes: Any) -> Signed:
        facts: dict[str, Any] = {
            "genesis": GENESIS,
            "program": PROGRAM_ID,
            "job": self.chain.account,
            "job_id": JOB_ID,
            "round": 1,
            "seat": SEAT,
            "attempt": 0,
            "wallet": self.wallet,
            "agent": self.agent,
            "spec_hash": self.spec.hash,
            "partition_hash": partition_hash(self.salt, self.partition).hex(),
            "weights_hash": sha256(self.weights.tobytes()),
            "segment_steps": STEPS,
            "max_segments": 4,
            "progress_from": 0,
            "progress_to": 500_000,
            "pay_per_step": PAY,
            "time_box": 30.0,
            "max_bytes": 200_000,
            "numeric_mode": "fp32",
            "result_key": self.result.public,
        }
        facts |= changes
        of = bytes.fromhex(facts["job_id"]), bytes.fromhex(facts["partition_hash"])
        facts.setdefault("seed", rows_seed(*of, self.spec.seed).hex())
        return sign(signer or self.verifier, Order(**facts))

    async def sealed(self, plain: bytes, context: bytes) -> BlobRef:
        blob, key = encrypt_blob(plain)
        name = await self.store.put(JOB_ID, blob)
        return BlobRef(sha256=name, size=len(blob), sealed_key=seal_key(key, bytes.fromhex(self.sealing), context))

    def weights_context(self, order: Order) -> bytes:
        return seal_context("weights", JOB_ID, self.sealing, order.round, order.seat, order.attempt)

    async def call(self, signed: Signed, **changes: Any) -> TrainCall:
        order = Order.model_validate_json(signed.text)
        data_context = seal_context("data", JOB_ID, self.sealing, bytes.fromhex(order.partition_hash))
        facts: dict[str, Any] = {
            "order": signed,
            "spec": self.spec.to_bytes(),
            "partition": await self.sealed(self.partition, data_context),
            "salt": self.salt,
        }
        if "weights" not in changes:
            facts["weights"] = WeightsRef(
                snapshot=await self.sealed(self.weights.tobytes(), self.weights_context(order))
            )
        return TrainCall(**(facts | changes))

    def request(self, call: TrainCall, deadline: float = 60.0) -> CallRequest:
        blobs = (call.partition, call.weights.snapshot, call.weights.delta)
        return CallRequest(
            kind="train",
            body=call.pack(),
            deadline=deadline,
            ack_within=30.0,
            job_id=JOB_ID,
            reads=tuple(blob.sha256 for blob in blobs if blob is not None),
            max_upload=200_000,
            max_uploads=1,
        )

    # ------------------------------------------------------------ what comes back

    def read(self, kind: type[Document], signed: Signed) -> Any:
        return verify(kind, signed, signer=agent_key(self.agent), genesis=GENESIS, program=PROGRAM_ID)

    def bad(self, signed: Signed | None) -> BadShard:
        assert signed is not None
        return self.read(BadShard, signed)

    def accepted(self, signed: Signed | None, order: Signed) -> None:
        assert signed is not None
        assert self.read(Ack, signed).order == order.hash.hex()

    async def open(self, ref: BlobRef, order: Order, direction: str, *rest: int) -> bytes:
        context = seal_context(direction, JOB_ID, self.result.public, order.round, order.seat, order.attempt, *rest)
        blob = await self.store.get(JOB_ID, ref.sha256, ref.size)
        return decrypt_blob(blob, open_key(ref.sealed_key, self.result, context), 10**7)

    def challenge(
        self, signed: Signed, commit: Commit, *, open: tuple[int, ...] = (), after: bool = False, more: bool = False
    ) -> ChallengeCall:
        """Folds the round's tree (this seat and another's) and puts its root on chain."""
        order = Order.model_validate_json(signed.text)
        leaves = [seat_leaf(0, bytes(32)), seat_leaf(order.seat, bytes.fromhex(commit.root)), secret_leaf(b"s" * 32)]
        root = merkle.root(leaves)
        self.chain.job.round, self.chain.job.commit_root = order.round, root
        return ChallengeCall(
            order=signed.hash.hex(),
            round=order.round,
            seat=order.seat,
            root=root,
            path=tuple(PathStep(left=left, hash=h) for left, h in merkle.path(leaves, 1)),
            open=open,
            after=after,
            more=more,
        )

    def challenge_request(self, call: ChallengeCall) -> CallRequest:
        return CallRequest(
            kind="challenge", body=call.pack(), deadline=30, job_id=JOB_ID, max_upload=200_000, max_uploads=16
        )


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def make_chain(verifier: Signer) -> ChainServer:
    job = JobState(verifier=str(verifier.public), job_id=JOB_ID, deadline=int(time.time()) + 3_600, seats=[])
    return ChainServer(account=str(Keypair().pubkey()), job=job)


def seat_both(chain: ChainServer, wallet: str) -> None:
    """Another wallet's seat 0, and ours at 1."""
    chain.job.seats = [SeatState(str(Keypair().pubkey())), SeatState(wallet)]


@dataclass
class Desk:
    """A handler with its real identity, reading the chain over HTTP and blobs from the store."""

    flow: Flow
    identity: Identity
    handler: Handler
    events: list[tuple[str, dict[str, Any]]]

    @property
    def jobs(self) -> Path:
        return self.identity.folder / "jobs"

    def io(self, call: TrainCall) -> DirectIo:
        io = DirectIo(self.flow.store, self.flow.request(call))
        io.abandoned = False  # as over a connection that may come back
        return io

    async def train(self, call: TrainCall):
        """(reply or None, the Ack or BadShard)"""
        io = self.io(call)
        return await self.handler.train(call, io), io.ack

    async def order(self, **changes: Any):
        """One good round: (order, call, reply)."""
        signed = self.flow.order(**changes)
        call = await self.flow.call(signed)
        reply, ack = await self.train(call)
        self.flow.accepted(ack, signed)
        assert reply is not None
        return signed, call, reply

    async def challenge(self, call: ChallengeCall):
        return await self.handler.challenge(call, DirectIo(self.flow.store, self.flow.challenge_request(call)))


def make_handler(folder: Path, chain: ChainServer, **options: Any) -> tuple[Handler, list[tuple[str, dict[str, Any]]]]:
    """As the agent makes it, for tests: another share, ask or runner through `options`."""
    events: list[tuple[str, dict[str, Any]]] = []
    identity = open_identity(folder, None)
    runner = {"runner_factory": options.pop("runner_factory")} if "runner_factory" in options else {}
    hardware = options.pop("hardware", describe("cpu", 1))
    terms = Terms(genesis=GENESIS, program=PROGRAM_ID, hardware=hardware, **options)
    handler = Handler(
        identity,
        RpcChain(chain.url, PROGRAM_ID),
        terms,
        report=lambda event, facts: events.append((event, facts)),
        **runner,
    )
    return handler, events
