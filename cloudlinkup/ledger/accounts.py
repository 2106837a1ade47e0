"""The escrow program's accounts, decoded from bytes, and the addresses they live at. Pure; solders only.

Every program account is found by owner, discriminator and length; whoever fetches the bytes compares the owner. All
numbers are little-endian. Amounts are base units of the job's mint; times are unix seconds of the chain's clock.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey

from cloudlinkup.errors import LedgerError

TOKEN_PROGRAM = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
ATA_PROGRAM = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
SYSTEM_PROGRAM = Pubkey.from_string("11111111111111111111111111111111")
LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
CLOCK_SYSVAR = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")

# the program's own bounds
MAX_SEATS = 1_024
MAX_FEE_BPS = 1_000
MAX_WINDOW = 2_592_000
MAX_JOB = 31_622_400
OPEN_WINDOW = 86_400
OPEN_SKEW = 300
UNCLAIMED = 15_552_000

TOKEN_ACCOUNT_BYTES = 165
MINT_BYTES = 82

_CONFIG = struct.Struct("<8s32s32s32s32sIIHB5x")
_CLIENT = struct.Struct("<8s32s32s32s32s32sQQqQB7x")
_JOB = struct.Struct("<8s32s32s32s32s32s32s32s16sQQQQqqQIIIHB5xI")
_SEAT = struct.Struct("<32sQQQQQQqIBB2x")
JOB_HEAD, SEAT_BYTES = _JOB.size, _SEAT.size


def discriminator(account: str) -> bytes:
    """The first 8 bytes of every account of that name."""
    return hashlib.sha256(f"account:{account}".encode()).digest()[:8]


CONFIG_TAG, CLIENT_TAG, JOB_TAG = discriminator("Config"), discriminator("Client"), discriminator("Job")


@dataclass(frozen=True)
class Config:
    """The platform's terms for later jobs. Windows in seconds."""

    admin: Pubkey
    pending_admin: Pubkey
    arbiter: Pubkey
    treasury: Pubkey
    min_window: int
    arbiter_window: int
    fee_bps: int
    bump: int


@dataclass(frozen=True)
class Client:
    """One owner and one mint. The free balance is the token amount of `vault`."""

    owner: Pubkey
    mint: Pubkey
    vault: Pubkey
    operator: Pubkey
    verifier: Pubkey
    max_per_job: int
    allowance_left: int
    allowance_expires: int
    seq: int
    bump: int


@dataclass(frozen=True)
class Seat:
    """One contributor's place in one job. `awarded` and `paid` are cumulative; `fresh` and `aging` are the awards that
    have not matured; `bond` is asked while `state` is 0 and held once it is 1; `appeal` is 0 none, 1 open, 2 used."""

    wallet: Pubkey
    cap: int
    awarded: int
    fresh: int
    aging: int
    paid: int
    bond: int
    disputed_at: int
    epoch: int
    state: int
    appeal: int

    @property
    def active(self) -> bool:
        return self.state == 1


@dataclass(frozen=True)
class Job:
    """One job with its seats, in the order in which they were assigned."""

    client: Pubkey
    mint: Pubkey
    vault: Pubkey
    verifier: Pubkey
    rent_payer: Pubkey
    spec_hash: bytes
    commit_root: bytes
    job_id: bytes
    budget: int
    caps_total: int
    paid_total: int
    fee_paid: int
    opened_at: int
    deadline: int
    commit_slot: int
    dispute_window: int
    arbiter_window: int
    round: int
    fee_bps: int
    bump: int
    seats: tuple[Seat, ...]

    @property
    def owed(self) -> int:
        """Awarded and not yet paid, over all seats (without what an open appeal reserves: `money.owed`)."""
        return sum(seat.awarded - seat.paid for seat in self.seats)

    @property
    def id_time(self) -> int:
        """Unix seconds in the UUIDv7 `job_id`."""
        return int.from_bytes(self.job_id[:6], "big") // 1_000


