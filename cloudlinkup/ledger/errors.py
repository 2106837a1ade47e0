"""The escrow program's errors by name, message and fix, and what other programs' refusals mean here.

The one table of the program's errors is its own IDL; the fixes are in `fixes`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from solders.pubkey import Pubkey

from cloudlinkup.errors import LedgerError, ProgramError
from cloudlinkup.ledger.fixes import FIXES

_SYSTEM = {
    "AccountNotFound": "the paying key does not exist on this chain. Fix: send it SOL",
    "InsufficientFundsForFee": "the paying key has too little SOL for the fee. Fix: send it SOL",
    "BlockhashNotFound": "the block hash is unknown or too old. Fix: repeat the call",
}
_OTHERS = {
    "11111111111111111111111111111111": {1: "the paying key holds too little SOL for the rent. Fix: send it SOL"},
    "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA": {
        1: "insufficient funds in the token account. Fix: send it tokens, or lower the amount",
        3: "the mints differ. Fix: use a token account of this mint",
        4: "the owner does not match. Fix: sign with the token account's owner",
        17: "the account is frozen. Fix: ask the token's issuer to thaw it, or use another account",
    },
}


@cache
def idl() -> dict[str, Any]:
    """The IDL, in Anchor's legacy form."""
    return json.loads(files("cloudlinkup.ledger").joinpath("idl.json").read_text())


@cache
def table() -> dict[int, tuple[str, str]]:
    """code -> (name, message)."""
    return {one["code"]: (one["name"], one["msg"]) for one in idl()["errors"]}


def program_error(code: int) -> ProgramError | None:
    """The escrow program's own error of that code, or None when it has no such code."""
    found = table().get(code)
    return None if found is None else ProgramError(code, *found, FIXES.get(found[0], ""))


def explain(err: Any, programs: list[Pubkey], escrow: Pubkey, logs: list[str] | None) -> LedgerError:
    """A transaction's error (Solana's JSON form) as this project's: ProgramError where the escrow program said so.

    `programs` are the program ids of the transaction's instructions. The logs tell whether a program that ours had
    called failed first; without them the failing instruction decides.
    """
    if isinstance(err, dict) and "InstructionError" in err:
        index, why = err["InstructionError"]
        culprit = _first_failed(logs) or (str(programs[index]) if index < len(programs) else "")
        if isinstance(why, dict) and "Custom" in why:
            code = why["Custom"]
            if culprit == str(escrow) and (known := program_error(code)) is not None:
                return known
            words = _OTHERS.get(culprit, {}).get(code, "")
            return LedgerError(f"program {culprit} refused with its error {code}" + (f": {words}" if words else ""))
        return LedgerError(f"program {culprit} failed: {why}")
    if isinstance(err, dict) and "InsufficientFundsForRent" in err:
        return LedgerError("an account would be left with less SOL than its rent. Fix: send the paying key SOL")
    return LedgerError(f"the chain refused the transaction: {_SYSTEM.get(err, err) if isinstance(err, str) else err}")


def _first_failed(logs: list[str] | None) -> str | None:
    for line in logs or []:
        words = line.split()
        if len(words) >= 3 and words[0] == "Program" and words[2] == "failed:":
            return words[1]
    return None
