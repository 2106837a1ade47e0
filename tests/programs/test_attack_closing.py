"""Attacks on closing and on the platform's keys: dust, broken treasuries, early and repeated closing, large jobs."""

from __future__ import annotations

from typing import Any

import pytest
from solders.message import Message
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata
from spl.token import instructions as spl

from tests.programs.chain import ASSOCIATED, TOKEN, ZERO, associated
from tests.programs.world import ARBITER, BUDGET, CONFIG, DAY, FEE, FUNDS, WINDOW, JobRef, World, fee


def worked(w: World, amount: int = 400_000, **terms: Any) -> JobRef:
    """A job whose only seat was paid `amount`, a day on."""
    job = w.job([amount], **terms)
    w.paid_wallet(0)
    w.awarded(job, amount)
    w.chain.wait(DAY)
    assert not w.pay(job, 0).error
    return job


def test_41_dust_sent_to_every_vault(world: World) -> None:
    w = world
    job = worked(w)
    w.gift(job.vault, 1)
    w.mint_to(w.client_vault, 1)
    w.chain.svm.airdrop(job.vault, 12_345)
    w.chain.svm.airdrop(job.address, 12_345)
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.closed) == (BUDGET - 400_000 - fee(400_000, FEE) + 1, True)


def test_41_dust_in_every_step(world: World) -> None:
    w = world
    job = w.job([100_000])
    w.paid_wallet(0)
    for _ in range(3):
        w.gift(job.vault, 7)
        w.check()
    w.awarded(job, 50_000)
    w.gift(job.vault, 7)
    w.chain.wait(DAY)
    assert w.ok("close_job", job=job).events[-1].to_client == BUDGET - 50_000 - fee(50_000, FEE) + 28
    w.gift(job.vault, 7)
    assert not w.pay(job, 0).error
    assert w.ok("close_job", job=job).events[-1].to_client == 7
    assert not w.is_open(job)


@pytest.mark.parametrize("how", ["frozen", "missing", "re-owned"])
def test_42_a_treasury_that_cannot_take_its_fee(world: World, how: str) -> None:
    """The fee is waived: a broken treasury stops nobody."""
    w = world
    account = associated(w.treasury, w.mint)[0]
    if how == "frozen":
        w.freeze(account)
    elif how == "missing":
        close = spl.CloseAccountParams(program_id=TOKEN, account=account, dest=w.owner, owner=w.treasury)
        w.sent(spl.close_account(close))
        w.token_accounts[w.mint].discard(account)
    else:
        params = spl.SetAuthorityParams(
            program_id=TOKEN, account=account, authority=spl.AuthorityType.ACCOUNT_OWNER,
            current_authority=w.treasury, new_authority=w.stranger,
        )  # fmt: skip
        w.sent(spl.set_authority(params))
    swept = w.ok("close_job", job=worked(w)).events[-1]
    assert (swept.fee, swept.waived, swept.to_client) == (0, fee(400_000, FEE), BUDGET - 400_000)
    assert swept.closed


def test_42_a_wrong_treasury_account_cannot_dodge_the_fee(world: World) -> None:
    w = world
    job = worked(w)
    w.refused("WrongAddress", "close_job", job=job, treasury_token=w.token_account(w.stranger))
    w.refused("WrongAddress", "close_job", job=job, treasury_token=w.other_account("treasury's other", w.treasury))
    for other in range(associated(w.treasury, w.mint)[1] - 1, 0, -1):
        seeds = [bytes(w.treasury), bytes(TOKEN), bytes(w.mint), bytes([other])]
        try:
            fake = Pubkey.create_program_address(seeds, ASSOCIATED)
        except BaseException:
            continue
        w.refused("WrongAddress", "close_job", job=job, treasury_token=fake)
    assert w.ok("close_job", job=job).events[-1].fee == fee(400_000, FEE)


def test_43_client_vault_frozen_then_thawed(world: World) -> None:
    """Contributors and treasury are paid meanwhile; the refund waits for the issuer, and only it."""
    w = world
    job = worked(w)
    w.freeze(w.client_vault)
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.fee, swept.closed) == (0, fee(400_000, FEE), False)
    assert w.ok("close_job", job=job).events[-1].to_client == 0
    w.thaw(w.client_vault)
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.fee, swept.closed) == (BUDGET - 400_000 - fee(400_000, FEE), 0, True)


def test_44_close_one_second_before_and_at_t_end(world: World) -> None:
    w = world
    job = w.job([100_000])
    end = w.read(job).deadline + WINDOW
    w.chain.at(end - 1)
    w.refused("JobNotEnded", "close_job", job=job)
    w.chain.at(end)
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.closed) == (BUDGET, False)


