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

MARGIN = 600  # seconds between the planned end and the deadline on chain, for audits and restarts
SLOWDOWN = 4  # and room for a job that takes this many times its P90


@task(name="escrow-lock", cache_policy=NO_CACHE)
async def escrow_lock(run: Run) -> None:
    """Locks the budget and writes the seats.

    Raises BadInput when the deadline passed meanwhile, ProgramError (6021 InsufficientFunds, 6018-6020 allowance) by
    the program's own words.
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
    for wallet in sorted(set(wallets)):
        key = Pubkey.from_string(wallet)
        if await run.ledger.has_token_account(key, run.mint):
            continue
        if run.store.sponsored(wallet):
            run.event("unpayable", wallet=wallet, why="it closed the token account that was paid for once")
            continue
        try:
            run.sent("token_account", await run.ledger.create_token_account(run.sponsor, key, run.mint))
        except LedgerError as error:
            run.event("unpayable", wallet=wallet, why=f"its token account could not be paid for: {str(error)[:120]}")
            continue
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
    held = await run.ledger.free_balance(run.owner, run.mint)
    if held < budget:
        raise BadInput(
            "budget",
            run.job.budget,
            f"the account holds {format_tokens(held, run.decimals)}",
            "deposit more, or lower the budget",
        )
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
