"""What an owner deposited and approved is looked at before anything is locked, and refused as the client's input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from solders.keypair import Keypair

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput
from cloudlinkup.ledger.escrow import Ledger
from tasks.context import Run
from tasks.escrow import check_limits, escrow_lock
from tests.conftest import Platform
from tests.tasks.conftest import Rig
from tests.tasks.test_sweep import ledger, stage

__all__ = ["ledger", "stage"]
TOKEN = 10**6


@pytest.fixture
async def run(rig: Rig, stage: Platform, ledger: Ledger) -> AsyncIterator[Run]:
    """A run of a job with a budget of 10 tokens, for an owner that has nothing on chain yet."""
    keys, owner = stage.keys, Signer(Keypair())
    run = rig.run
    run.ledger, run.mint, run.owner, run.decimals = ledger, stage.mint, owner.public, 6
    run.operator, run.verifier = keys["operator"], keys["verifier"]
    run.settings = replace(run.settings, mint=str(stage.mint), owner=str(owner.public))
    run.state.quote, run.state.terms = {"p90_seconds": 10}, None
    yield run


async def approve(run: Run, stage: Platform, owner: Signer, **changes: object) -> None:
    terms = {
        "operator": run.operator.public,
        "verifier": run.verifier.public,
        "max_per_job": 20 * TOKEN,
        "allowance": 20 * TOKEN,
        "expires": await run.ledger.now() + 10**8,
    }
    await run.ledger.set_operator(owner, run.mint, payer=stage.keys["sponsor"], **(terms | changes))  # type: ignore[arg-type]


async def test_every_limit_has_its_words_and_locks_nothing(run: Run, stage: Platform):
    owner, sponsor = Signer(Keypair()), stage.keys["sponsor"]
    run.owner = owner.public

    async def refused(words: str) -> None:
        with pytest.raises(BadInput, match=words):
            await escrow_lock.fn(run)
        assert run.state.terms is None

    await refused("has no account for this token. Fix: `cloudlinkup account open`")
    await run.ledger.open_client(owner, run.mint, payer=sponsor)
    await refused("the account holds 0. Fix: deposit more")
    await run.ledger.mint_to(stage.keys["admin"], run.mint, owner.public, 30 * TOKEN)
    await run.ledger.deposit(owner, run.mint, 30 * TOKEN, payer=sponsor)
    await refused("operator.*not approved by the account's owner")
    await approve(run, stage, owner, verifier=stage.keys["cranker"].public)
    await refused("verifier.*not approved by the account's owner")
    await approve(run, stage, owner, expires=1)
    await refused("the owner's approval has expired")
    await approve(run, stage, owner, max_per_job=9 * TOKEN)
    await refused("the spending limit allows 9. Fix: lower the budget")
    await approve(run, stage, owner, allowance=8 * TOKEN)
    await refused("the spending limit allows 8. Fix: lower the budget")
    assert await run.ledger.free_balance(owner.public, run.mint) == 30 * TOKEN

    await approve(run, stage, owner)
    await escrow_lock.fn(run)
    await escrow_lock.fn(run)  # a repeat, with the allowance half spent, locks nothing more
    client = await run.ledger.client(owner.public, run.mint)
    assert client is not None and client.allowance_left == 10 * TOKEN
    assert await run.ledger.free_balance(owner.public, run.mint) == 20 * TOKEN
    job = await run.ledger.job(run.account)
    assert job is not None and (job.dispute_window, len(job.seats)) == (stage.min_window, 2)

    run.operator = owner
    await check_limits(run, 20 * TOKEN, await run.ledger.now())  # the owner needs nobody's approval
