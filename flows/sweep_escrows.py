"""Finishes what a dead or impatient flow left on chain: pays what matured, closes what ended, gets the rent back.

    python -m flows.sweep_escrows     or the deployment `sweep-escrows`, on a schedule

It signs with the cranker's key, which has no role. Running it twice at once, or beside a flow that settles, is safe.
Not covered: jobs of other clients, and the receipts of jobs that it finishes (they say what was pending then).
"""

from __future__ import annotations

import asyncio

from prefect import flow
from prefect.logging import get_run_logger

from cloudlinkup.home import Settings
from cloudlinkup.ledger.escrow import Ledger
from tasks.sweep import report, sweep_one


@flow(name="sweep-escrows", persist_result=False)
async def sweep_escrows() -> str:
    """Sweeps every job of this stack's client; returns what it did in one sentence.

    Raises Unavailable when the chain cannot be asked.
    """
    settings = Settings.load()
    async with Ledger.connect(settings.rpc_url, settings.program_id) as ledger:
        client = ledger.client_address(settings.owner_key, settings.mint_key)
        jobs = [str(address) for address, _ in await ledger.jobs(client)]
        decimals = await ledger.mint_decimals(settings.mint_key)
    swept = [await sweep_one(job) for job in jobs]
    for one in swept:
        if one.problem:
            get_run_logger().warning("job %s: %s", one.job, one.problem)
    sentence = await report(swept, decimals)
    get_run_logger().info(sentence)
    return sentence


if __name__ == "__main__":
    print(asyncio.run(sweep_escrows()))
