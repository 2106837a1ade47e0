"""What all stages of one job share: connections, keys, the stored state. Opened once per flow run.

`Run` is a plain class on purpose: Prefect walks through dataclasses and models given to a task, and this holds
arrays and sockets. Nothing of it is ever a Prefect parameter, result or log line.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from solders.pubkey import Pubkey

from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.crypto.seal import SealingKey
from cloudlinkup.errors import BadInput, JobFailed, Unavailable
from cloudlinkup.home import Settings
from cloudlinkup.jobs import JobStore
from cloudlinkup.types import JobSpec, canonical_json
from tasks.showing import Showing
from tasks.state import JobState, RoundState, Stage

if TYPE_CHECKING:
    from cloudlinkup.cluster.dispatch import Cluster
    from cloudlinkup.ledger.escrow import Ledger
    from cloudlinkup.tables.prepared import Prepared
    from cloudlinkup.training.networks.kind import FrozenWeights
    from cloudlinkup.training.outer import Published
    from models.plan import RoundPlan
    from tasks.peers import Peer
    from tasks.subject import Subject

AT_ONCE = 2  # replays side by side
ROUND_STAGES = ("order", "train", "verify", "release", "rebalance")


class Run:
    """One flow run's hold on one job."""

    def __init__(
        self, job: JobSpec, request_id: str, flow_run_id: str, settings: Settings, ledger: Ledger, cluster: Cluster
    ) -> None:
        self.job, self.request_id, self.flow_run_id = job, request_id, flow_run_id
        self.settings, self.ledger, self.cluster = settings, ledger, cluster
        self.store = JobStore(settings.home.jobs_db)
        self.folder = settings.home.job_folder(request_id)
        self.blobs = BlobStore(settings.home.blobs)
        self.log = structlog.get_logger().bind(request=request_id)
        self.program = Pubkey.from_string(settings.program_id)
        self.genesis = ""
        self.mint = settings.mint_key
        self.owner = settings.owner_key
        self.operator = Signer.from_file(settings.home.key("operator"))
        self.verifier = Signer.from_file(settings.home.key("verifier"))
        self.cranker = Signer.from_file(settings.home.key("cranker"))
        self.sponsor = Signer.from_file(settings.home.key("sponsor"))
        text = self.store.state(request_id)
        self.state = (
            JobState.model_validate_json(text)
            if text
            else JobState(started=time.time(), result_key=SealingKey.generate().private.private_bytes_raw().hex())
        )
        self.state.flow_run_id = flow_run_id
        # under way; and the one before it, which the weights count already and whose audit and awards are to come
        self.round, self.open = _unfinished(self.state, self.store.rounds(request_id))
        self.prepared: Prepared | None = None
        self.published: Published | None = None
        self.base: FrozenWeights | None = None  # weights that the network begins with or stands on, where it has such
        self.showing = Showing()
        self.trials: list[Subject] = []  # of a job with `search`, by number
        self.folds: np.ndarray = np.empty(0, np.int32)  # of its training rows
        self.plan: RoundPlan | None = None  # of the next round
        self.peers: tuple[float, dict[str, Peer]] | None = None  # who was connected at that time, when it was planned
        self.committing: asyncio.Task[None] | None = None  # the commitment of the latest round
        # of a round that goes ahead: whether the contributor of a seat took the path to its root, by the order's hash
        self.handing: dict[str, asyncio.Task[bool]] = {}
        self.decimals = 0
        self._inside: dict[str, float] = {}  # the stages of rounds that are being timed, and since when
        self.replays = asyncio.Semaphore(AT_ONCE)

    # ---------------------------------------------------------------- memory

    def save(self, stage: Stage | None = None) -> None:
        """Writes the job's state. Called before each effect and after each stage."""
        if stage is not None:
            self.state.stage = stage
        planned = int(self.state.plan.get("rounds", 0)) if self.state.plan else 0
        self.store.save(
            self.request_id,
            stage=self.state.stage,
            state=self.state.model_dump_json(),
            job_id=self.state.terms.job_id if self.state.terms else None,
            round_=self.state.round,
            rounds=max(planned, self.state.round),
        )

    def save_round(self, round_: RoundState | None = None) -> None:
        """`round_`: by default the one that is under way."""
        saved = round_ or self.round
        assert saved is not None
        self.store.save_round(self.request_id, saved.round, saved.model_dump_json())

    def event(self, kind: str, **data: Any) -> None:
        """A line of progress for people and `watch`; never a row, a key or a secret."""
        self.store.event(self.request_id, kind, **data)
        self.log.info(kind, **data)

    def sent(self, stage: str, signatures: list[str]) -> None:
        self.store.add_signatures(self.request_id, stage, signatures)

    @contextmanager
    def timed(self, name: str) -> Any:
        """Adds the seconds spent inside to the job's time split. Of two rounds' stages at once both are counted."""
        start = time.monotonic()
        if name in ROUND_STAGES:
            self._inside[name] = start
        try:
            yield
        finally:
            now = time.monotonic()
            if name in ROUND_STAGES:
                since = min(self._inside.values())
                del self._inside[name]
                # of stages side by side the time is counted once: up to now by this one, from now on by the others
                self.state.worked += now - since
                self._inside = dict.fromkeys(self._inside, now)
            split = dict(self.state.stage_seconds)
            split[name] = round(split.get(name, 0.0) + now - start, 3)
            self.state.stage_seconds = split

    async def let_go(self) -> None:
        """Ends what still runs beside; taken up again, a job reads from the chain what became of it."""
        await self.showing.end()
        beside = [*self.handing.values(), *([] if self.committing is None else [self.committing])]
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)

    def worked(self) -> float:
        """Seconds that runs of this job have spent on its rounds so far; what passed between two runs is not among
        them, so that a crash does not make rounds look slow."""
        since = min(self._inside.values(), default=None)
        return self.state.worked + (0.0 if since is None else time.monotonic() - since)

    # ---------------------------------------------------------------- what stages need of each other

    @property
    def sealing(self) -> SealingKey:
        """The key that updates and openings of this job are sealed to."""
        return SealingKey(X25519PrivateKey.from_private_bytes(bytes.fromhex(self.state.result_key)))

    @property
    def spec_hash(self) -> bytes:
        """SHA-256 of the job as submitted: what open_job writes on chain."""
        return hashlib.sha256(canonical_json(self.job)).digest()

    @property
    def account(self) -> Pubkey:
        """The Job account. Raises JobFailed before escrow-lock has named it."""
        if self.state.terms is None:
            raise JobFailed("the job has no account on chain yet")
        return Pubkey.from_string(self.state.terms.account)

    @property
    def data(self) -> Prepared:
        assert self.prepared is not None, "segment comes first"
        return self.prepared

    @property
    def weights(self) -> Published:
        assert self.published is not None, "allocate comes first"
        return self.published

    @property
    def frozen(self) -> FrozenWeights | None:
        """What of the job's network is not trained."""
        return None if self.data.spec.frozen is None else self.base

    def write(self, name: str, data: bytes) -> Path:
        """A file of the job's folder, written whole or not at all."""
        path = self.folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the store, which names it, survives a power cut too
        part.replace(path)
        return path


