"""A contributor's own calls, made with what the wheel installs: the same bytes as AnchorPy's, on the real program."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anchorpy import Idl, Program, Provider, Wallet
from hypothesis import given, settings
from hypothesis import strategies as st
from solana.rpc.async_api import AsyncClient
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, NotConfirmed, ProgramError, Unavailable
from cloudlinkup.ledger import errors, layout, wallet
from cloudlinkup.ledger.accounts import TOKEN_PROGRAM, token_address
from cloudlinkup.ledger.program import EscrowProgram
from cloudlinkup.ledger.wallet import WalletLedger
from tests.ledger.faulty import proxy

if TYPE_CHECKING:
    from tests.ledger.conftest import Play

KEYS = st.binary(min_size=32, max_size=32).map(Pubkey.from_bytes)
SEATS, UNITS = st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def escrow() -> EscrowProgram:
    """AnchorPy's encoder; it never connects."""
    made = EscrowProgram.__new__(EscrowProgram)
    made.id = Keypair().pubkey()
    client = AsyncClient("http://127.0.0.1:9")
    made._program = Program(Idl.from_json(json.dumps(errors.idl())), made.id, Provider(client, Wallet.dummy()))
    asyncio.run(client.close())
    return made


def same(ours: Instruction, anchors: Instruction) -> None:
    assert (ours.program_id, bytes(ours.data)) == (anchors.program_id, bytes(anchors.data))
    assert ours.accounts == anchors.accounts


@settings(max_examples=25, deadline=None)
@given(a=KEYS, b=KEYS, c=KEYS, d=KEYS, seat=SEATS, units=UNITS)
def test_the_bytes_are_anchorpys(
    escrow: EscrowProgram, a: Pubkey, b: Pubkey, c: Pubkey, d: Pubkey, seat: int, units: int
) -> None:
    where = {"wallet": a, "source": b, "job": c, "job_vault": d}
    same(
        layout.accept_seat(escrow.id, **where, seat=seat, bond=units),
        escrow.build("accept_seat", seat, units, accounts=where),
    )
    where = {"wallet": a, "job": c}
    same(
        layout.appeal(escrow.id, **where, seat=seat, amount=units), escrow.build("appeal", seat, units, accounts=where)
    )
    where = {"wallet": a, "job": c, "job_vault": d, "destination": b}
    same(layout.pay_to(escrow.id, **where, seat=seat), escrow.build("pay_to", seat, accounts=where))


@pytest.mark.parametrize("name", ["accept_seat", "appeal", "pay_to"])
def test_accounts_and_flags_are_the_idls(name: str) -> None:
    [one] = [
        one
        for one in errors.idl()["instructions"]
        if one["name"] == "".join(w.title() if i else w for i, w in enumerate(name.split("_")))
    ]
    keys = {key: Keypair().pubkey() for key in ("wallet", "source", "job", "job_vault", "destination")}
    takes = {"accept_seat": ("wallet", "source", "job", "job_vault"), "appeal": ("wallet", "job")}
    chosen = {key: keys[key] for key in takes.get(name, ("wallet", "job", "job_vault", "destination"))}
    amounts = {"accept_seat": {"bond": 1}, "appeal": {"amount": 1}}.get(name, {})
    built = getattr(layout, name)(Keypair().pubkey(), **chosen, seat=0, **amounts)
    assert [(meta.is_signer, meta.is_writable) for meta in built.accounts] == [
        (account["isSigner"], account["isMut"]) for account in one["accounts"]
    ]
    assert built.accounts[-1].pubkey == (
        TOKEN_PROGRAM if one["accounts"][-1]["name"] == "tokenProgram" else keys["job"]
    )


async def bonded(play: Play, bond: int = 1_000) -> tuple[Pubkey, Signer]:
    """A job with one seat that asks for a bond; its wallet has the tokens and no SOL."""
    job, [one] = await play.open(lasts=600), await play.wallets(1)
    await play.ledger.mint_to(play.key("admin"), play.stage.mint, one.public, bond)
    await play.ledger.assign_seats(play.key("operator"), play.key("operator"), job, [(one.public, 10_000, bond)])
    return job, one


