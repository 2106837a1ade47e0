"""Sweeping as Prefect tasks: one job a task run. The work is `cloudlinkup.ledger.sweeping`."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.home import Settings
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.ledger.sweeping import Swept, sweep_job
from cloudlinkup.types import format_tokens

LAMPORTS = 9  # decimals of SOL


@task(name="sweep-job", task_run_name="sweep {job}", cache_policy=NO_CACHE, persist_result=False)
async def sweep_one(job: str) -> Swept:
    """`job`: the account, base58. Reads the cranker's key itself: a key is never a task's parameter.

    Raises Unavailable when the chain cannot be asked; the chain's refusals are in the result.
    """
    settings = Settings.load()
    cranker = Signer.from_file(settings.home.key("cranker"))
    async with Ledger.connect(settings.rpc_url, settings.program_id) as ledger:
        return await sweep_job(ledger, cranker, Pubkey.from_string(job))


@task(name="report-sweep", cache_policy=NO_CACHE, persist_result=False)
async def report(swept: list[Swept], decimals: int) -> str:
    """A table artifact with one line a job, and a sentence about all of them, which it returns."""
    sentence = summary(swept, decimals)
    await acreate_table_artifact(
        key="sweep-escrows", table=[line(one, decimals) for one in swept], description=sentence
    )
    return sentence


def summary(swept: list[Swept], decimals: int) -> str:
    """The totals, in token units and SOL."""
    paid = sum(one.paid + one.bonds for one in swept)
    back, rent = sum(one.to_client for one in swept), sum(one.rent for one in swept)
    erased = sum(one.erased for one in swept)
    problems = sum(bool(one.problem) for one in swept)
    return (
        f"{len(swept)} jobs: paid {format_tokens(paid, decimals)}, returned {format_tokens(back, decimals)} to the "
        f"client, erased {erased} ({format_tokens(rent, LAMPORTS)} SOL of rent back), {problems} with a problem"
    )


def line(one: Swept, decimals: int) -> dict[str, str]:
    """One job for the table."""
    return {
        "job": str(one.job),
        "paid": format_tokens(one.paid, decimals),
        "bonds returned": format_tokens(one.bonds, decimals),
        "fee": format_tokens(one.fee, decimals),
        "to the client": format_tokens(one.to_client, decimals),
        "rent back (SOL)": format_tokens(one.rent, LAMPORTS),
        "still owed": format_tokens(one.left, decimals),
        "state": "erased" if one.erased else "open",
        "looked at again": datetime.fromtimestamp(one.next, UTC).isoformat() if one.next else "",
        "seats without a usable token account": ", ".join(map(str, one.unpayable)),
        "problem": one.problem,
    }
