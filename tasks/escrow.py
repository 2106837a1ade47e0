"""Stage *escrow-lock*: the job id, the locked budget, the seats. Every call reads the chain first.

The id is minted from the chain's clock when the job is about to start and stored before `open_job` is sent, so a
retry meets the open account or a stale id, never a second lock.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable

from prefect import task
from prefect.cache_policies import NO_CACHE
from solders.pubkey import Pubkey

from cloudlinkup.errors import BadInput, LedgerError
from cloudlinkup.ledger.accounts import MAX_WINDOW, client_address, job_address
from cloudlinkup.types import format_tokens, parse_tokens
from tasks.context import Run
from tasks.state import Terms
from tasks.together import every

MARGIN = 600  # seconds between the planned end and the deadline on chain, for audits and restarts
SLOWDOWN = 4  # and room for a job that takes this many times its P90


@task(name="escrow-lock", cache_policy=NO_CACHE)
async def escrow_lock(run: Run) -> None:
    """Locks the budget and writes the seats.

    Raises BadInput when the deadline passed meanwhile or deposit and approval do not cover the budget, ProgramError by
    the program's own words when that changed in the last moment.
    """
    with run.timed("lock"):
        if run.state.terms is None:
            run.state.terms = await _terms(run)
            run.save("lock")
        terms = run.state.terms
        sent = await run.ledger.open_job(
            authority=run.operator,
            payer=run.operator,
            owner=run.owner,
            mint=run.mint,
            job_id=bytes.fromhex(terms.job_id),
            verifier=run.verifier.public,
            spec_hash=run.spec_hash,
            budget=terms.budget,
            deadline=terms.deadline,
            dispute_window=terms.dispute_window,
            arbiter_window=terms.arbiter_window,
            fee_bps=terms.fee_bps,
        )
        run.sent("open_job", sent)
        await write_seats(run)
        run.save("rounds")
    run.event("locked", job=terms.account, budget=str(terms.budget), seats=len(run.state.seats))


async def write_seats(run: Run) -> None:
    """Appends the seats that the chain does not have yet, each with the job's bond."""
    assert run.state.terms is not None
    seats = [(Pubkey.from_string(seat.wallet), 0, run.state.terms.bond) for seat in run.state.seats]
    sent = await run.ledger.assign_seats(run.operator, run.operator, run.account, seats)
    run.sent("assign_seats", sent)


async def open_accounts(run: Run, wallets: Iterable[str]) -> None:
    """Pays for the token accounts that wallets with verified work lack, once a wallet.

    Not sooner: keys cost nothing, and the rent of an account is its owner's to take by closing it. A sponsor that
    cannot pay stops no job: what is awarded stays on chain for the wallet, and the next award tries again.
    """
    await every(*(_open_account(run, wallet) for wallet in sorted(set(wallets))))


async def _open_account(run: Run, wallet: str) -> None:
    key = Pubkey.from_string(wallet)
    if await run.ledger.has_token_account(key, run.mint):
        return
    if run.store.sponsored(wallet):
        run.event("unpayable", wallet=wallet, why="it closed the token account that was paid for once")
        return
    try:
        run.sent("token_account", await run.ledger.create_token_account(run.sponsor, key, run.mint))
    except LedgerError as error:
        run.event("unpayable", wallet=wallet, why=f"its token account could not be paid for: {str(error)[:120]}")
        return
    run.store.mark_sponsored(wallet)


async def _terms(run: Run) -> Terms:
    now, config = await run.ledger.now(), await run.ledger.config()
    wanted = int(run.job.deadline.timestamp())
    p90 = float(run.state.quote.get("p90_seconds", 0))
    # The program wants the dispute windows to fit and a short lock: money is not tied up until a far deadline.
    deadline = min(wanted, now + MARGIN + int(SLOWDOWN * p90))
    window = dispute_window(run.settings.dispute_window, config.min_window)
    bond = parse_tokens(run.settings.bond, run.decimals, "bond")
    if deadline <= now + 2 * window:
        raise BadInput("deadline", run.job.deadline.isoformat(), "too near by the chain's clock", "set it later")
    job_id = uuid7(now)
    budget = parse_tokens(run.job.budget, run.decimals)
    client = client_address(run.owner, run.mint, run.program)
    await check_limits(run, budget, now)
    return Terms(
        job_id=job_id.hex(),
        account=str(job_address(client, job_id, run.program)),
        budget=budget,
        deadline=deadline,
        dispute_window=window,
        arbiter_window=config.arbiter_window,
        fee_bps=config.fee_bps,
        bond=bond,
    )


async def check_limits(run: Run, budget: int, now: int) -> None:
    """Raises BadInput where the owner's deposit or approval does not cover a budget of so many base units. The program
    would refuse it too; here it is the client's input, which no retry can heal."""
    approve = "let the owner approve it with `cloudlinkup account operator`"
    client = await run.ledger.client(run.owner, run.mint)
    if client is None:
        raise BadInput("owner", str(run.owner), "has no account for this token", "`cloudlinkup account open`")
    held = await run.ledger.free_balance(run.owner, run.mint)
    if held < budget:
        shown = format_tokens(held, run.decimals)
        raise BadInput("budget", run.job.budget, f"the account holds {shown}", "deposit more, or lower the budget")
    if run.operator.public == client.owner:
        return
    for role, key, approved in (
        ("operator", run.operator.public, client.operator),
        ("verifier", run.verifier.public, client.verifier),
    ):
        if key != approved:
            raise BadInput(role, str(key), "not approved by the account's owner", approve)
    if now >= client.allowance_expires:
        raise BadInput("operator", str(run.operator.public), "the owner's approval has expired", approve)
    if budget > (most := min(client.max_per_job, client.allowance_left)):
        problem = f"the spending limit allows {format_tokens(most, run.decimals)}"
        raise BadInput("budget", run.job.budget, problem, "lower the budget, or raise the limit: " + approve)


def dispute_window(wanted: int, least: int) -> int:
    """Seconds: as configured, but not below the platform's. Raises BadInput for more than the program takes."""
    if wanted > MAX_WINDOW:
        fix = f"set CLOUDLINKUP_DISPUTE_WINDOW to at most {MAX_WINDOW}"
        raise BadInput("dispute_window", wanted, "longer than the program takes", fix)
    return max(wanted, least)


def uuid7(now: int) -> bytes:
    """RFC 9562 version 7: 48 bits of milliseconds, then random bits; 16 bytes."""
    raw = bytearray((now * 1000).to_bytes(6, "big") + secrets.token_bytes(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return uuid.UUID(bytes=bytes(raw)).bytes
