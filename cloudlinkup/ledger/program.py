"""The escrow program through AnchorPy: instructions encoded and events decoded by the program's IDL.

The only module that imports AnchorPy. It builds; `connection` sends. Money rules and account layouts are elsewhere:
nothing here decides anything.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anchorpy import Context, Idl, Program, Provider, Wallet
from solana.rpc.async_api import AsyncClient
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from cloudlinkup.ledger import errors
from cloudlinkup.ledger.accounts import SYSTEM_PROGRAM, TOKEN_PROGRAM

_PROGRAM_DATA = "Program data: "


@dataclass(frozen=True)
class Event:
    """One event of the program. Public keys are `Pubkey`, byte arrays `bytes`, everything else plain."""

    name: str
    data: dict[str, Any]


class EscrowProgram:
    """AnchorPy's view of the program at `program_id`, over any connection."""

    def __init__(self, client: AsyncClient, program_id: Pubkey) -> None:
        self.id = program_id
        self._program = Program(Idl.from_json(json.dumps(errors.idl())), program_id, Provider(client, Wallet.dummy()))

    @property
    def anchor(self) -> Program:
        """AnchorPy's own object, for tests and exploration."""
        return self._program

    def build(self, name: str, *args: Any, accounts: Mapping[str, Pubkey], more: Sequence[Pubkey] = ()) -> Instruction:
        """One instruction. `accounts` without the System and the Token program; `more` are appended, writable."""
        known = {"system_program": SYSTEM_PROGRAM, "token_program": TOKEN_PROGRAM}
        context = Context(
            accounts={**known, **accounts},
            remaining_accounts=[AccountMeta(key, is_signer=False, is_writable=True) for key in more],
        )
        return self._program.instruction[name](*args, ctx=context)

    def seat_init(self, wallet: Pubkey, cap: int, bond: int) -> Any:
        return self._program.type["SeatInit"](wallet=list(bytes(wallet)), cap=cap, bond=bond)

    def seat_amount(self, seat: int, amount: int) -> Any:
        return self._program.type["SeatAmount"](seat=seat, amount=amount)

    def seat_bump(self, seat: int, bump: int) -> Any:
        return self._program.type["SeatBump"](seat=seat, bump=bump)

    def events(self, logs: Sequence[str]) -> list[Event]:
        """The events in a transaction's logs, in order. Only lines that this program wrote count: any program could
        write the same bytes."""
        found: list[Event] = []
        stack: list[str] = []
        for line in logs:
            words = line.split()
            if len(words) >= 4 and words[0] == "Program" and words[2] == "invoke":
                stack.append(words[1])
            elif len(words) >= 3 and words[0] == "Program" and (words[2] == "success" or words[2] == "failed:"):
                stack = stack[:-1]
            elif line.startswith(_PROGRAM_DATA) and stack and stack[-1] == str(self.id):
                try:
                    parsed = self._program.coder.events.parse(base64.b64decode(line[len(_PROGRAM_DATA) :]))
                except (binascii.Error, ValueError, KeyError):
                    continue
                if parsed is not None:
                    found.append(Event(parsed.name, {name: _plain(one) for name, one in _fields(parsed.data)}))
        return found


def _fields(data: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(data, name)) for name in type(data).__dataclass_fields__]


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, list) else value
