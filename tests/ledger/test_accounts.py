"""Our decoders, which a contributor's machine trusts, against AnchorPy's, on the program's own IDL."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from anchorpy.program.core import Program
from hypothesis import given, settings
from hypothesis import strategies as st
from solana.rpc.async_api import AsyncClient
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.instructions import get_associated_token_address

from cloudlinkup.errors import LedgerError, ProgramError
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.ledger import accounts, errors
from cloudlinkup.ledger.program import EscrowProgram

PROGRAM = Pubkey.from_string(PROGRAM_ID)


@pytest.fixture(scope="module")
def anchor() -> Program:
    return EscrowProgram(AsyncClient("http://127.0.0.1:9"), PROGRAM).anchor


def filled(tag: bytes, layout: struct.Struct, data: st.DataObject) -> bytes:
    return tag + data.draw(st.binary(min_size=layout.size - 8, max_size=layout.size - 8))


def plain(value: Any) -> Any:
    """AnchorPy's containers and lists as plain values."""
    return bytes(value) if isinstance(value, list) and all(isinstance(one, int) for one in value) else value


def same(ours: Any, theirs: Any) -> None:
    for name in type(ours).__dataclass_fields__:
        if name != "seats":
            assert getattr(ours, name) == plain(getattr(theirs, name)), name


@given(st.data())
@settings(deadline=None)
def test_config_and_client_equal_anchorpys(anchor: Program, data: st.DataObject) -> None:
    config = filled(accounts.CONFIG_TAG, accounts._CONFIG, data)
    same(accounts.decode_config(config), anchor.coder.accounts.parse(config).data)
    client = filled(accounts.CLIENT_TAG, accounts._CLIENT, data)
    same(accounts.decode_client(client), anchor.coder.accounts.parse(client).data)


@given(st.data(), st.integers(0, 5))
@settings(deadline=None)
def test_job_equals_anchorpys(anchor: Program, data: st.DataObject, count: int) -> None:
    body = filled(accounts.JOB_TAG, accounts._JOB, data)[:-4] + count.to_bytes(4, "little")
    body += data.draw(st.binary(min_size=96 * count, max_size=96 * count))
    ours, theirs = accounts.decode_job(body), anchor.coder.accounts.parse(body).data
    same(ours, theirs)
    assert len(ours.seats) == len(theirs.seats) == count
    for one, other in zip(ours.seats, theirs.seats, strict=True):
        same(one, other)


def test_the_layouts_have_the_specified_sizes() -> None:
    assert (accounts._CONFIG.size, accounts._CLIENT.size, accounts.JOB_HEAD, accounts.SEAT_BYTES) == (152, 208, 328, 96)


def test_constants_are_the_idls() -> None:
    for one in errors.idl()["constants"]:
        assert getattr(accounts, one["name"]) == int(one["value"]), one["name"]


@given(st.binary(max_size=700))
def test_no_bytes_crash_the_decoders(data: bytes) -> None:
    decoders = (accounts.decode_config, accounts.decode_client, accounts.decode_job, accounts.decode_token_account)
    for tag, decode in zip((accounts.CONFIG_TAG, accounts.CLIENT_TAG, accounts.JOB_TAG, b""), decoders, strict=True):
        try:
            decode(tag + data)
        except LedgerError:
            continue


def test_a_jobs_length_must_be_exact() -> None:
    head = accounts.JOB_TAG + bytes(accounts.JOB_HEAD - 12)
    assert accounts.decode_job(head + (1).to_bytes(4, "little") + bytes(96)).seats[0].cap == 0
    for count, extra in ((1, 95), (1, 97), (0, 96), (2, 96), (1_025, 96 * 1_025), (2**32 - 1, 96)):
        with pytest.raises(LedgerError):
            accounts.decode_job(head + count.to_bytes(4, "little") + bytes(extra))
    with pytest.raises(LedgerError, match="not a Config"):
        accounts.decode_config(head)


def test_token_addresses_equal_the_token_librarys() -> None:
    wallet, mint = Keypair().pubkey(), Keypair().pubkey()
    address, bump = accounts.token_address(wallet, mint)
    assert address == get_associated_token_address(wallet, mint)
    seeds = [bytes(wallet), bytes(accounts.TOKEN_PROGRAM), bytes(mint), bytes([bump])]
    assert Pubkey.create_program_address(seeds, accounts.ATA_PROGRAM) == address


def test_errors_come_from_the_idl() -> None:
    assert sorted(errors.table()) == list(range(6_000, 6_041))
    known = errors.program_error(6_026)
    assert isinstance(known, ProgramError)
    assert (known.code, known.name, str(known)) == (
        6_026,
        "OverBudget",
        "OverBudget (6026): Caps and fee exceed the budget. Fix: lower the caps, or open a job with a larger budget",
    )
    assert errors.program_error(1) is None


def test_a_refusal_names_the_program_that_failed_first() -> None:
    ours = {"InstructionError": [1, {"Custom": 6_010}]}
    programs = [Keypair().pubkey(), PROGRAM]
    assert isinstance(errors.explain(ours, programs, PROGRAM, None), ProgramError)
    inner = [f"Program {accounts.TOKEN_PROGRAM} failed: custom program error: 0x11"]
    frozen = errors.explain({"InstructionError": [1, {"Custom": 17}]}, programs, PROGRAM, inner)
    assert not isinstance(frozen, ProgramError) and "frozen" in str(frozen)
    assert "has too little SOL" in str(errors.explain("InsufficientFundsForFee", programs, PROGRAM, None))
    other = errors.explain({"InstructionError": [0, {"Custom": 6_010}]}, programs, PROGRAM, None)
    assert not isinstance(other, ProgramError), "another program's error of the same number"


def test_program_errors_survive_a_process_border() -> None:
    known = errors.program_error(6_031)
    again = pickle.loads(pickle.dumps(known))
    assert isinstance(again, ProgramError) and str(again) == str(known) and again.code == 6_031


def test_a_contributors_machine_needs_neither_anchorpy_nor_solana_py() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('anchorpy', 'solana', 'spl', 'based58')))"
    modules = "cloudlinkup.ledger.seats, cloudlinkup.ledger.money, cloudlinkup.ledger.errors"
    code = f"{absent}; import {modules}; assert len(cloudlinkup.ledger.errors.table()) == 41"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=60)
