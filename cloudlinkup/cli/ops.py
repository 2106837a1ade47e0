"""`ops config show|set|hand-over|accept`: the platform's terms on chain. They bind later jobs only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from solders.pubkey import Pubkey

from cloudlinkup.cli.desk import Desk, parse_address, run, sent, signer
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput


def show() -> None:
    """The platform's fee, windows and keys, as later jobs get them."""

    async def look(desk: Desk) -> dict[str, Any]:
        config = await desk.ledger.config()
        return {
            "admin": str(config.admin),
            "next_admin": None if config.pending_admin == Pubkey.default() else str(config.pending_admin),
            "arbiter": str(config.arbiter),
            "treasury": str(config.treasury),
            "fee_bps": config.fee_bps,
            "min_window": config.min_window,
            "arbiter_window": config.arbiter_window,
        }

    document = run(look)

    def text(console: Console) -> None:
        console.print(f"fee             {document['fee_bps']} basis points of what is paid")
        console.print(f"windows         {document['min_window']} s to object, {document['arbiter_window']} s to rule")
        for name, label in (("admin", "admin"), ("arbiter", "arbiter"), ("treasury", "treasury")):
            console.print(f"{label:<16}{document[name]}", soft_wrap=True)
        if document["next_admin"]:
            console.print(f"next admin      {document['next_admin']} (has not accepted yet)", soft_wrap=True)

    terminal.result(document, text)


def set_(
    *,
    fee_bps: int | None = None,
    min_window: int | None = None,
    arbiter_window: int | None = None,
    arbiter: str | None = None,
    treasury: str | None = None,
    key: Path | None = None,
) -> None:
    """Change the terms of later jobs. Open jobs keep their fee and windows.

    Parameters
    ----------
    fee_bps
        The fee in basis points of what is paid, up to 1000.
    min_window
        The shortest time to object, in seconds.
    arbiter_window
        The arbiter's time to rule, in seconds.
    arbiter
        Who rules, an address.
    treasury
        Who gets the fee, an address.
    key
        The admin's key; by default this home's.
    """
    admin = signer(key, "admin")
    numbers = {"fee_bps": fee_bps, "min_window": min_window, "arbiter_window": arbiter_window}
    keys = {"arbiter": arbiter, "treasury": treasury}
    if all(value is None for value in (*numbers.values(), *keys.values())):
        raise BadInput("set", "(nothing)", "there is nothing to change", "give at least one option")
    for name, value in numbers.items():
        if value is not None and not 0 <= value < 2**31:
            raise BadInput(name.replace("_", "-"), value, "out of bounds", "see `cloudlinkup ops config set --help`")
    parsed = {name: None if text is None else parse_address(text, name) for name, text in keys.items()}

    async def work(desk: Desk) -> list[str]:
        change: dict[str, Any] = {**numbers, **parsed}
        return await desk.ledger.set_config(admin, **change, payer=await desk.payer(admin))

    sent(run(work), "The terms of later jobs are changed.")


def hand_over(to: str | None = None, /, *, cancel: bool = False, key: Path | None = None) -> None:
    """Name the next admin, who then accepts; or take that back.

    Parameters
    ----------
    to
        The next admin's address.
    cancel
        Name nobody instead.
    key
        The admin's key; by default this home's.
    """
    if (to is None) != cancel:
        raise BadInput("to", to or "(absent)", "one of an address and --cancel is needed", "give one of them")
    admin, heir = signer(key, "admin"), Pubkey.default() if to is None else parse_address(to, "to")

    async def work(desk: Desk) -> list[str]:
        return await desk.ledger.set_config(admin, pending_admin=heir, payer=await desk.payer(admin))

    sent(run(work), "Nobody is named." if cancel else f"{heir} may accept now: `cloudlinkup ops config accept`.")


def accept(*, key: Path) -> None:
    """Become the admin, as the one that was named.

    Parameters
    ----------
    key
        The new admin's key.
    """
    heir = signer(key, "admin")

    async def work(desk: Desk) -> list[str]:
        return await desk.ledger.accept_admin(heir, payer=await desk.payer(heir))

    sent(run(work), f"{heir.public} is the admin.", admin=str(heir.public))
