"""From a job to a quote: read, check, prepare, time, predict, select. Effect-free but for reading; no Prefect.

`segment` and `allocate` store what these return; `quote` prints it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from cloudlinkup.agent.checks import memory_needed
from cloudlinkup.agent.hardware import describe
from cloudlinkup.agent.probes import measure_or_cached
from cloudlinkup.home import Home, Settings
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.tables.read import MAX_SOURCE, fetch, parse_table, read_tokenizer
from cloudlinkup.tables.stored import Stored, csv_to_parquet
from cloudlinkup.tables.windows import prepare_text
from cloudlinkup.training.architectures import needed_extra, parameter_count
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.schedule import whole_text
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import JobSpec, parse_tokens
from models.facts import Candidate, JobFacts, Limits, ReferenceProfile
from models.features import graph_features
from models.overheads import Overheads, expected
from models.profile import profile_reference
from models.quote import Quote, QuoteInputs, quote_job
from models.reasons import Goal
from models.registry import Registry
from models.schemas import check_table
from models.seen import MOST, slower
from models.telemetry import Telemetry
from models.trials import SearchWork
from models.wallets import LEAST_WALLETS
from tasks.overheads import spent
from tasks.peers import Peer

IN_MEMORY = 64 * 2**20  # bytes of a table's source
FETCH = 3_600.0  # seconds for a download


async def load_data(job: JobSpec, roots: tuple[Path, ...], place: Path, in_memory: int = IN_MEMORY) -> Prepared:
    """The client's rows, checked, prepared and kept in the folder `place`, which is made.

    `in_memory`: bytes of a table's source up to which it is read whole; a larger one is read in pieces, with the same
    result. Raises BadInput by field, value and fix, never with a cell. What is there already is replaced.
    """
    await asyncio.to_thread(_empty, place)
    if job.data.format == "text":
        return await _load_text(job, roots, place)
    download, table = place / "source", place / "table.parquet"
    try:
        path = await fetch(job.data.uri, roots, download, MAX_SOURCE, FETCH)
        return await asyncio.to_thread(_prepare_table, path, job, place, table, in_memory)
    finally:
        for left in (download, table):
            left.unlink(missing_ok=True)


def _prepare_table(path: Path, job: JobSpec, place: Path, table: Path, in_memory: int) -> Prepared:
    """In memory where the source is small; else in pieces, a CSV by way of the Parquet file `table`."""
    assert job.task != "next_token", "which the job's own checks hold"
    data = job.data
    if path.stat().st_size <= in_memory:
        frame = parse_table(path.read_bytes(), data)
        check_table(frame, data.column, job.task)
        return prepare(frame, job, place)
    stored = Stored(path if data.format == "parquet" else csv_to_parquet(path, data, table), data.uri)
    for start, piece in stored.pieces():
        check_table(piece, data.column, job.task, first_row=start)
    return prepare(stored, job, place)


def _empty(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700, parents=True)


async def _load_text(job: JobSpec, roots: tuple[Path, ...], place: Path) -> Prepared:
    tokenizer = None if job.data.tokenizer is None else await read_tokenizer(job.data.tokenizer, roots)
    download = place / "source"
    try:
        path = await fetch(job.data.uri, roots, download, MAX_SOURCE, FETCH)
        return await asyncio.to_thread(prepare_text, path, job, place, tokenizer)
    finally:
        download.unlink(missing_ok=True)


async def profile(data: Prepared, settings: Settings, frozen: FrozenWeights | None = None) -> ReferenceProfile:
    """This job's step, timed on this machine, with this machine's own probes (cached)."""

    def timed() -> ReferenceProfile:
        hardware = describe("cpu", threads=1)
        folder = settings.home.contributor("reference")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probes = measure_or_cached(folder / "probes.json", hardware)
        return profile_reference(
            data.spec, data.features, data.targets, probes=probes, hardware=hardware, frozen=frozen
        )

    return await asyncio.to_thread(timed)


def job_facts(
    job: JobSpec, data: Prepared, reference: ReferenceProfile, home: Home, base: FrozenWeights | None = None
) -> JobFacts:
    """What planning needs of the job. Blocks for seconds where this network was never traced here before."""
    frozen = base if base is not None and data.spec.frozen is not None else {}
    return JobFacts(
        features=traced(data.spec, home),
        samples=job.train.samples,
        batch=job.train.batch,
        profile=reference,
        # the whole table: a contributor may be left alone with it
        memory=memory_needed(
            data.spec,
            parameter_count(data.spec),
            data.features.nbytes + data.targets.nbytes,
            sum(tensor.nbytes for tensor in frozen.values()),
        ),
        extra=needed_extra(data.spec),
        kept=data.spec.rounds == "kept",
        text=whole_text(data.spec),
    )


def traced(spec: TrainingSpec, home: Home) -> dict[str, float]:
    """The graph features, kept by spec: torch's meta kernels alone take four seconds to import."""
    kept = home.root / "models" / "graphs" / f"{spec.hash}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    features = graph_features(spec)
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(features))
    part.replace(kept)
    return features


