"""A contributor's instructions as bytes: built from the program's fixed layout, without AnchorPy. Pure; solders only.

Data is sha256("global:<name>")[..8] and the arguments in Borsh: integers, little-endian. A test holds every builder
here against AnchorPy and the IDL. Not covered: the client's, verifier's and arbiter's instructions (`program`).
"""

from __future__ import annotations

import hashlib
import struct

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from cloudlinkup.ledger.accounts import TOKEN_PROGRAM


def accept_seat(
    program: Pubkey, *, wallet: Pubkey, source: Pubkey, job: Pubkey, job_vault: Pubkey, seat: int, bond: int
) -> Instruction:
    """The wallet posts the seat's bond from its token account `source`."""
    keys = [_signer(wallet), _writable(source), _writable(job), _writable(job_vault), _readonly(TOKEN_PROGRAM)]
    return Instruction(program, _tag("accept_seat") + struct.pack("<HQ", seat, bond), keys)


def appeal(program: Pubkey, *, wallet: Pubkey, job: Pubkey, seat: int, amount: int) -> Instruction:
    """The wallet asks the arbiter for `amount` in all."""
    data = _tag("appeal") + struct.pack("<HQ", seat, amount)
    return Instruction(program, data, [_signer(wallet), _writable(job)])


def pay_to(
    program: Pubkey, *, wallet: Pubkey, job: Pubkey, job_vault: Pubkey, destination: Pubkey, seat: int
) -> Instruction:
    """The wallet sends what is due on its seat to any token account of the mint."""
    keys = [_signer(wallet), _writable(job), _writable(job_vault), _writable(destination), _readonly(TOKEN_PROGRAM)]
    return Instruction(program, _tag("pay_to") + struct.pack("<H", seat), keys)


def _tag(name: str) -> bytes:
    return hashlib.sha256(f"global:{name}".encode()).digest()[:8]


def _signer(key: Pubkey) -> AccountMeta:
    return AccountMeta(key, is_signer=True, is_writable=False)


def _writable(key: Pubkey) -> AccountMeta:
    return AccountMeta(key, is_signer=False, is_writable=True)


def _readonly(key: Pubkey) -> AccountMeta:
    return AccountMeta(key, is_signer=False, is_writable=False)
