"""Mints of every kind through Python on the real program: decimals 0, 9, 18, wrapped SOL, Token-2022, frozen payees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from spl.token.constants import WRAPPED_SOL_MINT
from spl.token.instructions import (
    CloseAccountParams,
    FreezeAccountParams,
    InitializeMint2Params,
    SyncNativeParams,
    ThawAccountParams,
    close_account,
    create_idempotent_associated_token_account,
    freeze_account,
    initialize_mint2,
    sync_native,
    thaw_account,
)

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, ProgramError
from cloudlinkup.ledger.accounts import OPEN_WINDOW, TOKEN_PROGRAM, token_address, vault_address
from cloudlinkup.ledger.sweeping import sweep_job
from cloudlinkup.ledger.wallet import WalletLedger
from cloudlinkup.types import format_tokens, parse_tokens
from tests.ledger.conftest import ARBITER, WINDOW, Play

if TYPE_CHECKING:
    from cloudlinkup.ledger.escrow import Ledger
    from tests.conftest import Platform

TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
UNITS = 100_000


@dataclass
class Client:
    """A client of some mint, with an approved operator, on the stage's chain."""

    ledger: Ledger
    stage: Platform
    mint: Pubkey
    owner: Signer

    def key(self, role: str) -> Signer:
        return self.stage.keys[role]

    @property
    def vault(self) -> Pubkey:
        return vault_address(self.ledger.client_address(self.owner.public, self.mint), self.ledger.program_id)

    async def open(self, allowance: int) -> None:
        await self.ledger.open_client(self.owner, self.mint, payer=self.key("sponsor"))
        await self.ledger.set_operator(
            self.owner,
            self.mint,
            operator=self.key("operator").public,
            verifier=self.key("verifier").public,
            max_per_job=allowance,
            allowance=allowance,
            expires=await self.ledger.now() + 10 * 31_622_400,
            payer=self.key("sponsor"),
        )

    async def job(self, budget: int, wallets: list[Pubkey], award: int) -> Pubkey:
        """A job whose seats were each awarded `award`."""
        terms: dict[str, Any] = await Play(self.ledger, self.stage).terms(budget=budget, lasts=600)
        terms |= {"owner": self.owner.public, "mint": self.mint}
        await self.ledger.open_job(**terms)
        job = self.ledger.job_address(self.owner.public, self.mint, terms["job_id"])
        operator, verifier = self.key("operator"), self.key("verifier")
        await self.ledger.assign_seats(operator, operator, job, [(one, award, 0) for one in wallets])
        await self.ledger.commit_round(verifier, job, 1, bytes(32))
        await self.ledger.award(verifier, job, 1, dict.fromkeys(range(len(wallets)), award))
        return job

    async def end(self, job: Pubkey) -> None:
        """Pays, closes and erases, as a stranger would."""
        self.stage.chain.warp(600 + 2 * WINDOW + ARBITER)
        await sweep_job(self.ledger, self.key("cranker"), job)
        self.stage.chain.warp(OPEN_WINDOW)
        last = await sweep_job(self.ledger, self.key("cranker"), job)
        assert last.erased and not last.problem


@pytest.fixture
async def client(ledger: Ledger, stage: Platform) -> AsyncIterator[Client]:
    owner = Signer(Keypair())
    yield Client(ledger, stage, stage.mint, owner)


@pytest.mark.parametrize(
    ("decimals", "budget", "fee"), [(0, "700", "2"), (9, "0.000000700", "0.000000002"), (18, "18.4", "0.002")]
)
async def test_decimals_are_only_for_people(client: Client, decimals: int, budget: str, fee: str) -> None:
    """A life in base units, entered and shown in token units, exactly; 18 decimals up to what 64 bits hold."""
    ledger, admin, sponsor = client.ledger, client.key("admin"), client.key("sponsor")
    client.mint, _ = await ledger.create_mint(admin, decimals)
    assert await ledger.mint_decimals(client.mint) == decimals
    assert await WalletLedger(client.stage.chain.url, ledger.program_id).mint_decimals(client.mint) == decimals
    units = parse_tokens(budget, decimals)
    award = parse_tokens(fee, decimals) * 100  # the fee is one percent
    assert parse_tokens(format_tokens(units, decimals), decimals) == units
    await ledger.mint_to(admin, client.mint, client.owner.public, units)
    await client.open(units)
    await ledger.deposit(client.owner, client.mint, units, payer=sponsor)
    for wallet in (client.key("treasury").public, payee := Keypair().pubkey()):
        await ledger.create_token_account(sponsor, wallet, client.mint)
    job = await client.job(units, [payee], award)
    await client.end(job)
    assert await ledger.token_balance(payee, client.mint) == award
    held = await ledger.token_balance(client.key("treasury").public, client.mint)
    assert format_tokens(held, decimals) == fee
    assert await ledger.free_balance(client.owner.public, client.mint) == units - award - held


