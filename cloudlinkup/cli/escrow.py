"""`escrow show|list|pay|dispute|appeal|resolve|close`: a job's money on chain. JOB is a request id, a job id or the
account's address; SEAT its number there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cloudlinkup.cli.desk import Desk, run, seat_of, sent, signer, when
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home
from cloudlinkup.ledger import money
from cloudlinkup.ledger.accounts import Job, Seat


def show(job: str, /) -> None:
    """A job's money: budget, approved pay, when it is paid out, who is under dispute.

    Parameters
    ----------
    job
        The request id that `submit` printed, or the job's account.
    """

    async def look(desk: Desk) -> dict[str, Any]:
        address, found = await desk.job(job)
        now = await desk.ledger.now()
        held = await desk.ledger.vault_balance(found.vault)
        return {
            "job": str(address),
            "state": _state(found, now),
            "budget": desk.tokens(found.budget),
            "held": desk.tokens(held),
            "approved": desk.tokens(sum(seat.awarded for seat in found.seats)),
            "paid": desk.tokens(found.paid_total),
            "payable_now": desk.tokens(sum(money.payable(found, now).values())),
            "fee_bps": found.fee_bps,
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

    document = run(look)
    terminal.result(document, lambda console: _show(console, document))


def list_(*, everybody: bool = False) -> None:
    """The jobs that hold money on chain, oldest first.

    Parameters
    ----------
    everybody
        All clients' jobs, not only this stack's.
    """

    async def look(desk: Desk) -> list[dict[str, Any]]:
        client = None if everybody else desk.ledger.client_address(desk.owner, desk.mint)
        found, now = await desk.ledger.jobs(client), await desk.ledger.now()
        return [
            {
                "job": str(address),
                "job_id": job.job_id.hex(),
                "state": _state(job, now),
                "seats": len(job.seats),
                "budget": desk.tokens(job.budget),
                "approved": desk.tokens(sum(seat.awarded for seat in job.seats)),
                "paid": desk.tokens(job.paid_total),
                "deadline": job.deadline,
            }
            for address, job in sorted(found, key=lambda one: one[1].opened_at)
            if job.mint == desk.mint
        ]

    jobs = run(look)

    def text(console: Console) -> None:
        table = Table("job", "state", "seats", "budget", "approved pay", "paid", "deadline")
        table.columns[0].no_wrap = True
        for one in jobs:
            amounts = (one["budget"], one["approved"], one["paid"])
            table.add_row(one["job"], one["state"], str(one["seats"]), *amounts, when(one["deadline"]))
        console.print(table if jobs else "No job holds money on this chain.")

    terminal.result({"jobs": jobs}, text)


def pay(job: str, /, *, key: Path | None = None) -> None:
    """Send every seat the approved pay that is due. Anybody may: it can only reach the contributors.

    Parameters
    ----------
    job
        The request id, or the job's account.
    key
        Who pays the network's fee; by default this home's cranker.
    """
    cranker = signer(key, "cranker")

    async def work(desk: Desk) -> list[str]:
        return await desk.ledger.pay(cranker, (await desk.job(job))[0])

    sent(run(work), "Paid what was due.", job=job)


def close(job: str, /, *, key: Path | None = None) -> None:
    """After a job's end, return what nobody is owed; once it is settled and a day old, return its rent too.

    Parameters
    ----------
    job
        The request id, or the job's account.
    key
        Who pays the network's fee; by default this home's cranker.
    """
    cranker = signer(key, "cranker")

    async def work(desk: Desk) -> list[str]:
        return await desk.ledger.close_job(cranker, (await desk.job(job))[0])

    sent(run(work), "Returned what nobody is owed.", job=job)


def dispute(job: str, seat: int, /, *, key: Path | None = None) -> None:
    """As the client: hold a seat's approved pay that is not paid out yet, until the arbiter rules or its time is up.

    Parameters
    ----------
    job
        The request id, or the job's account.
    seat
        The seat's number, as `escrow show` prints it.
    key
        The operator's or the owner's key; by default this home's operator.
    """
    authority = signer(key, "operator")

    async def work(desk: Desk) -> list[str]:
        address, found = await desk.job(job)
        payer = await desk.payer(authority)
        return await desk.ledger.dispute(authority, address, [seat_of(found, seat)], payer=payer)

    sent(run(work), f"Seat {seat} is under dispute; the arbiter may rule on it.", job=job, seat=seat)


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

    async def work(desk: Desk) -> list[str]:
        address, found = await desk.job(job)
        wallet = _wallet(key, found.seats[seat_of(found, seat)])
        units = desk.parse(amount)
        return await desk.ledger.appeal(wallet, address, seat, units, payer=await desk.payer(wallet))

    sent(run(work), f"The arbiter is asked to approve {amount} for seat {seat}.", job=job, seat=seat, amount=amount)


def resolve(job: str, seat: int, amount: str, /, *, slash: str = "0", key: Path | None = None) -> None:
    """As the arbiter: decide what a seat under dispute or appeal gets in all. It is payable at once.

    Parameters
    ----------
    job
        The job's account, or the request id.
    seat
        The seat's number.
    amount
        Its approved pay in all, in token units.
    slash
        How much of its bond goes to the client, in token units.
    key
        The arbiter's key; by default this home's.
    """
    arbiter = signer(key, "arbiter")

    async def work(desk: Desk) -> list[str]:
        address, found = await desk.job(job)
        units, bond, payer = desk.parse(amount), desk.parse(slash, "slash"), await desk.payer(arbiter)
        return await desk.ledger.resolve(arbiter, address, seat_of(found, seat), units, bond, payer=payer)

    sent(run(work), f"Seat {seat} gets {amount} in all.", job=job, seat=seat, amount=amount, slash=slash)


# ---------------------------------------------------------------- what it says


def _state(job: Job, now: int) -> str:
    if now < job.deadline:
        return "running"
    return "windows open" if now < money.last_time(job) else "decided"


def _seat(desk: Desk, job: Job, number: int, seat: Seat, now: int) -> dict[str, Any]:
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