async def test_bond_appeal_and_pay_from_the_wheel_alone(play: Play) -> None:
    stage, sponsor = play.stage, play.key("sponsor")
    mine = WalletLedger(stage.chain.url, play.ledger.program_id, poll=0.01)
    job, one = await bonded(play)
    assert await mine.job(job) == await play.ledger.job(job)
    assert abs(await mine.now() - await play.ledger.now()) <= 1
    assert await mine.mint_decimals(stage.mint) == 6
    assert (await mine.lamports(one.public), await mine.lamports(sponsor.public) > 0) == (0, True)

    assert len(await mine.accept_seat(one, job, 0, payer=sponsor)) == 1
    assert await mine.accept_seat(one, job, 0, payer=sponsor) == [], "the chain says so already"
    found = await mine.job(job)
    assert found is not None and found.seats[0].active and await mine.vault_balance(found.vault) == 1_001_000

    with pytest.raises(ProgramError, match="AppealClosed"):
        await mine.appeal(one, job, 0, 4_000, payer=sponsor)
    stage.chain.warp(found.deadline - await mine.now() + 1)
    with pytest.raises(ProgramError, match="AwardOutOfRange"):
        await mine.appeal(one, job, 0, 10_001, payer=sponsor)
    assert len(await mine.appeal(one, job, 0, 4_000, payer=sponsor)) == 1
    assert await mine.appeal(one, job, 0, 4_000, payer=sponsor) == []
    await play.ledger.resolve(play.key("arbiter"), job, 0, 3_000)

    elsewhere = token_address(play.key("owner").public, stage.mint)[0]
    before = await mine.vault_balance(elsewhere)
    assert len(await mine.pay_to(one, job, 0, elsewhere, payer=sponsor)) == 1
    assert await mine.pay_to(one, job, 0, elsewhere, payer=sponsor) == []
    assert await mine.vault_balance(elsewhere) == before + 3_000


async def test_refusals_are_told_as_everywhere(play: Play) -> None:
    mine = WalletLedger(play.stage.chain.url, play.ledger.program_id, poll=0.01)
    job, one = await bonded(play)
    with pytest.raises(LedgerError, match=r"too little SOL|does not exist.*Fix: send it SOL"):
        await mine.accept_seat(one, job, 0)
    with pytest.raises(ProgramError, match="Unauthorized"):
        await mine.accept_seat(Signer(Keypair()), job, 0, payer=play.key("sponsor"))
    with pytest.raises(LedgerError, match="no seat 7"):
        await mine.appeal(one, job, 7, 1)
    with pytest.raises(LedgerError, match="there is no job"):
        await mine.appeal(one, Keypair().pubkey(), 0, 1)
    with pytest.raises(Unavailable, match="Fix: start it"):
        await WalletLedger("http://127.0.0.1:9", play.ledger.program_id).now()


async def test_a_lost_answer_is_found_and_a_swallowed_transaction_is_not_confirmed(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that loses answers, and one that loses transactions until their block hash is over: a repeat completes."""
    monkeypatch.setattr(wallet, "RESEND_SECONDS", 0.5)
    mode, sponsor = ["swallow"], play.key("sponsor")

    async def trouble(method: str, request: Any, forward: Callable[[], Awaitable[bytes]]) -> bytes | None:
        if method == "sendTransaction" and mode[0] == "swallow":
            play.stage.chain.warp(60)  # the block hash's whole life
            return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "1" * 64}).encode()
        found = await forward()
        return None if method == "sendTransaction" and mode[0] == "lose" else found

    job, one = await bonded(play)
    async with proxy(play.stage.chain, trouble) as url:
        mine = WalletLedger(url, play.ledger.program_id, poll=0.05)
        with pytest.raises(NotConfirmed, match="before its block hash expired"):
            await mine.accept_seat(one, job, 0, payer=sponsor)
        found = await play.ledger.job(job)
        assert found is not None and not found.seats[0].active, "nothing half done"
        mode[0] = "lose"
        assert len(await mine.accept_seat(one, job, 0, payer=sponsor)) == 1
        found = await play.ledger.job(job)
        assert found is not None and found.seats[0].active and await play.balance(one) == 0


def test_it_needs_neither_anchorpy_nor_solana_py() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('anchorpy', 'solana', 'spl', 'based58')))"
    code = f"{absent}; from cloudlinkup.ledger.wallet import WalletLedger"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=60)
