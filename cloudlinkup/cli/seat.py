"""`escrow show|accept|appeal|collect`: one job's money on chain, and what a contributor does about its seat there.

These need nothing but what the wheel installs. JOB is the job's account, which the agent prints with every order; in
the home that submitted it also its request id or job id. SEAT is the number there.
Not covered: jobs of other programs than the configured one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from solders.pubkey import Pubkey

from cloudlinkup.cli.desk import FIND, job_account, parse_address, payer_for, seat_of, sent, state_of, when
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home, Settings
from cloudlinkup.ledger import money
from cloudlinkup.ledger.accounts import Job, Seat
from cloudlinkup.ledger.wallet import WalletLedger
from cloudlinkup.types import format_tokens, parse_tokens


@dataclass(frozen=True)
class SeatDesk:
    """One job as it is on chain. `decimals` are its mint's."""

    ledger: WalletLedger
    settings: Settings
    address: Pubkey
    job: Job
    decimals: int

    def tokens(self, units: int) -> str:
        return format_tokens(units, self.decimals)

    def parse(self, text: str) -> int:
        """Token units as typed, to base units. Raises BadInput."""
        return parse_tokens(text, self.decimals, "amount")

    def seat(self, number: int) -> Seat:
        """Raises BadInput."""
        return self.job.seats[seat_of(self.job, number)]

    async def payer(self, signer: Signer) -> Signer:
        return await payer_for(self.ledger, self.settings, signer)


def run(job: str, work: Callable[[SeatDesk], Awaitable[Any]]) -> Any:
    """One command's work on one job. Raises BadInput when the chain has no such job."""

    async def whole() -> Any:
        settings = Settings.load()
        ledger = WalletLedger(settings.rpc_url, Pubkey.from_string(settings.program_id))
        address = job_account(job, settings)
        found = await ledger.job(address)
        if found is None:
            raise BadInput("job", job, "there is no such job on the chain, or it was closed for good", FIND)
        return await work(SeatDesk(ledger, settings, address, found, await ledger.mint_decimals(found.mint)))

    return asyncio.run(whole())


def show(job: str, /) -> None:
    """A job's money: budget, approved pay, when it is paid out, who is under dispute.

    Parameters
    ----------
    job
        The request id that `submit` printed, or the job's account.
    """

    async def look(desk: SeatDesk) -> dict[str, Any]:
        found, now = desk.job, await desk.ledger.now()
        held = await desk.ledger.vault_balance(found.vault)
        return {
            "job": str(desk.address),
            "state": state_of(found, now),
            "budget": desk.tokens(found.budget),
            "held": desk.tokens(held),
            "approved": desk.tokens(sum(seat.awarded for seat in found.seats)),
            "paid": desk.tokens(found.paid_total),
            "payable_now": desk.tokens(sum(money.payable(found, now).values())),
            "fee_bps": found.fee_bps,
            "mint": str(found.mint),
            "verifier": str(found.verifier),
            "round": found.round,
            "deadline": found.deadline,
            "dispute_window": found.dispute_window,
            "arbiter_window": found.arbiter_window,
            "next_pay_out": money.next_maturity(found, now),
            "refund_from": money.end_time(found),
            "decided_by": money.last_time(found),
            "now": now,
            "seats": [_seat(desk, found, i, seat, now) for i, seat in enumerate(found.seats)],
        }

    document = run(job, look)
    terminal.result(document, lambda console: _show(console, document))


def accept(job: str, seat: int, /, *, key: Path | None = None) -> None:
    """As a contributor: post the bond that your seat asks for, from the wallet's token account.

    It comes back one window after the job's end, unless a ruling takes some of it. Once a seat.

    Parameters
    ----------
    job
        The job's account.
    seat
        Your seat's number.
    key
        Your wallet's key; by default the contributor of this home whose seat it is.
    """

    async def work(desk: SeatDesk) -> tuple[list[str], str]:
        wallet, bond = _wallet(key, desk.seat(seat)), desk.tokens(desk.seat(seat).bond)
        return await desk.ledger.accept_seat(wallet, desk.address, seat, payer=await desk.payer(wallet)), bond

    signatures, bond = run(job, work)
    sent(signatures, f"The bond of {bond} for seat {seat} is posted.", job=job, seat=seat, bond=bond)