def test_44_without_seats_a_job_ends_at_its_deadline(world: World) -> None:
    w = world
    job = w.job()
    w.chain.at(w.read(job).deadline - 1)
    w.refused("JobNotEnded", "close_job", job=job)
    w.chain.at(w.read(job).deadline)
    assert w.ok("close_job", job=job).events[-1].to_client == BUDGET


def test_44_an_open_appeal_and_an_unpaid_seat_keep_their_money(world: World) -> None:
    w = world
    job = w.job([100_000, 200_000])
    w.paid_wallet(0)
    w.paid_wallet(1)
    w.awarded(job, 30_000, 0)
    w.chain.at(w.read(job).deadline)
    w.ok("appeal", 1, 150_000, job=job, wallet=w.wallet(1))
    w.chain.wait(WINDOW)
    swept = w.ok("close_job", job=job).events[-1]
    kept = 30_000 + 200_000 + fee(230_000, FEE)
    assert swept.to_client == BUDGET - kept
    assert w.tokens(job.vault) == kept
    assert w.ok("close_job", job=job).events[-1].to_client == 0  # again: nothing more
    w.ok("resolve", 1, 150_000, 0, job=job)
    assert w.ok("close_job", job=job).events[-1].to_client == kept - 180_000 - fee(180_000, FEE)
    assert not w.pay(job, 0, 1).error
    w.chain.wait(DAY)
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.fee, swept.closed) == (0, fee(180_000, FEE), True)


@pytest.mark.parametrize("seats", [256, 1024])
def test_45_a_large_job_through_its_whole_life(world: World, seats: int) -> None:
    w = world
    job = w.job(deadline=w.chain.now + 5000)
    new = [(bytes(w.wallet(i)), 900, 0) for i in range(seats)]
    for first in range(0, seats, 16):
        w.ok("assign_seats", first, new[first : first + 16], job=job)
    if seats == 1024:
        w.refused("TooManySeats", "assign_seats", seats, new[:1], job=job)
        assert len(w.chain.data(job.address)) == 98_632
    payees = [i for i in range(seats) if i % 8 == 0]  # the others work without being paid: fewer accounts to make
    for i in payees:
        w.paid_wallet(i)
    w.commit(job)
    for first in range(0, len(payees), 87):
        w.ok("award", 1, [(i, 900) for i in payees[first : first + 87]], job=job)
    w.ok("finish_job", job=job)
    w.chain.wait(DAY)
    for first in range(0, len(payees), 20):
        assert not w.pay(job, *payees[first : first + 20]).error
    assert {w.tokens(w.wallet(i)) for i in payees} == {900}
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.closed) == (BUDGET - 900 * len(payees) - fee(900 * len(payees), FEE), True)


def test_46_rent_returns_to_the_one_who_opened_the_job(world: World) -> None:
    w = world
    first, second = w.person("rent payer"), w.person("another payer")
    job = w.ref(w.new_id())
    before = w.chain.lamports(first)
    w.ok("open_job", *w.terms(job.id), job=job, payer=first)
    w.jobs.append(job)
    w.token_accounts[w.mint].add(job.vault)
    w.ok("assign_seats", 0, [(bytes(w.wallet(0)), 5, 0)], job=job, payer=second)
    rent = w.chain.lamports(job.address) + w.chain.lamports(job.vault)
    spent = before - w.chain.lamports(first)
    assert rent > spent
    w.chain.wait(DAY)
    w.refused("WrongAddress", "close_job", job=job, rent_payer=second)
    assert w.ok("close_job", job=job, rent_payer=first).events[-1].closed
    assert w.chain.lamports(first) == before - spent + rent
    assert w.chain.account(job.address) is None
    assert w.chain.account(job.vault) is None


def test_47_revival_in_the_same_transaction(world: World) -> None:
    """Lamports sent back to the erased address make an empty account of the System program, never a job."""
    w = world
    job = worked(w)
    fund = transfer(TransferParams(from_pubkey=w.stranger, to_pubkey=job.address, lamports=10_000_000))
    reopen = w.ix("open_job", *w.terms(job.id), job=job)
    assert w.send(w.ix("close_job", job=job), fund, reopen).error == "JobIdTime"
    assert w.is_open(job)
    assert not w.send(w.ix("close_job", job=job), fund).error
    found = w.chain.account(job.address)
    assert found is not None
    assert (bytes(found.data), found.owner) == (b"", ZERO)
    w.refused("WrongOwner", "finish_job", job=job)
    w.refused("WrongOwner", "close_job", job=job)
    w.jobs.remove(job)


