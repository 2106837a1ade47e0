"""A quote without a job: the reading half of *segment* and *allocate*. Needs no wallet, stores nothing.

A plain coroutine rather than a Prefect flow: a person waits for it, and a run of its own would take eight seconds.
"""

from __future__ import annotations

import asyncio

from cloudlinkup.cluster.dispatch import Cluster
from cloudlinkup.home import Settings
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.types import JobSpec
from models.quote import Quote
from tasks.peers import verified
from tasks.planning import candidates, job_facts, limits, load_data, make_quote, profile


async def quote_job(job: JobSpec) -> Quote:
    """What `job` would take and cost with the contributors that are connected now.

    Raises BadInput (data, model, budget, deadline), NoContributors, Unavailable.
    """
    settings = Settings.load()
    data = await load_data(job, settings.file_roots)
    reference = await profile(data, settings)
    facts = await asyncio.to_thread(job_facts, job, data, reference, settings.home)
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
        config = await ledger.config()
        bounds = limits(
            job,
            now=await ledger.now(),
            fee_bps=config.fee_bps,
            decimals=await ledger.mint_decimals(settings.mint_key),
            reference=reference,
        )
        found = await candidates(peers.values(), settings.home)
    return await asyncio.to_thread(make_quote, facts, found, bounds, settings.home)