async def test_wrapped_sol_is_a_mint_like_any_other(client: Client) -> None:
    """Also where somebody sends lamports to the vault: unsynced they are rent, and return with it; synced, dust."""
    ledger, sponsor, cranker = client.ledger, client.key("sponsor"), client.key("cranker")
    client.mint = WRAPPED_SOL_MINT
    await ledger.airdrop(client.owner.public, 10**9)
    await client.open(UNITS)
    fund = transfer(TransferParams(from_pubkey=client.owner.public, to_pubkey=client.vault, lamports=UNITS))
    sync = sync_native(SyncNativeParams(program_id=TOKEN_PROGRAM, account=client.vault))
    await ledger._rpc.send([fund, sync], client.owner, units=50_000)
    assert await ledger.free_balance(client.owner.public, client.mint) == UNITS
    for wallet in (client.key("treasury").public, payee := Keypair().pubkey()):
        await ledger.create_token_account(sponsor, wallet, client.mint)
    job = await client.job(50_000, [payee], 20_000)
    found = await ledger.job(job)
    assert found is not None
    for lamports, synced in ((1_000, True), (3_000, False)):
        gift = transfer(TransferParams(from_pubkey=cranker.public, to_pubkey=found.vault, lamports=lamports))
        count = sync_native(SyncNativeParams(program_id=TOKEN_PROGRAM, account=found.vault))
        await ledger._rpc.send([gift, count] if synced else [gift], cranker, units=50_000)
    rent = await ledger.lamports(job) + await ledger.lamports(found.vault) - 51_000
    before = await ledger.lamports(client.key("operator").public)
    await client.end(job)
    assert await ledger.token_balance(payee, client.mint) == 20_000
    assert await ledger.free_balance(client.owner.public, client.mint) == UNITS - 20_000 - 200 + 1_000
    assert await ledger.lamports(client.key("operator").public) == before + rent, "with the 3,000 that nobody synced"
    assert await ledger.lamports(found.vault) == await ledger.lamports(job) == 0


async def test_a_token_2022_mint_is_refused_before_anything_is_made(client: Client) -> None:
    ledger, payer, mint = client.ledger, client.key("admin"), Signer(Keypair())
    rent = (await ledger._rpc.ask(ledger._rpc.client.get_minimum_balance_for_rent_exemption(82))).value
    params = {"from_pubkey": payer.public, "to_pubkey": mint.public, "lamports": rent, "space": 82}
    begin = initialize_mint2(
        InitializeMint2Params(
            decimals=6, program_id=TOKEN_2022, mint=mint.public, mint_authority=payer.public, freeze_authority=None
        )
    )
    await ledger._rpc.send(
        [create_account(CreateAccountParams(**params, owner=TOKEN_2022)), begin], payer, [mint], units=60_000
    )
    with pytest.raises(ProgramError, match=r"UnsupportedTokenProgram.*Fix: use a mint of the classic Token program"):
        await ledger.open_client(client.owner, mint.public, payer=client.key("sponsor"))
    with pytest.raises(LedgerError, match="not a classic token mint"):
        await ledger.mint_decimals(mint.public)
    with pytest.raises(LedgerError, match="not a classic token mint"):
        await WalletLedger(client.stage.chain.url, ledger.program_id).mint_decimals(mint.public)
    assert await ledger.client(client.owner.public, mint.public) is None


@pytest.mark.parametrize("how", ["frozen", "closed"])
async def test_a_payee_whose_account_is_frozen_or_closed_delays_nobody(play: Play, how: str) -> None:
    """It is paid when the account is thawed or made anew, or at once to another account by `pay_to`."""
    ledger, mint, admin = play.ledger, play.stage.mint, play.key("admin")
    broken, other = await play.wallets(2)
    client = Client(ledger, play.stage, mint, play.key("owner"))
    job = await client.job(1_000_000, [broken.public, other.public], 400)
    address = token_address(broken.public, mint)[0]
    if how == "frozen":
        breaks = freeze_account(FreezeAccountParams(TOKEN_PROGRAM, address, mint, admin.public))
        await ledger._rpc.send([breaks], admin, units=20_000)
    else:
        gone = close_account(CloseAccountParams(TOKEN_PROGRAM, address, play.key("sponsor").public, broken.public))
        await ledger._rpc.send([gone], play.key("sponsor"), [broken], units=20_000)
    play.stage.chain.warp(2 * WINDOW)
    swept = await sweep_job(ledger, play.key("cranker"), job)
    assert (swept.paid, swept.unpayable, swept.left, swept.problem) == (400, (0,), 400, "")
    assert await play.balance(other) == 400 and await ledger.pay(play.key("cranker"), job) == []

    elsewhere = token_address(play.key("arbiter").public, mint)[0]
    await ledger.create_token_account(play.key("sponsor"), play.key("arbiter").public, mint)
    before = await ledger.vault_balance(elsewhere)
    if how == "frozen":
        assert len(await ledger.pay_to(broken, job, 0, elsewhere, payer=play.key("sponsor"))) == 1
        assert await ledger.vault_balance(elsewhere) == before + 400
        thaws = thaw_account(ThawAccountParams(TOKEN_PROGRAM, address, mint, admin.public))
        await ledger._rpc.send([thaws], admin, units=20_000)
    else:
        again = create_idempotent_associated_token_account(play.key("cranker").public, broken.public, mint)
        await ledger._rpc.send([again], play.key("cranker"), units=60_000)  # anybody may
        assert (await sweep_job(ledger, play.key("cranker"), job)).paid == 400
        assert await play.balance(broken) == 400
    await client.end(job)