def appeal(job: str, seat: int, amount: str, /, *, key: Path | None = None) -> None:
    """As a contributor: ask the arbiter for more than was approved. Once a seat, in the window after the deadline.

    Parameters
    ----------
    job
        The job's account, or the request id.
    seat
        Your seat's number.
    amount
        What you should have been approved in all, in token units.
    key
        Your wallet's key; by default the contributor of this home whose seat it is.
    """

    async def work(desk: SeatDesk) -> list[str]:
        wallet, units = _wallet(key, desk.seat(seat)), desk.parse(amount)
        return await desk.ledger.appeal(wallet, desk.address, seat, units, payer=await desk.payer(wallet))

    sent(
        run(job, work), f"The arbiter is asked to approve {amount} for seat {seat}.", job=job, seat=seat, amount=amount
    )


def collect(job: str, seat: int, /, *, to: str, key: Path | None = None) -> None:
    """As a contributor: take what is due on your seat to another token account: the way out where yours is frozen.

    Parameters
    ----------
    job
        The job's account.
    seat
        Your seat's number.
    to
        A token account of the job's token that can receive, yours or not.
    key
        Your wallet's key; by default the contributor of this home whose seat it is.
    """
    destination = parse_address(to, "to")

    async def work(desk: SeatDesk) -> list[str]:
        wallet = _wallet(key, desk.seat(seat))
        return await desk.ledger.pay_to(wallet, desk.address, seat, destination, payer=await desk.payer(wallet))

    sent(run(job, work), f"What was due on seat {seat} is in {to}.", job=job, seat=seat, to=to)


# ---------------------------------------------------------------- what it says


def _seat(desk: SeatDesk, job: Job, number: int, seat: Seat, now: int) -> dict[str, Any]:
    alone, matured = _alone(job, seat), money.matured(seat, job, now)
    live, hold = money.appeal_live(seat, job, now), money.on_hold(seat, job, now)
    return {
        "seat": number,
        "wallet": str(seat.wallet),
        "limit": desk.tokens(seat.cap),
        "approved": desk.tokens(seat.awarded),
        "paid": desk.tokens(seat.paid),
        "payable_now": desk.tokens(money.payable(alone, now).get(0, 0)),
        "pays_out_on": money.next_maturity(alone, now),
        "bond": desk.tokens(seat.bond),
        "bond_posted": seat.active and seat.bond > 0,
        "state": "appealed" if live else "disputed" if hold else "active" if seat.active else "bond asked",
        "ruling_from": desk.tokens(matured) if live or hold else None,
        "ruling_to": desk.tokens(seat.cap if live else seat.awarded) if live or hold else None,
    }


def _alone(job: Job, seat: Seat) -> Job:
    return replace(job, seats=(seat,))


def _show(console: Console, document: dict[str, Any]) -> None:
    console.print(f"job {document['job']} ({document['state']})", soft_wrap=True)
    console.print(
        f"budget {document['budget']}, approved pay {document['approved']}, paid {document['paid']}, "
        f"due now {document['payable_now']}, held on chain {document['held']}"
    )
    later = document["next_pay_out"]
    console.print(f"next pay-out: {when(later) if later else 'nothing waits'}")
    console.print(
        f"takes work until {when(document['deadline'])}, refund from {when(document['refund_from'])}, "
        f"everything decided by {when(document['decided_by'])}"
    )
    table = Table("seat", "wallet", "state", "limit", "approved pay", "paid", "due now", "pays out on", "bond")
    for one in document["seats"]:
        wallet = f"{one['wallet'][:6]}…{one['wallet'][-4:]}"
        amounts = (one["limit"], one["approved"], one["paid"], one["payable_now"])
        due = when(one["pays_out_on"]) if one["pays_out_on"] else ""
        table.add_row(str(one["seat"]), wallet, one["state"], *amounts, due, one["bond"])
    console.print(table)
    for one in document["seats"]:
        if one["ruling_from"] is not None:
            bounds = f"from {one['ruling_from']} to {one['ruling_to']}"
            console.print(f"seat {one['seat']} is {one['state']}: the arbiter may set its approved pay {bounds}")


def _wallet(key: Path | None, seat: Seat) -> Signer:
    """The key of a seat's wallet: the named file, or the contributor of this home that has it."""
    if key is not None:
        return Signer.from_file(key)
    for path in sorted((Home.find().root / "contributors").glob("*/wallet.json")):
        if (found := Signer.from_file(path)).public == seat.wallet:
            return found
    raise BadInput("key", "(absent)", f"the key of {seat.wallet} is not in this home", "name its file with --key")
