"""`account open|show|deposit|withdraw|operator`: the owner's deposit, and what its automation may lock of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from solders.pubkey import Pubkey

from cloudlinkup.cli.desk import Desk, key_file, parse_address, run, sent, signer, when
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput

DAY = 86_400
MOST_DAYS = 3_660


def open_(*, key: Path | None = None) -> None:
    """Open the owner's account for the configured token. Once; costs about 0.004 SOL of rent.

    Parameters
    ----------
    key
        The owner's key; by default this home's.
    """
    owner = signer(key, "owner")

    async def work(desk: Desk) -> list[str]:
        return await desk.ledger.open_client(owner, desk.mint, payer=await desk.payer(owner))

    sent(run(work), "The account is open.", owner=str(owner.public))


def show(*, owner: str | None = None) -> None:
    """The deposit, and the spending limit that the owner approved.

    Parameters
    ----------
    owner
        The owner's wallet; by default the configured one.
    """

    async def look(desk: Desk) -> dict[str, Any]:
        who = desk.owner if owner is None else parse_address(owner, "owner")
        client = await desk.ledger.client(who, desk.mint)
        if client is None:
            raise BadInput("owner", str(who), "has no account for this token", "`cloudlinkup account open`")
        return {
            "owner": str(who),
            "deposit": desk.tokens(await desk.ledger.free_balance(who, desk.mint)),
            "operator": str(client.operator),
            "verifier": str(client.verifier),
            "max_per_job": desk.tokens(client.max_per_job),
            "spending_limit": desk.tokens(client.allowance_left),
            "expires": client.allowance_expires,
            "expired": await desk.ledger.now() >= client.allowance_expires,
        }

    document = run(look)

    def text(console: Console) -> None:
        console.print(f"owner           {document['owner']}", soft_wrap=True)
        console.print(f"deposit         {document['deposit']} (free for jobs)")
        if document["operator"] == str(Pubkey.default()):
            console.print("spending limit  none: no operator may open jobs for this owner")
            return
        ends = "expired" if document["expired"] else "until"
        console.print(f"spending limit  {document['spending_limit']} left, {document['max_per_job']} a job,")
        console.print(f"                {ends} {when(document['expires'])}")
        console.print(f"operator        {document['operator']}", soft_wrap=True)
        console.print(f"verifier        {document['verifier']}", soft_wrap=True)

    terminal.result(document, text)


def deposit(amount: str, /, *, key: Path | None = None) -> None:
    """Put tokens from the owner's wallet into its account, free for jobs. Each call moves the amount again.

    Parameters
    ----------
    amount
        In token units.
    key
        The owner's key; by default this home's.
    """
    owner = signer(key, "owner")

    async def work(desk: Desk) -> list[str]:
        units = _positive(desk, amount)
        return await desk.ledger.deposit(owner, desk.mint, units, payer=await desk.payer(owner))

    sent(run(work), f"Deposited {amount}.", owner=str(owner.public), amount=amount)


def withdraw(amount: str, /, *, to: str | None = None, key: Path | None = None) -> None:
    """Take tokens that no job has locked out of the account. Each call moves the amount again.

    Parameters
    ----------
    amount
        In token units.
    to
        A token account; by default the owner wallet's own.
    key
        The owner's key; by default this home's.
    """
    owner, target = signer(key, "owner"), None if to is None else parse_address(to, "to")

    async def work(desk: Desk) -> list[str]:
        units = _positive(desk, amount)
        payer = await desk.payer(owner)
        return await desk.ledger.withdraw(owner, desk.mint, units, destination=target, payer=payer)

    sent(run(work), f"Withdrew {amount}.", owner=str(owner.public), amount=amount)


def operator(
    *,
    max_per_job: str | None = None,
    limit: str | None = None,
    days: int = 30,
    operator: str | None = None,
    verifier: str | None = None,
    revoke: bool = False,
    key: Path | None = None,
) -> None:
    """Approve what the automation may lock of the deposit: at most so much a job and in all, for some days.

    It replaces what was approved before; jobs that are open keep their money. Run it again to renew it.

    Parameters
    ----------
    max_per_job
        The largest budget of one job, in token units.
    limit
        The spending limit for all jobs together, in token units.
    days
        How long the approval lasts.
    operator
        Who opens jobs, an address; by default this home's operator.
    verifier
        Who checks work and approves pay, an address; by default this home's verifier.
    revoke
        Take the approval back instead.
    key
        The owner's key; by default this home's.
    """
    owner = signer(key, "owner")
    if revoke and (max_per_job is not None or limit is not None):
        raise BadInput("revoke", True, "given together with limits", "leave the limits out")
    if not revoke and (max_per_job is None or limit is None):
        raise BadInput("limit", "(absent)", "an approval needs both limits", "give --max-per-job and --limit")
    if not 1 <= days <= MOST_DAYS:
        raise BadInput("days", days, "out of bounds", f"use 1 to {MOST_DAYS}")
    nobody = Pubkey.default()
    who = nobody if revoke else _named(operator, "operator")
    checker = nobody if revoke else _named(verifier, "verifier")

    async def work(desk: Desk) -> list[str]:
        return await desk.ledger.set_operator(
            owner,
            desk.mint,
            operator=who,
            verifier=checker,
            max_per_job=desk.parse(max_per_job or "0", "max-per-job"),
            allowance=desk.parse(limit or "0", "limit"),
            expires=0 if revoke else await desk.ledger.now() + days * DAY,
            payer=await desk.payer(owner),
        )

    said = "Taken back." if revoke else f"Approved: {max_per_job} a job, {limit} in all, for {days} days."
    sent(run(work), said, owner=str(owner.public), operator=str(who), verifier=str(checker))


def _named(address: str | None, role: str) -> Pubkey:
    return Signer.from_file(key_file(None, role)).public if address is None else parse_address(address, role)


def _positive(desk: Desk, amount: str) -> int:
    units = desk.parse(amount)
    if units == 0:
        raise BadInput("amount", amount, "is nothing", "give more than 0")
    return units
