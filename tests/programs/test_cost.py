"""Every instruction stays inside its compute budget, and as many seats as planned fit one transaction."""

from __future__ import annotations

from pathlib import Path

import pytest
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import AccountMeta, Instruction
from solders.message import Message
from solders.pubkey import Pubkey

from benchmarks.escrow_cost import measure
from tests.programs.chain import PROGRAM, idl, key
from tests.programs.world import World

PACKET = 1232  # bytes of a transaction on the wire
README = Path(__file__).resolve().parents[2] / "programs" / "escrow" / "README.md"
VARIES = {"initialize", "open_job", "open_job, prefunded"}  # with addresses that were searched


def test_every_instruction_is_within_its_compute_budget() -> None:
    lines = measure()
    over = [f"{c.name}: {c.units} > {c.budget}" for c in lines if not c.within]
    assert not over, over
    assert {c.name.split(",")[0] for c in lines} == set(idl().instructions)
    readme = README.read_text()
    stale = [
        f"{c.name}: {c.units:,}" for c in lines if c.seats < 2 and c.name not in VARIES and f"{c.units:,}" not in readme
    ]
    assert not stale, f"programs/escrow/README.md has other figures: {stale}"


def size(call: Instruction, payer: Pubkey) -> int:
    """The transaction's bytes: signatures, their count, and the message with a compute limit."""
    message = Message([set_compute_unit_limit(200_000), call], payer)
    return 1 + 64 * message.header.num_required_signatures + len(bytes(message))


def call(world: World, name: str, seats: int) -> Instruction:
    ref = world.ref(world.new_id())
    amounts = [(i, 1) for i in range(seats)]
    args = {
        "assign_seats": (0, [(b"\1" * 32, 1, 0)] * seats),
        "raise_caps": (amounts,),
        "award": (1, amounts),
        "pay": ([(i, 255) for i in range(seats)],),
    }[name]
    extra = [key(f"payee {i}").pubkey() for i in range(seats)] if name == "pay" else []
    return world.ix(name, *args, job=ref, extra=extra)


@pytest.mark.parametrize(
    ("name", "alone", "sponsored"),
    [("assign_seats", 18, 16), ("raise_caps", 94, 84), ("award", 97, 87)],
)
def test_seats_that_fit_one_transaction(world: World, name: str, alone: int, sponsored: int) -> None:
    """With the authority paying its own fee, and with another fee payer."""
    signer = world.verifier if name == "award" else world.operator
    for count, payer in ((alone, signer), (sponsored, world.chain.payer.pubkey())):
        fits, over = (with_payer(call(world, name, n), payer, world) for n in (count, count + 1))
        assert size(fits, payer) <= PACKET < size(over, payer)


def with_payer(call_: Instruction, payer: Pubkey, world: World) -> Instruction:
    """Rent, where the instruction takes any, is paid by the transaction's fee payer."""
    metas = [AccountMeta(payer, True, True) if m.pubkey == world.chain.payer.pubkey() else m for m in call_.accounts]
    return Instruction(PROGRAM, call_.data, metas)


def test_twenty_payments_fit_one_transaction(world: World) -> None:
    payer = world.chain.payer.pubkey()
    assert size(call(world, "pay", 25), payer) <= PACKET < size(call(world, "pay", 26), payer)


def test_accounts_too_many_are_ignored(world: World) -> None:
    job = world.job([100])
    extra = [world.stranger, world.mint, job.address]
    world.ok("commit_round", 1, b"\1" * 32, job=job, extra=extra)
    world.ok("raise_caps", [(0, 101)], job=job, extra=extra)
