"""Who gets a token account paid for: wallets with verified work, once, whatever fails in between."""

from __future__ import annotations

from solders.keypair import Keypair

from cloudlinkup.crypto.identity import Signer
from tasks.context import Run
from tasks.escrow import open_accounts
from tasks.release import release
from tasks.verify import _commit
from tests.conftest import Platform
from tests.tasks.conftest import STEP, Rig
from tests.tasks.test_ending import job, lock

__all__ = ["job"]


def kinds(run: Run) -> list[str]:
    return [event.kind for event in run.store.events(run.request_id)]


async def accounts(run: Run) -> list[bool]:
    from solders.pubkey import Pubkey

    wallets = [Pubkey.from_string(seat.wallet) for seat in run.state.seats]
    return [await run.ledger.has_token_account(wallet, run.mint) for wallet in wallets]


async def test_only_verified_work_brings_a_token_account(job: Run, platform: Platform, rig: Rig):
    """A wallet that merely took a seat gets nothing, or making wallets would be a business."""
    await lock(job, platform, 3_600)
    assert await accounts(job) == [False, False]
    await rig.begin()
    assert job.round is not None
    worker, idler = job.round.entries
    # what `train` and `verify` leave behind of a round in which one delivered
    worker.outcome, worker.segments, worker.root, worker.upload = "committed", 2, "ab" * 32, "cd" * 32
    idler.outcome, job.round.stage = "lost", "trained"
    await job.ledger.raise_caps(job.operator, job.account, {0: 2 * STEP * job.state.price})
    await _commit(job, job.round)
    worker.outcome, job.round.stage = "accepted", "verified"
    await release.fn(job)
    assert job.round.stage == "awarded"
    assert await accounts(job) == [True, False]
    found = await job.ledger.job(job.account)
    assert found is not None
    assert [seat.awarded for seat in found.seats] == [2 * STEP * job.state.price, 0]
    assert job.store.sponsored(job.state.seats[0].wallet)
    assert not job.store.sponsored(job.state.seats[1].wallet)


async def test_a_sponsor_without_money_stops_nothing_and_is_asked_again(job: Run, platform: Platform):
    await lock(job, platform, 3_600)
    wallet = job.state.seats[0].wallet
    rich, job.sponsor = job.sponsor, Signer(Keypair())
    await open_accounts(job, [wallet])
    assert "unpayable" in kinds(job)
    assert not job.store.sponsored(wallet)
    job.sponsor = rich
    await open_accounts(job, [wallet, wallet])
    assert (await accounts(job))[0]
    assert job.store.sponsored(wallet)


async def test_an_account_is_paid_for_once(job: Run, platform: Platform):
    await lock(job, platform, 3_600)
    wallet = job.state.seats[0].wallet
    job.store.mark_sponsored(wallet)  # it had one, and closed it
    await open_accounts(job, [wallet])
    assert await accounts(job) == [False, False]
    assert kinds(job).count("unpayable") == 1
