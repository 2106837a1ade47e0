"""What anybody may do for a job that nobody looks after: pay what has matured, sweep it at its end, erase it.

It needs a key with SOL for fees and no role at all. Two sweepers at once do no harm: both calls are absolute, and the
one that comes second finds nothing left. Not covered: token accounts for payees that have none (a sponsor's decision),
and ending a job before its deadline (its client's).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, NotConfirmed
from cloudlinkup.ledger import accounts, money
from cloudlinkup.ledger.accounts import Job
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.ledger.reading import usable


@dataclass(frozen=True)
class Swept:
    """What one call did for one job. Base units, except `rent` (lamports returned to whoever paid it).

    `left`: what the seats still have to get. `next`: chain time at which there is more to do, None if nothing is known.
    `unpayable`: seats that are due but whose wallet has no usable token account. `problem`: why it stopped, "" if not.
    """

    job: Pubkey
    paid: int = 0
    bonds: int = 0
    fee: int = 0
    waived: int = 0
    to_client: int = 0
    rent: int = 0
    erased: bool = False
    left: int = 0
    next: int | None = None
    unpayable: tuple[int, ...] = ()
    problem: str = ""
    signatures: tuple[str, ...] = field(default=())

    @property
    def did_something(self) -> bool:
        return bool(self.signatures)


async def sweep_job(ledger: Ledger, cranker: Signer, address: Pubkey) -> Swept:
    """Pays, closes and erases as far as the chain's clock allows.

    What the chain refuses is told in `problem`, so that one job's trouble is no other's. Raises Unavailable.
    """
    job = await ledger.job(address)
    if job is None:
        return Swept(address, erased=True)
    done = Swept(address)
    try:
        done = await _add(ledger, done, await ledger.pay(cranker, address))
        if await ledger.now() >= money.end_time(job):
            rent = await ledger.lamports(address) + await ledger.lamports(job.vault)
            done = await _add(ledger, done, await ledger.close_job(cranker, address))
            done = replace(done, rent=rent if done.erased else 0)
    except (LedgerError, NotConfirmed) as error:
        if await ledger.job(address) is not None:  # else somebody else swept it meanwhile
            done = replace(done, problem=str(error))
    now_job = await ledger.job(address)
    return replace(done, erased=True) if now_job is None else await _rest(ledger, done, now_job)


async def sweep(ledger: Ledger, cranker: Signer, client: Pubkey | None = None) -> list[Swept]:
    """Every job of one Client account, or of everybody, one after the other."""
    return [await sweep_job(ledger, cranker, address) for address, _ in await ledger.jobs(client)]


async def _add(ledger: Ledger, done: Swept, signatures: list[str]) -> Swept:
    """With what these transactions did, by the program's events."""
    for signature in signatures:
        for event in await ledger.events(signature):
            data = event.data
            if event.name == "Paid":
                done = replace(done, paid=done.paid + data["award"], bonds=done.bonds + data["bond"])
            elif event.name == "JobSwept":
                done = replace(
                    done,
                    fee=done.fee + data["fee"],
                    waived=done.waived + data["waived"],
                    to_client=done.to_client + data["to_client"],
                    erased=data["closed"],
                )
    return replace(done, signatures=(*done.signatures, *signatures))


async def _rest(ledger: Ledger, done: Swept, job: Job) -> Swept:
    now = await ledger.now()
    due = sorted(money.payable(job, now))
    held = await ledger.token_accounts([accounts.token_address(job.seats[i].wallet, job.mint)[0] for i in due])
    unpayable = [seat for seat, one in zip(due, held, strict=True) if not usable(one, job.seats[seat].wallet, job.mint)]
    moments = [money.end_time(job), job.id_time + accounts.OPEN_WINDOW, money.next_maturity(job, now) or 0]
    if unpayable:
        moments.append(money.forfeit_time(job))
    later = min((moment for moment in moments if moment > now), default=None)
    return replace(done, left=money.owed(job, now), next=later, unpayable=tuple(unpayable))
