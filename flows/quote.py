"""A quote without a job: the reading half of *segment* and *allocate*. Needs no wallet.

It stores nothing but the rows' hash, which submitting the same job is held to, and this machine's timing of the job.

A plain coroutine rather than a Prefect flow: a person waits for it, and a run of its own would take eight seconds.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cloudlinkup.cluster.dispatch import Cluster
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Settings
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import JobSpec, parse_tokens
from models.quote import Quote, requote
from models.reasons import Goal
from models.registry import Registry
from tasks.calibrated import replay_classes
from tasks.initial import INITIAL, bring_initial
from tasks.peers import verified
from tasks.pilot import settle_rate
from tasks.planning import candidates, expected_overheads, job_facts, limits, load_data, make_quote, profile
from tasks.pretrained import BASE, fetch_base
from tasks.quoted import remember_facts, remember_quoted, scratch
from tasks.trials import plan_search


async def quote_job(job: JobSpec, goal: Goal | None = None, own_hourly: str | None = None) -> Quote:
    """What `job` would take and cost with the contributors that are connected now.

    `goal`: see `models.quote`; None is what submitting it gets, by its own goal. `own_hourly`: tokens that an hour of
    the client's own machine costs it.

    Raises BadInput (data, model, budget, deadline), NoContributors, Unavailable.
    """
    settings = Settings.load()
    with scratch(settings.home) as place:
        data = await load_data(job, settings.file_roots, place)
        await asyncio.to_thread(lambda: remember_quoted(settings.home, job, data.hash))
        base = await fetch_base(job, data.spec, settings.file_roots, place / BASE)
        return await _quote(job, data, base, settings, goal, own_hourly, place)


async def _quote(
    job: JobSpec,
    data: Prepared,
    base: FrozenWeights | None,
    settings: Settings,
    goal: Goal | None,
    own_hourly: str | None,
    place: Path,
) -> Quote:
    if job.search is None:
        await bring_initial(job, [data.spec], settings.file_roots, place)
    data, rates = await settle_rate(job, data, initial=place / INITIAL)
    work = None
    if job.search is None:
        reference = await profile(data, settings, base if data.spec.frozen else None)
        facts = await asyncio.to_thread(job_facts, job, data, reference, settings.home, base)
    else:
        plan = await plan_search(job, data, settings, base)
        specs = [TrainingSpec.from_bytes(trial.spec.encode()) for trial in plan.trials]
        await bring_initial(job, specs, settings.file_roots, place)
        facts, work = plan.facts[0], plan.work
        reference = facts.profile
    facts = facts.model_copy(update={"rates": rates})
    if job.search is None:
        await asyncio.to_thread(remember_facts, settings.home, job, data.spec, facts)
    async with (
        Ledger.connect(settings.rpc_url, settings.program_id) as ledger,
        Cluster.connect(settings.scheduler) as cluster,
    ):
        peers = verified(
            await cluster.contributors(),
            settings=settings,
            genesis=await ledger.genesis(),
            allow=job.contributors.allow,
        )
        config, decimals = await ledger.config(), await ledger.mint_decimals(settings.mint_key)
        bounds = limits(
            job,
            now=await ledger.now(),
            fee_bps=config.fee_bps,
            decimals=decimals,
            reference=reference,
            overheads=await expected_overheads(settings),
            replay=await asyncio.to_thread(replay_classes, job, data, settings.home, reference.device_class),
        )
        if own_hourly is not None:
            bounds = bounds.model_copy(update={"own_hourly": parse_tokens(own_hourly, decimals, "--own-hourly")})
        found = await candidates(peers.values(), settings.home, settings.owner or "")
    return await asyncio.to_thread(
        make_quote, facts, found, bounds, settings.home, goal or job.goal or "both", work, submitted=goal is None
    )


def replay_quote(path: Path) -> Quote:
    """The quote that a job's quote.json holds, computed again from the inputs in it, with the predictor it names.

    Raises BadInput when the file holds none or the result differs, Unavailable when this home lacks its predictor.
    """
    try:
        kept = Quote.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        raise BadInput("quote", str(path), "holds no quote", "give a job's quote.json") from None
    registry = Registry(Settings.load().home.root / "models")
    try:
        again = requote(kept, registry.load(kept.version))
    except ValueError as error:
        raise BadInput(
            "quote", kept.version, f"its predictor is not here: {error}", "use the home it was made in"
        ) from None
    if again != kept:
        raise BadInput(
            "quote", str(path), "its inputs give another quote", "it was changed, or made by another version"
        )
    return again
