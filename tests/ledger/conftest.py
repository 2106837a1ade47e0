"""A chain of these tests' own, whose clock they warp, and jobs on it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.ledger.escrow import Ledger

if TYPE_CHECKING:
    from tests.conftest import Localnet, Platform

ROOT = Path(__file__).resolve().parents[2]
WINDOW, ARBITER = 60, 120


@pytest.fixture(scope="session")
def stage(
    tmp_path_factory: pytest.TempPathFactory, localnet: Localnet, make_platform: Callable[..., Platform]
) -> Iterator[Platform]:
    """20 ms a slot; windows of 60 and 120 seconds, passed by warping."""
    folder = tmp_path_factory.mktemp("ledger")
    chain = type(localnet)(folder / "chain.db", program=ROOT / "programs" / "escrow.so", slot_ms=20).start()
    yield make_platform(chain, min_window=WINDOW, arbiter_window=ARBITER)
    chain.stop()


@pytest.fixture
async def ledger(stage: Platform) -> AsyncIterator[Ledger]:
    async with Ledger.connect(stage.chain.url, stage.chain.program_id, poll=0.01) as one:
        yield one


@dataclass
class Play:
    """One job on the stage."""

    ledger: Ledger
    stage: Platform

    def key(self, role: str) -> Signer:
        return self.stage.keys[role]

    async def terms(
        self, budget: int = 1_000_000, lasts: int = 3_600, dispute_window: int | None = None
    ) -> dict[str, Any]:
        now = await self.ledger.now()
        job_id = bytearray((now * 1_000).to_bytes(6, "big") + secrets.token_bytes(10))
        job_id[6], job_id[8] = 0x70 | job_id[6] & 15, 0x80 | job_id[8] & 63
        return {
            "authority": self.key("operator"),
            "payer": self.key("operator"),
            "owner": self.key("owner").public,
            "mint": self.stage.mint,
            "job_id": bytes(job_id),
            "verifier": self.key("verifier").public,
            "spec_hash": secrets.token_bytes(32),
            "budget": budget,
            "deadline": now + lasts,
            "dispute_window": dispute_window or self.stage.min_window,
            "arbiter_window": self.stage.arbiter_window,
            "fee_bps": self.stage.fee_bps,
        }

    async def open(self, **changes: int) -> Pubkey:
        terms = await self.terms(**changes)
        assert len(await self.ledger.open_job(**terms)) == 1
        return self.ledger.job_address(terms["owner"], terms["mint"], terms["job_id"])

    async def wallets(self, count: int, accounts: bool = True) -> list[Signer]:
        made = [Signer(Keypair()) for _ in range(count)]
        for one in made if accounts else []:
            await self.ledger.create_token_account(self.key("sponsor"), one.public, self.stage.mint)
        return made

    async def balance(self, wallet: Signer) -> int:
        return await self.ledger.token_balance(wallet.public, self.stage.mint)


@pytest.fixture
def play(ledger: Ledger, stage: Platform) -> Play:
    return Play(ledger, stage)
