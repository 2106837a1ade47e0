"""`wallet new|show|airdrop`: a key, and what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from cloudlinkup.cli.desk import LAMPORTS, Desk, key_file, run, sent, signer
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.crypto.identity import write_new_key
from cloudlinkup.errors import BadInput
from cloudlinkup.types import format_tokens, parse_tokens

MOST_SOL = 1_000_000


def new(*, key: Path | None = None) -> None:
    """Make a wallet: a new key in a file that only you can read. Nothing is overwritten.

    Parameters
    ----------
    key
        The file to make; by default this home's key of the role `owner`.
    """
    path = key_file(key, "owner")
    try:
        address = str(write_new_key(path).pubkey())
    except FileExistsError:
        raise BadInput("key", str(path), "exists already", "name a file that does not exist") from None
    except OSError as error:
        raise BadInput("key", str(path), f"cannot be written ({error.strerror})", "name another file") from None
    document = {"address": address, "key": str(path)}
    terminal.result(document, lambda console: console.print(f"{address}\nkey file: {path} (keep a copy)", markup=False))


def show(*, key: Path | None = None) -> None:
    """What a wallet holds: SOL for fees, tokens, and what it has deposited for jobs.

    Parameters
    ----------
    key
        Its key file; by default this home's key of the role `owner`.
    """
    who = signer(key, "owner").public

    async def look(desk: Desk) -> dict[str, Any]:
        ledger = desk.ledger
        return {
            "address": str(who),
            "sol": format_tokens(await ledger.lamports(who), LAMPORTS),
            "tokens": desk.tokens(await ledger.token_balance(who, desk.mint)),
            "can_be_paid": await ledger.has_token_account(who, desk.mint),
            "deposit": desk.tokens(await ledger.free_balance(who, desk.mint)),
            "mint": str(desk.mint),
        }

    document = run(look)

    def text(console: Console) -> None:
        console.print(f"wallet   {document['address']}", soft_wrap=True)
        console.print(f"SOL      {document['sol']} (for fees)")
        console.print(f"tokens   {document['tokens']} of mint {document['mint']}", soft_wrap=True)
        console.print(f"deposit  {document['deposit']} (free for jobs)")
        if not document["can_be_paid"]:
            console.print("It has no token account yet, so it cannot be paid; a sponsor or owner makes one.")

    terminal.result(document, text)


def airdrop(sol: str, /, *, key: Path | None = None) -> None:
    """Take SOL from a test chain's faucet. A real chain has none.

    Parameters
    ----------
    sol
        How much, in SOL.
    key
        Key file of who gets it; by default this home's key of the role `owner`.
    """
    amount, who = parse_tokens(sol, LAMPORTS, "sol"), signer(key, "owner").public
    if not 0 < amount <= MOST_SOL * 10**LAMPORTS:
        raise BadInput("sol", sol, "out of bounds", f"use more than 0 and at most {MOST_SOL}")
    signatures = run(lambda desk: desk.ledger.airdrop(who, amount))
    sent(signatures, f"{sol} SOL for {who}", address=str(who), sol=format_tokens(amount, LAMPORTS))
