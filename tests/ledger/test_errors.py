"""Each of the program's errors, met through the Python client on a local chain: its name, its message and one fix.

Where the client would not send what it can see to be refused or done, the instruction is built and sent as it is.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from solana.rpc.types import TxOpts
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from spl.token.instructions import InitializeMint2Params, initialize_mint2

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, ProgramError
from cloudlinkup.ledger import accounts, errors
from cloudlinkup.ledger.connection import sign
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.ledger.fixes import FIXES
from tests.ledger.conftest import Play

if TYPE_CHECKING:
    from tests.conftest import Platform

TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
U64 = 2**64 - 1
FAR = 4_000_000_000
LONG = 3_600  # the ended job's windows: nobody's slow machine runs out of them


@dataclass(frozen=True)
class Scene:
    """`running`: round 1 committed; seat 0 awarded 100 of its cap of 1,000, seat 1 asks for a bond. `ended`: between
    its deadline and the end of its appeals; seats 0 and 1 with a cap of 1,000. `owner` approved 100 base units."""

    running: Pubkey
    ended: Pubkey
    wallets: list[Signer]
    owner: Signer


async def make_scene(stage: Platform) -> Scene:
    async with Ledger.connect(stage.chain.url, stage.chain.program_id, poll=0.01) as ledger:
        play = Play(ledger, stage)
        operator, verifier, owner = play.key("operator"), play.key("verifier"), Signer(Keypair())
        wallets = await play.wallets(2)
        ended = await play.open(dispute_window=LONG)
        await ledger.assign_seats(operator, operator, ended, [(one.public, 1_000, 0) for one in wallets])
        await ledger.finish_job(operator, ended)
        stage.chain.warp(LONG + 1)
        running = await play.open(lasts=1_000_000)
        seats = [(wallets[0].public, 1_000, 0), (wallets[1].public, 1_000, 50)]
        await ledger.assign_seats(operator, operator, running, seats)
        await ledger.commit_round(verifier, running, 1, bytes(32))
        await ledger.award(verifier, running, 1, {0: 100})
        await ledger.airdrop(owner.public, 10**10)
        await ledger.mint_to(play.key("admin"), stage.mint, owner.public, 1_000)
        await ledger.open_client(owner, stage.mint)
        await ledger.deposit(owner, stage.mint, 1_000)
    return Scene(running, ended, wallets, owner)


@pytest.fixture(scope="module")
def scene(stage: Platform) -> Scene:
    return asyncio.run(make_scene(stage))


class Try(Play):
    """Calls that are to be refused."""

    scene: Scene

    async def raw(self, name: str, *args: Any, signer: Signer, where: dict[str, Pubkey], flags: bool = True) -> None:
        """One instruction as it is; without `flags`, nobody but the fee payer signs."""
        built = self.built(name, *args, where=where)
        if not flags:
            metas = [AccountMeta(one.pubkey, is_signer=False, is_writable=one.is_writable) for one in built.accounts]
            built = Instruction(built.program_id, built.data, metas)
        await self.send([built], signer if flags else self.key("cranker"), signer)

    def built(self, name: str, *args: Any, where: dict[str, Pubkey], more: list[Pubkey] | None = None) -> Instruction:
        return self.ledger._program.build(name, *args, accounts=where, more=more or [])

    async def send(self, instructions: list[Instruction], payer: Signer, *signers: Signer) -> None:
        await self.ledger._rpc.send(instructions, payer, signers, units=200_000)

    def job(self, job: Pubkey | None = None) -> dict[str, Pubkey]:
        client = self.ledger.client_address(self.key("owner").public, self.stage.mint)
        return {"authority": self.key("operator").public, "client": client, "job": job or self.scene.running}

    def amount(self, seat: int, amount: int) -> Any:
        return self.ledger._program.seat_amount(seat, amount)

    async def open_small(self, *, expires: int = FAR, **changes: Any) -> None:
        """A job of the owner that approved 100 base units until `expires`."""
        operator, verifier = self.key("operator").public, self.key("verifier").public
        terms: dict[str, Any] = {
            "operator": operator,
            "verifier": verifier,
            "max_per_job": 100,
            "allowance": 100,
            "expires": expires,
        }
        await self.ledger.set_operator(self.scene.owner, self.stage.mint, **terms)
        await self.open_with(**{"budget": 10, "owner": self.scene.owner.public, **changes})

    async def open_with(self, **changes: Any) -> None:
        await self.ledger.open_job(**{**await self.terms(), **changes})


CASES: dict[str, Callable[[Try], Awaitable[Any]]] = {}


def case(attempt: Callable[[Try], Awaitable[Any]]) -> None:
    CASES[attempt.__name__] = attempt


@pytest.mark.parametrize("name", [name for name, _ in errors.table().values()])
async def test_an_error_has_its_name_its_message_and_one_fix(play: Play, scene: Scene, name: str) -> None:
    attempt = Try(play.ledger, play.stage)
    attempt.scene = scene
    with pytest.raises(ProgramError) as caught:
        await CASES[name](attempt)
    [(code, message)] = [(code, message) for code, (other, message) in errors.table().items() if other == name]
    assert (caught.value.code, caught.value.name, caught.value.message) == (code, name, message)
    assert str(caught.value) == f"{name} ({code}): {message} Fix: {FIXES[name]}"


def test_every_error_has_a_fix_and_nothing_else_does() -> None:
    assert set(FIXES) == {name for name, _ in errors.table().values()} == set(CASES)


async def test_refusals_of_other_programs_are_told_apart(play: Play) -> None:
    poor = Signer(Keypair())
    with pytest.raises(LedgerError, match=r"does not exist on this chain. Fix: send it SOL"):
        await play.ledger.open_client(poor, play.stage.mint)
    await play.ledger.airdrop(poor.public, 1_000_000)
    with pytest.raises(LedgerError, match=r"too little SOL for the rent. Fix: send it SOL"):
        await play.ledger.open_client(poor, play.stage.mint)
    with pytest.raises(LedgerError, match=r"would be left with less SOL|too little SOL"):
        await play.ledger.create_mint(poor, 6)
    await play.ledger.airdrop(poor.public, 10**9)
    await play.ledger.open_client(poor, play.stage.mint)
    await play.ledger.create_token_account(poor, poor.public, play.stage.mint)
    with pytest.raises(LedgerError, match=r"insufficient funds in the token account. Fix: send it tokens"):
        await play.ledger.deposit(poor, play.stage.mint, 5)


# ---------------------------------------------------------------- the shape of what is sent


@case
async def InvalidData(t: Try) -> None:
    await t.raw("raise_caps", [], signer=t.key("operator"), where=t.job())


@case
async def MathOverflow(t: Try) -> None:
    await t.ledger.raise_caps(t.key("operator"), t.scene.running, {0: U64, 1: U64})


@case
async def MissingSignature(t: Try) -> None:
    where = {"verifier": t.key("verifier").public, "job": t.scene.running}
    await t.raw("commit_round", 2, [0] * 32, signer=t.key("verifier"), flags=False, where=where)


@case
async def Unauthorized(t: Try) -> None:
    await t.ledger.raise_caps(t.key("cranker"), t.scene.running, {0: 1_001})


@case
async def WrongOwner(t: Try) -> None:
    where = {"verifier": t.key("verifier").public, "job": t.stage.mint}
    await t.raw("commit_round", 2, [0] * 32, signer=t.key("verifier"), where=where)


@case
async def WrongAccountType(t: Try) -> None:
    where = {"verifier": t.key("verifier").public, "job": t.job()["client"]}
    await t.raw("commit_round", 2, [0] * 32, signer=t.key("verifier"), where=where)


@case
async def WrongAddress(t: Try) -> None:
    job = await t.ledger.job(t.scene.running)
    assert job is not None
    t.stage.chain.warp(3 * t.stage.min_window)  # the award of seat 0 matures
    thief = accounts.token_address(t.scene.wallets[1].public, t.stage.mint)[0]
    bump = accounts.token_address(t.scene.wallets[0].public, t.stage.mint)[1]
    pay = [t.ledger._program.seat_bump(0, bump)]
    where = {"job": t.scene.running, "job_vault": job.vault}
    await t.send([t.built("pay", pay, more=[thief], where=where)], t.key("cranker"))


@case
async def AccountExists(t: Try) -> None:
    owner, client = t.key("owner"), t.job()["client"]
    vault = accounts.vault_address(client, t.ledger.program_id)
    where = {"owner": owner.public, "payer": owner.public, "mint": t.stage.mint, "client": client}
    await t.raw("open_client", signer=owner, where={**where, "client_vault": vault})


# ---------------------------------------------------------------- tokens


@case
async def UnsupportedTokenProgram(t: Try) -> None:
    owner, mint = t.key("owner"), Signer(Keypair())
    make = CreateAccountParams(
        from_pubkey=owner.public, to_pubkey=mint.public, lamports=10**8, space=82, owner=TOKEN_2022
    )
    begin = InitializeMint2Params(
        decimals=6, program_id=TOKEN_2022, mint=mint.public, mint_authority=owner.public, freeze_authority=None
    )
    await t.send([create_account(make), initialize_mint2(begin)], owner, mint)
    await t.ledger.open_client(owner, mint.public)


@case
async def BadMint(t: Try) -> None:
    no_mint = accounts.token_address(t.key("owner").public, t.stage.mint)[0]
    await t.ledger.open_client(t.key("owner"), no_mint)


@case
async def BadTokenAccount(t: Try) -> None:
    await t.ledger.withdraw(t.key("owner"), t.stage.mint, 1, destination=t.stage.mint)


@case
async def ZeroAmount(t: Try) -> None:
    where = accounts.token_address(t.scene.owner.public, t.stage.mint)[0]
    await t.ledger.withdraw(t.key("owner"), t.stage.mint, 0, destination=where)


@case
async def InsufficientFunds(t: Try) -> None:
    where = accounts.token_address(t.scene.owner.public, t.stage.mint)[0]
    await t.ledger.withdraw(t.key("owner"), t.stage.mint, 2**60, destination=where)


# ---------------------------------------------------------------- terms


@case
async def FeeTooHigh(t: Try) -> None:
    await t.ledger.set_config(t.key("admin"), fee_bps=1_001)


@case
async def BadWindow(t: Try) -> None:
    await t.ledger.set_config(t.key("admin"), min_window=0)


@case
async def TermsChanged(t: Try) -> None:
    await t.open_with(fee_bps=t.stage.fee_bps + 1)


@case
async def BadDeadline(t: Try) -> None:
    await t.open(lasts=-1)


@case
async def JobIdTime(t: Try) -> None:
    old = (await t.ledger.now() - 2 * 86_400) * 1_000
    await t.open_with(job_id=old.to_bytes(6, "big") + secrets.token_bytes(10))


@case
async def StaleSequence(t: Try) -> None:
    keys = (t.key("operator").public, t.key("verifier").public)
    where = {"owner": t.key("owner").public, "client": t.job()["client"]}
    await t.raw("set_operator", *keys, 1, 1, FAR, 10**9, signer=t.key("owner"), where=where)


@case
async def AllowanceExpired(t: Try) -> None:
    await t.open_small(expires=1)


@case
async def AllowanceExceeded(t: Try) -> None:
    await t.open_small(budget=101)


@case
async def VerifierNotApproved(t: Try) -> None:
    await t.open_small(verifier=Keypair().pubkey())


# ---------------------------------------------------------------- seats


@case
async def JobEnded(t: Try) -> None:
    await t.ledger.raise_caps(t.key("operator"), t.scene.ended, {0: 1_001})


@case
async def JobNotEnded(t: Try) -> None:
    await t.ledger.close_job(t.key("cranker"), t.scene.running)


@case
async def BadSeatIndex(t: Try) -> None:
    await t.raw("raise_caps", [t.amount(99, 5_000)], signer=t.key("operator"), where=t.job())


@case
async def TooManySeats(t: Try) -> None:
    job, operator = await t.open(lasts=1_000_000), t.key("operator")
    where = {**t.job(job), "payer": operator.public}
    client = t.ledger._rpc.client
    seat = t.ledger._program.seat_init(operator.public, 0, 0)
    for first in range(0, 1_024, 16):
        block_hash = (await client.get_latest_blockhash()).value.blockhash
        add = t.built("assign_seats", first, [seat] * 16, where=where)
        await client.send_raw_transaction(bytes(sign([add], operator, [], block_hash)), TxOpts(skip_preflight=True))
    async with asyncio.timeout(120):
        while (found := await t.ledger.job(job)) is None or len(found.seats) < 1_024:  # noqa: ASYNC110 (the chain's)
            await asyncio.sleep(0.1)
    await t.raw("assign_seats", 1_024, [seat], signer=operator, where=where)


@case
async def OverBudget(t: Try) -> None:
    await t.ledger.raise_caps(t.key("operator"), t.scene.running, {0: 1_000_000})


@case
async def CapBelowCurrent(t: Try) -> None:
    await t.raw("raise_caps", [t.amount(0, 999)], signer=t.key("operator"), where=t.job())


@case
async def SeatNotActive(t: Try) -> None:
    await t.ledger.award(t.key("verifier"), t.scene.running, 1, {1: 1})


@case
async def SeatAlreadyActive(t: Try) -> None:
    job, wallet = await t.ledger.job(t.scene.running), t.scene.wallets[0]
    assert job is not None
    source = accounts.token_address(wallet.public, t.stage.mint)[0]
    where = {"wallet": wallet.public, "source": source, "job": t.scene.running, "job_vault": job.vault}
    accept = t.built("accept_seat", 0, 0, where=where)
    await t.send([accept], t.key("cranker"), wallet)


# ---------------------------------------------------------------- rounds, disputes, rulings


@case
async def BadRound(t: Try) -> None:
    await t.ledger.commit_round(t.key("verifier"), t.scene.running, 9, bytes(32))


@case
async def CommitTooRecent(t: Try) -> None:
    where = {"verifier": t.key("verifier").public, "job": t.scene.running}
    both = [t.built("commit_round", 2, [0] * 32, where=where), t.built("award", 2, [t.amount(0, 200)], where=where)]
    await t.send(both, t.key("verifier"))


@case
async def AwardBelowCurrent(t: Try) -> None:
    await t.ledger.award(t.key("verifier"), t.scene.running, 1, {0: 99})


@case
async def AwardAboveCap(t: Try) -> None:
    await t.ledger.award(t.key("verifier"), t.scene.running, 1, {0: 1_001})


@case
async def NothingToDispute(t: Try) -> None:
    await t.ledger.dispute(t.key("operator"), t.scene.running, [1])


@case
async def AppealClosed(t: Try) -> None:
    await t.ledger.appeal(t.scene.wallets[0], t.scene.running, 0, 500, payer=t.key("cranker"))


@case
async def AlreadyAppealed(t: Try) -> None:
    wallet = t.scene.wallets[0]
    await t.ledger.appeal(wallet, t.scene.ended, 0, 500, payer=t.key("cranker"))
    assert await t.ledger.appeal(wallet, t.scene.ended, 0, 500, payer=t.key("cranker")) == []
    again = t.built("appeal", 0, 600, where={"wallet": wallet.public, "job": t.scene.ended})
    await t.send([again], t.key("cranker"), wallet)


@case
async def NothingToResolve(t: Try) -> None:
    await t.ledger.resolve(t.key("arbiter"), t.scene.running, 0, 100)


@case
async def AwardOutOfRange(t: Try) -> None:
    await t.ledger.appeal(t.scene.wallets[1], t.scene.ended, 1, 1_001, payer=t.key("cranker"))


@case
async def SlashAboveBond(t: Try) -> None:
    await t.ledger.appeal(t.scene.wallets[0], t.scene.ended, 0, 500, payer=t.key("cranker"))
    await t.ledger.resolve(t.key("arbiter"), t.scene.ended, 0, 500, slash=1)


@case
async def NothingToPay(t: Try) -> None:
    job, wallet = await t.ledger.job(t.scene.ended), t.scene.wallets[1]
    assert job is not None
    to = accounts.token_address(wallet.public, t.stage.mint)[0]
    where = {"wallet": wallet.public, "job": t.scene.ended, "job_vault": job.vault, "destination": to}
    await t.send([t.built("pay_to", 1, where=where)], t.key("cranker"), wallet)