@dataclass(frozen=True)
class TokenAccount:
    """A classic token account."""

    mint: Pubkey
    owner: Pubkey
    amount: int
    frozen: bool


def decode_config(data: bytes) -> Config:
    """Raises LedgerError for bytes that are no Config."""
    _check(data, "Config", CONFIG_TAG, _CONFIG.size)
    return Config(*_fields(_CONFIG.unpack(data), keys=4))


def decode_client(data: bytes) -> Client:
    """Raises LedgerError for bytes that are no Client."""
    _check(data, "Client", CLIENT_TAG, _CLIENT.size)
    return Client(*_fields(_CLIENT.unpack(data), keys=5))


def decode_job(data: bytes) -> Job:
    """Raises LedgerError for bytes that are no Job, or whose length is not exactly that of its seats."""
    if len(data) < JOB_HEAD:
        raise LedgerError(f"a Job account has at least {JOB_HEAD} bytes, not {len(data)}")
    head = _JOB.unpack_from(data)
    count = head[-1]
    if count > MAX_SEATS:
        raise LedgerError(f"a Job has at most {MAX_SEATS} seats, not {count}")
    _check(data, "Job", JOB_TAG, JOB_HEAD + count * SEAT_BYTES)
    seats = tuple(Seat(Pubkey.from_bytes(one[0]), *one[1:]) for one in _SEAT.iter_unpack(data[JOB_HEAD:]))
    return Job(*_fields(head[:-1], keys=5), seats=seats)


def decode_token_account(data: bytes) -> TokenAccount:
    """Raises LedgerError for bytes that are no initialised classic token account."""
    if len(data) != TOKEN_ACCOUNT_BYTES or data[108] not in (1, 2):
        raise LedgerError("not an initialised token account")
    amount = int.from_bytes(data[64:72], "little")
    return TokenAccount(Pubkey.from_bytes(data[:32]), Pubkey.from_bytes(data[32:64]), amount, data[108] == 2)


def _fields(unpacked: tuple[Any, ...], keys: int) -> list[Any]:
    """Without the discriminator; the first `keys` fields are public keys."""
    return [Pubkey.from_bytes(one) for one in unpacked[1 : keys + 1]] + list(unpacked[keys + 1 :])


def _check(data: bytes, name: str, tag: bytes, size: int) -> None:
    if data[:8] != tag:
        raise LedgerError(f"the account is not a {name}")
    if len(data) != size:
        raise LedgerError(f"this {name} account has {len(data)} bytes, not {size}")


# ---------------------------------------------------------------- addresses


def config_address(program: Pubkey) -> Pubkey:
    return Pubkey.find_program_address([b"config"], program)[0]


def client_address(owner: Pubkey, mint: Pubkey, program: Pubkey) -> Pubkey:
    return Pubkey.find_program_address([b"client", bytes(owner), bytes(mint)], program)[0]


def job_address(client: Pubkey, job_id: bytes, program: Pubkey) -> Pubkey:
    """`client` is the Client account's address, `job_id` the 16 bytes of a UUIDv7."""
    return Pubkey.find_program_address([b"job", bytes(client), job_id], program)[0]


def vault_address(parent: Pubkey, program: Pubkey) -> Pubkey:
    """The vault of a Client or Job account."""
    return Pubkey.find_program_address([b"vault", bytes(parent)], program)[0]


def program_data_address(program: Pubkey) -> Pubkey:
    """Where the upgradeable loader keeps a program's bytes and its upgrade authority."""
    return Pubkey.find_program_address([bytes(program)], LOADER)[0]


def token_address(wallet: Pubkey, mint: Pubkey) -> tuple[Pubkey, int]:
    """The wallet's associated token account and its bump."""
    return Pubkey.find_program_address([bytes(wallet), bytes(TOKEN_PROGRAM), bytes(mint)], ATA_PROGRAM)