async def candidates(peers: Iterable[Peer], home: Home, client: str = "") -> tuple[Candidate, ...]:
    """Connected contributors with their track records as `client` may count them; they are remembered as seen."""
    telemetry, predictor = Telemetry(home.telemetry_db), Registry(home.root / "models").champion()
    found: list[Candidate] = []
    for peer in peers:
        await telemetry.record_contributor(peer.hello, peer.wallet)
        record = await telemetry.track_record(peer.wallet, client)
        past = slower(predictor, await telemetry.latest(peer.agent, MOST))
        record = record.model_copy(update={"slower": past})
        found.append(Candidate.from_hello(peer.hello, peer.wallet, record))
    return tuple(found)


def limits(
    job: JobSpec,
    *,
    now: float,
    fee_bps: int,
    decimals: int,
    reference: ReferenceProfile,
    replay: tuple[str, ...] = (),
    overheads: Overheads | None = None,
) -> Limits:
    """What binds the plan. `now`: the chain's clock. `replay`: the classes that the audit can judge (`calibrated`); by
    default the reference's alone. `overheads`: as `expected_overheads` says; else the prior."""
    overheads = overheads or expected()
    return Limits(
        setup_seconds=overheads.setup,
        round_seconds=overheads.round,
        setup_spread=overheads.setup_spread,
        round_spread=overheads.round_spread,
        measured_jobs=overheads.jobs,
        budget=parse_tokens(job.budget, decimals),
        deadline_seconds=job.deadline.timestamp() - now,
        fee_bps=fee_bps,
        decimals=decimals,
        max_contributors=job.contributors.max,
        allow=job.contributors.allow,
        by_goodput=job.search is None and not 0 < len(job.contributors.allow) <= job.contributors.max,
        by_wallet=by_wallet(job),
        replay_classes=replay or (reference.device_class,),
    )


def by_wallet(job: JobSpec) -> bool:
    """Whether one wallet's places are bound (`models.wallets`): the client did not name fewer than three wallets
    itself, and they train one network together."""
    return job.search is None and not 0 < len(set(job.contributors.allow)) < LEAST_WALLETS


async def expected_overheads(settings: Settings) -> Overheads:
    """What a job takes beside training, by the past ones of this home."""
    return expected(await spent(settings.home), settings.challenge_delay)


def make_quote(
    facts: JobFacts,
    found: tuple[Candidate, ...],
    bounds: Limits,
    home: Home,
    goal: Goal = "both",
    search: SearchWork | None = None,
    *,
    submitted: bool = False,
) -> Quote:
    """The champion predictor's quote; `submitted`: of the job as it is run, by its own goal within budget and deadline.

    Raises BadInput (budget, deadline) and NoContributors.
    """
    if search is not None:  # one training is one contributor's at a time
        most = min(bounds.max_contributors, len(search.steps))
        bounds = bounds.model_copy(update={"max_contributors": most})
    inputs = QuoteInputs(job=facts, candidates=found, limits=bounds, goal=goal, submitted=submitted, search=search)
    return quote_job(inputs, Registry(home.root / "models").champion())
