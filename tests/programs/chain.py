"""The real program on the real virtual machine: LiteSVM, the committed build, and the IDL as the only description.

`Chain` sends transactions and says what came of them; `Idl` encodes instructions and decodes accounts and events from
`cloudlinkup/ledger/idl.json` alone, independently of AnchorPy (a test holds the two together). Nothing is mocked: the
Token, Associated Token and System programs are the ones LiteSVM ships.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from solders.account import Account
from solders.clock import Clock
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.rent import Rent
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata

from cloudlinkup.home import PROGRAM_ID as PROGRAM_ADDRESS

ROOT = Path(__file__).resolve().parents[2]
IDL_FILE = ROOT / "cloudlinkup" / "ledger" / "idl.json"
# another build can be put to the same tests: benchmarks/escrow_mutants.py does
PROGRAM_FILE = Path(os.environ.get("ESCROW_PROGRAM_FILE") or ROOT / "programs" / "escrow.so")

PROGRAM = Pubkey.from_string(PROGRAM_ADDRESS)
SYSTEM = Pubkey.from_string("11111111111111111111111111111111")
TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
ASSOCIATED = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
ZERO = Pubkey.default()

SOL = 1_000_000_000
START = 1_800_000_000  # the chain's first second in tests
U64 = 2**64 - 1

FORMATS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q", "bool": "?"}
FIXED = {name: struct.Struct("<" + code) for name, code in FORMATS.items()}


@cache
def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def discriminator(namespace: str, name: str) -> bytes:
    return hashlib.sha256(f"{namespace}:{name}".encode()).digest()[:8]


class Idl:
    """Borsh by the IDL: integers, bool, publicKey, arrays of u8, options, vectors and structs are all it uses."""

    def __init__(self, text: str) -> None:
        self.raw = json.loads(text)
        self.types = {t["name"]: t["type"]["fields"] for t in self.raw["types"]}
        self.accounts = {t["name"]: t["type"]["fields"] for t in self.raw["accounts"]}
        self.events = {t["name"]: t["fields"] for t in self.raw["events"]}
        self.instructions = {snake(i["name"]): i for i in self.raw["instructions"]}
        self.errors = {e["code"]: e["name"] for e in self.raw["errors"]}
        self._event_tags = {discriminator("event", n): n for n in self.events}
        self.constants = {c["name"]: int(c["value"]) for c in self.raw["constants"]}
        self._decoded: dict[tuple[str, bytes], SimpleNamespace] = {}  # random histories look at the same bytes often

    def encode(self, kind: Any, value: Any) -> bytes:
        if kind == "publicKey":
            return bytes(value)
        if isinstance(kind, str):
            return struct.pack("<" + FORMATS[kind], value)
        if "array" in kind:
            assert len(value) == kind["array"][1]
            return bytes(value)
        if "option" in kind:
            return b"\0" if value is None else b"\1" + self.encode(kind["option"], value)
        if "vec" in kind:
            return struct.pack("<I", len(value)) + b"".join(self.encode(kind["vec"], v) for v in value)
        fields = self.types[kind["defined"]]
        return b"".join(self.encode(f["type"], v) for f, v in zip(fields, value, strict=True))

    def decode(self, kind: Any, data: bytes, at: int) -> tuple[Any, int]:
        if kind == "publicKey":
            return Pubkey(data[at : at + 32]), at + 32
        if isinstance(kind, str):
            fixed = FIXED[kind]
            return fixed.unpack_from(data, at)[0], at + fixed.size
        if "array" in kind:
            size = kind["array"][1]
            return data[at : at + size], at + size
        if "vec" in kind:
            (count,) = struct.unpack_from("<I", data, at)
            at += 4
            items = []
            for _ in range(count):
                item, at = self.decode(kind["vec"], data, at)
                items.append(item)
            return items, at
        return self.struct(self.types[kind["defined"]], data, at)

    def struct(self, fields: list[dict[str, Any]], data: bytes, at: int) -> tuple[SimpleNamespace, int]:
        out = SimpleNamespace()
        for f in fields:
            value, at = self.decode(f["type"], data, at)
            setattr(out, snake(f["name"]), value)
        return out, at

    def account(self, name: str, data: bytes) -> SimpleNamespace:
        """A whole account, not to be changed; anything left over or another discriminator is an error."""
        if (name, data) not in self._decoded:
            assert data[:8] == discriminator("account", name), f"not a {name}"
            out, end = self.struct(self.accounts[name], data, 8)
            assert end == len(data), f"{len(data) - end} bytes left over in a {name}"
            if len(self._decoded) >= 64:
                self._decoded.clear()
            self._decoded[name, data] = out
        return self._decoded[name, data]

    def event(self, data: bytes) -> SimpleNamespace:
        name = self._event_tags[data[:8]]
        out, end = self.struct(self.events[name], data, 8)
        assert end == len(data)
        out.name = name
        return out

    def data(self, name: str, args: Sequence[Any]) -> bytes:
        fields = self.instructions[name]["args"]
        encoded = b"".join(self.encode(f["type"], v) for f, v in zip(fields, args, strict=True))
        return discriminator("global", name) + encoded

    def metas(self, name: str, accounts: Mapping[str, Pubkey]) -> list[AccountMeta]:
        return [
            AccountMeta(accounts[snake(a["name"])], a["isSigner"], a["isMut"])
            for a in self.instructions[name]["accounts"]
        ]


@cache
def idl() -> Idl:
    return Idl(IDL_FILE.read_text())


def pda(*seeds: bytes | Pubkey, program: Pubkey = PROGRAM) -> Pubkey:
    return Pubkey.find_program_address([bytes(s) for s in seeds], program)[0]


@cache
def associated(wallet: Pubkey, mint: Pubkey) -> tuple[Pubkey, int]:
    """The canonical associated token account and its bump."""
    return Pubkey.find_program_address([bytes(wallet), bytes(TOKEN), bytes(mint)], ASSOCIATED)


@cache
def key(name: str) -> Keypair:
    """The same key for the same name, so that runs repeat exactly."""
    return Keypair.from_seed(hashlib.sha256(name.encode()).digest())


@dataclass(frozen=True)
class Outcome:
    """What came of one transaction. `error` is the program's error name, or the runtime's words; '' is success."""

    error: str
    units: int
    logs: list[str] = field(repr=False)

    @property
    def events(self) -> list[SimpleNamespace]:
        marker = "Program data: "
        return [idl().event(base64.b64decode(line[len(marker) :])) for line in self.logs if line.startswith(marker)]

    def program_units(self) -> list[int]:
        """Compute units of each top-level call of the escrow program, in order."""
        found = re.findall(rf"Program {PROGRAM} consumed (\d+) of", "\n".join(self.logs))
        return [int(u) for u in found]


class Chain:
    """LiteSVM with the program, today's rent and a clock that starts at START. Every change of time is explicit."""

    def __init__(self, program_file: Path = PROGRAM_FILE, *, rent: Rent | None = None) -> None:
        svm = LiteSVM().with_transaction_history(0)
        svm.set_rent(rent or Rent(6960, 1.0, 50))
        svm.add_program_from_file(PROGRAM, program_file)
        self.svm = svm
        self.payer = key("fee payer")
        svm.airdrop(self.payer.pubkey(), 10_000 * SOL)
        self.slot, self.now = 100, START
        self._set_clock()

    def _set_clock(self) -> None:
        self.svm.set_clock(Clock(self.slot, 0, 0, 0, self.now))

    def wait(self, seconds: int = 1, slots: int = 1) -> None:
        self.now += seconds
        self.slot += slots
        self._set_clock()

    def at(self, now: int) -> None:
        """Moves the clock to `now` (backwards too) in a later slot."""
        self.now = now
        self.slot += 1
        self._set_clock()

    def send(self, *instructions: Instruction, signers: Sequence[Keypair] = (), limit: int = 1_400_000) -> Outcome:
        """One transaction, paid by a key without a role. Raises nothing: read the outcome."""
        self.svm.expire_blockhash()
        known = {self.payer.pubkey(): self.payer} | {k.pubkey(): k for k in signers}
        message = Message.new_with_blockhash(
            [set_compute_unit_limit(limit), *instructions], self.payer.pubkey(), self.svm.latest_blockhash()
        )
        wanted = message.account_keys[: message.header.num_required_signatures]
        tx = Transaction([known[k] for k in wanted], message, self.svm.latest_blockhash())
        result = self.svm.send_transaction(tx)
        if isinstance(result, FailedTransactionMetadata):
            meta = result.meta()
            return Outcome(self.error(result.err()), meta.compute_units_consumed(), meta.logs())
        return Outcome("", result.compute_units_consumed(), result.logs())

    @staticmethod
    def error(error: Any) -> str:
        """The name of a failed transaction's error: the program's own, or the runtime's."""
        inner = getattr(error, "err", error)
        code = getattr(inner, "code", None)
        if code is not None:
            return idl().errors.get(code, f"custom {code}")
        words = str(inner)
        return words.rsplit(".", 1)[-1].split("(", maxsplit=1)[0] if "." in words else words

    def account(self, address: Pubkey) -> Account | None:
        found = self.svm.get_account(address)
        return found if found is not None and (found.lamports or found.data) else None

    def data(self, address: Pubkey) -> bytes:
        found = self.account(address)
        assert found is not None, f"no account at {address}"
        return bytes(found.data)

    def lamports(self, address: Pubkey) -> int:
        return self.svm.get_balance(address) or 0

    def put(self, address: Pubkey, data: bytes, owner: Pubkey, lamports: int | None = None) -> None:
        """Writes an account as it is: for forgeries and for what only validators write."""
        rent = self.svm.minimum_balance_for_rent_exemption(len(data))
        self.svm.set_account(address, Account(rent if lamports is None else lamports, data, owner))

    def tokens(self, address: Pubkey) -> int:
        """The token amount; 0 where there is no token account."""
        found = self.account(address)
        return struct.unpack_from("<Q", found.data, 64)[0] if found is not None and len(found.data) >= 72 else 0