def test_48_the_hand_over_of_the_admin_key(world: World) -> None:
    w = world
    heir, thief = w.person("heir"), w.person("thief")
    named = (None, None, None, None, None, heir)
    w.refused("Unauthorized", "accept_admin", new_admin=w.stranger)  # nobody is named
    w.ok("set_config", *named)
    w.refused("Unauthorized", "accept_admin", new_admin=thief)
    w.refused("Unauthorized", "set_config", *named, admin=heir)  # not yet
    w.ok("set_config", None, None, None, None, None, ZERO)  # cancelled
    w.refused("Unauthorized", "accept_admin", new_admin=heir)
    w.ok("set_config", *named)
    w.ok("accept_admin", new_admin=heir)
    w.refused("Unauthorized", "accept_admin", new_admin=heir)  # twice
    w.refused("Unauthorized", "set_config", *named)  # the old one is out
    w.ok("set_config", None, None, 0, None, None, None, admin=heir)
    assert (w.read_config().admin, w.read_config().pending_admin, w.read_config().fee_bps) == (heir, ZERO, 0)


def test_48_nobody_acts_as_the_zero_key() -> None:
    """It stands for "no operator" and "no successor". Here even its signature is forged: verification is off."""
    w = World().open()
    w.chain.svm.with_sigverify(False)
    job = w.job([100])
    w.ok("set_operator", ZERO, ZERO, 1, 1, w.chain.now + DAY, w.read_client().seq)
    calls = (
        (w.ix("accept_admin", accounts={"new_admin": ZERO}), "nobody is named"),
        (w.ix("raise_caps", [(0, 200)], job=job, accounts={"authority": ZERO}), "no operator"),
    )
    for call, why in calls:
        message = Message.new_with_blockhash([call], w.chain.payer.pubkey(), w.chain.svm.latest_blockhash())
        unsigned = [Signature.default()] * message.header.num_required_signatures
        result = w.chain.svm.send_transaction(Transaction.populate(message, unsigned))
        assert isinstance(result, FailedTransactionMetadata), why
        assert w.chain.error(result.err()) == "Unauthorized", why
    w.check()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((None, None, 1001, None, None, None), "FeeTooHigh"),
        ((None, None, None, 0, None, None), "BadWindow"),
        ((None, None, None, ARBITER + 1, None, None), "BadWindow"),
        ((None, None, None, None, 9, None), "BadWindow"),
        ((None, None, None, None, 2_592_001, None), "BadWindow"),
        ((None, None, 1000, 2_592_000, 2_592_000, None), ""),
    ],
)
def test_48_bounds_hold_for_the_result(world: World, args: tuple[object, ...], error: str) -> None:
    assert world.call("set_config", *args).error == error


def test_49_a_config_change_leaves_open_jobs_alone(world: World) -> None:
    w = world
    job = worked(w)
    w.ok("set_config", w.stranger, None, 1000, 20, 5000, None)
    read = w.read(job)
    assert (read.fee_bps, read.dispute_window, read.arbiter_window) == (FEE, WINDOW, ARBITER)
    assert w.ok("close_job", job=job).events[-1].fee == fee(400_000, FEE)


def test_49_arbiter_and_treasury_are_read_when_they_are_used(world: World) -> None:
    """A lost key can be replaced, for open jobs too."""
    w = world
    job = w.job([100_000])
    w.paid_wallet(0)
    w.awarded(job, 50_000)
    w.ok("dispute", [0], job=job)
    judge, purse = w.person("new arbiter"), w.person("new treasury")
    w.ok("set_config", judge, purse, None, None, None, None)
    w.refused("Unauthorized", "resolve", 0, 10_000, 0, job=job)
    w.ok("resolve", 0, 10_000, 0, job=job, arbiter=judge)
    assert not w.pay(job, 0).error
    w.chain.wait(DAY)
    w.refused("WrongAddress", "close_job", job=job)
    new = w.token_account(purse)
    assert w.ok("close_job", job=job, treasury_token=new).events[-1].fee == fee(10_000, FEE)
    assert w.tokens(new) == fee(10_000, FEE)


def test_44_a_stranger_closes_for_free_and_gains_nothing(world: World) -> None:
    w = world
    job = worked(w)
    before = w.chain.lamports(w.stranger)
    w.ok("close_job", job=job)
    assert w.chain.lamports(w.stranger) == before
    assert w.tokens(w.client_vault) == FUNDS - 400_000 - fee(400_000, FEE)
    assert w.chain.account(CONFIG) is not None