def _unfinished(state: JobState, texts: list[str]) -> tuple[RoundState | None, RoundState | None]:
    """(the round that is under way, the one before it whose audit is).

    The job's state is saved before a round's end: what that counts is over, whatever the round's own record says.
    """
    rounds = [RoundState.model_validate_json(text) for text in texts[-2:]]
    left = [round_ for round_ in rounds if round_.stage != "finished"]
    under_way = next((round_ for round_ in left if round_.round > state.round), None)
    open_ = next((r for r in left if r.ahead and r.round <= state.round and r.mark != state.judged), None)
    return under_way, open_


def check_request_id(request_id: str) -> None:
    """It names the job's folder and its artifacts, and comes from whoever may start a run. Raises BadInput."""
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", request_id, flags=re.ASCII):
        raise BadInput("request_id", request_id, "not a UUID in lower case", "leave it out, or give a new UUID")


@asynccontextmanager
async def open_run(job: JobSpec, request_id: str, flow_run_id: str) -> AsyncIterator[Run]:
    """Connects to chain and cell, takes the job's lock, and registers the request.

    Raises BadInput for a request id that is no UUID, Unavailable when another process holds the job, and JobFailed when
    the request id belongs to another job.
    """
    from cloudlinkup.cluster.dispatch import Cluster
    from cloudlinkup.ledger.escrow import Ledger

    check_request_id(request_id)
    settings = Settings.load()
    settings.home.make()
    store = JobStore(settings.home.jobs_db)
    text = canonical_json(job).decode()
    if store.begin(request_id, text, flow_run_id) != text:
        raise JobFailed(f"request {request_id} was first submitted with another job. Fix: use a new request id")
    folder = settings.home.job_folder(request_id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked((folder / "lock").open("w"), request_id))
        ledger = await stack.enter_async_context(Ledger.connect(settings.rpc_url, settings.program_id))
        cluster = await stack.enter_async_context(Cluster.connect(settings.scheduler))
        run = Run(job, request_id, flow_run_id, settings, ledger, cluster)
        run.genesis = await ledger.genesis()
        run.decimals = await ledger.mint_decimals(run.mint)
        stack.push_async_callback(run.let_go)
        yield run


@contextmanager
def _locked(file: IO[str], request_id: str) -> Any:
    """One flow at a time: the kernel lets go when the process dies, however it dies."""
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"request {request_id} is being run by another process. Fix: wait for it") from None
        yield
