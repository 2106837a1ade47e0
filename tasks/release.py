"""Stage *release*: award what verified, object where somebody cheated, and crank what has matured.

Each is safe to repeat.
"""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from cloudlinkup.errors import ProgramError
from cloudlinkup.ledger import money
from tasks.awards import award_late, award_round
from tasks.context import Run
from tasks.escrow import open_accounts
from tasks.state import RoundState
from tasks.together import every


@task(name="release", cache_policy=NO_CACHE)
async def release(run: Run) -> None:
    """For the round under way, unless it goes ahead: `award_entries`."""
    assert run.round is not None
    await award_entries(run, run.round)


async def award_entries(run: Run, round_: RoundState) -> None:
    """Every seat's verified steps of this round times the price, on top of what the chain has awarded it.

    Raises ProgramError (JobEnded) when the deadline passed before it.
    """
    if round_.stage != "verified":
        return
    with run.timed("release"):
        step = int(run.state.plan["segment_steps"])
        pay: dict[int, int] = {}
        for entry in round_.entries:
            if entry.outcome == "accepted":
                pay[entry.seat] = pay.get(entry.seat, 0) + entry.segments * step * run.state.price
        # what matured before does not wait for this round, nor an award for the account that it will be paid to
        accounts = open_accounts(run, (run.state.seat(seat).wallet for seat in pay))
        await every(_award(run, round_, pay), pay_matured(run), accounts)
        await dispute_rejected(run, round_)
        round_.stage = "awarded"
        run.save_round(round_)
    waiting = {str(seat): str(award.amount) for seat, award in run.state.awards.items()}
    earned = {str(seat): str(units) for seat, units in pay.items()}
    run.event("released", round=round_.round, earned=earned, carried=waiting)


async def _award(run: Run, round_: RoundState, pay: dict[int, int]) -> None:
    if pay:
        await award_round(run, round_.round, pay)
    else:
        await award_late(run)


async def dispute_rejected(run: Run, round_: RoundState) -> None:
    """Whoever cheated in this round may have cheated before: what its wallet was awarded and has not matured is held
    for the arbiter, and so is its bond. What the chain holds already is left alone."""
    rejected = {entry.seat for entry in round_.entries if entry.outcome == "rejected"}
    wallets = {seat.wallet for seat in run.state.seats if seat.seat in rejected}
    job = await run.ledger.job(run.account) if wallets else None
    if job is None:
        return
    now = await run.ledger.now()
    waiting, bonds = money.pending(job, now), money.disputable_bonds(job, now)
    pending = {
        seat: waiting.get(seat, 0) + bonds.get(seat, 0)
        for seat in sorted(waiting.keys() | bonds.keys())
        if str(job.seats[seat].wallet) in wallets and not money.on_hold(job.seats[seat], job, now)
    }
    if not pending:
        return
    try:
        sent = await run.ledger.dispute(run.operator, run.account, sorted(pending))
    except ProgramError as error:
        if error.name != "NothingToDispute":  # it matured while we looked
            raise
        return
    run.sent("dispute", sent)
    run.event("disputed", round=round_.round, seats={str(seat): str(units) for seat, units in pending.items()})


async def pay_matured(run: Run) -> None:
    """Anybody may do this; we do it with a key that has no role."""
    run.sent("pay", await run.ledger.pay(run.cranker, run.account))
