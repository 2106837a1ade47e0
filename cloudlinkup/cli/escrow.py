"""`escrow list|pay|dispute|resolve|close`: jobs' money on chain, for clients, arbiters and whoever cranks.

JOB is a request id, a job id or the account's address; SEAT its number there. What contributors need is in `seat`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cloudlinkup.cli.desk import Desk, run, seat_of, sent, signer, state_of, when
from cloudlinkup.cli.terminal import terminal


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
                "state": state_of(job, now),
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
