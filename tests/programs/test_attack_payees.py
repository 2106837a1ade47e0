"""Attacks by and on payees: broken accounts, wrong bumps, bonds, forfeiture. Nobody's trouble delays anybody else."""

from __future__ import annotations

from typing import Any

import pytest
from solders.pubkey import Pubkey
from spl.token import instructions as spl

from tests.programs.chain import ASSOCIATED, TOKEN, TOKEN_2022, ZERO, associated, idl
from tests.programs.world import ARBITER, BUDGET, DAY, FEE, FUNDS, WINDOW, JobRef, World, fee


def matured(w: World, amounts: list[int], accounts: bool = True) -> JobRef:
    job = w.job([max(a, 1) for a in amounts])
    for i in range(len(amounts)):
        if accounts:
            w.paid_wallet(i)
    w.awarded(job, *amounts)
    w.chain.wait(2 * WINDOW)
    return job


def spoil(w: World, how: str, wallet: Pubkey) -> None:
    """Breaks the wallet's associated account; all but `missing` start from a good one."""
    address = associated(wallet, w.mint)[0]
    if how == "missing":
        w.token_accounts[w.mint].discard(address)
        return
    w.token_account(wallet)
    if how == "frozen":
        w.freeze(address)
    elif how == "closed":
        w.sent(spl.close_account(spl.CloseAccountParams(program_id=TOKEN, account=address, dest=wallet, owner=wallet)))
        w.token_accounts[w.mint].discard(address)
    elif how == "re-owned":
        params = spl.SetAuthorityParams(
            program_id=TOKEN, account=address, authority=spl.AuthorityType.ACCOUNT_OWNER, current_authority=wallet,
            new_authority=w.stranger,
        )  # fmt: skip
        w.sent(spl.set_authority(params))
    else:
        good = w.chain.data(address)
        forged = {
            "of another mint": (bytes(w.new_mint("another")) + good[32:], TOKEN),
            "uninitialised": (good[:108] + b"\0" + good[109:], TOKEN),
            "token-2022's": (good, TOKEN_2022),
            "of another length": (good + b"\0" * 5, TOKEN),
        }[how]
        w.token_accounts[w.mint].discard(address)
        w.chain.put(address, *forged)


BROKEN = ["missing", "frozen", "closed", "re-owned", "of another mint", "uninitialised", "token-2022's",
          "of another length"]  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_35_a_broken_account_in_the_middle_of_a_batch(world: World, how: str) -> None:
    w = world
    job = w.job([100, 100, 100])
    for i in (0, 2):
        w.paid_wallet(i)
    spoil(w, how, w.wallet(1))
    w.awarded(job, 10, 20, 30)
    w.chain.wait(2 * WINDOW)
    outcome = w.pay(job, 0, 1, 2)
    assert not outcome.error
    assert [e.name for e in outcome.events] == ["Paid", "PaySkipped", "Paid"]
    assert (w.tokens(w.wallet(0)), w.tokens(w.wallet(2))) == (10, 30)
    assert w.seat(job, 1).paid == 0
    elsewhere = w.other_account("elsewhere", w.wallet(1))
    w.ok("pay_to", 1, job=job, wallet=w.wallet(1), destination=elsewhere)
    assert w.tokens(elsewhere) == 20


def test_35_a_missing_account_is_made_by_anybody_and_paid(world: World) -> None:
    job = matured(world, [50], accounts=False)
    assert [e.name for e in world.pay(job, 0).events] == ["PaySkipped"]
    world.paid_wallet(0)
    assert [e.name for e in world.pay(job, 0).events] == ["Paid"]
    assert world.tokens(world.wallet(0)) == 50


def test_36_a_bump_that_is_not_canonical(world: World) -> None:
    """The address under another bump cannot exist, so it is skipped; the right address with a wrong bump is refused."""
    job = matured(world, [50])
    wallet = world.wallet(0)
    address, bump = associated(wallet, world.mint)
    for other in range(bump - 1, 0, -1):
        seeds = [bytes(wallet), bytes(TOKEN), bytes(world.mint), bytes([other])]
        try:
            fake = Pubkey.create_program_address(seeds, ASSOCIATED)
        except BaseException:
            continue
        assert [e.name for e in world.ok("pay", [(0, other)], job=job, extra=[fake]).events] == ["PaySkipped"]
        world.refused("WrongAddress", "pay", [(0, other)], job=job, extra=[address])
        break
    world.refused("WrongAddress", "pay", [(0, bump)], job=job, extra=[world.token_account(world.stranger)])
    assert world.seat(job).paid == 0


def test_36_an_account_that_is_not_the_associated_one(world: World) -> None:
    """Even one that the wallet owns: the payer must not choose where money goes."""
    job = matured(world, [50])
    own = world.other_account("own", world.wallet(0))
    _, bump = associated(world.wallet(0), world.mint)
    world.refused("WrongAddress", "pay", [(0, bump)], job=job, extra=[own])


def test_37_two_seats_of_one_wallet_in_one_batch(world: World) -> None:
    w = world
    job = w.job()
    wallet = bytes(w.paid_wallet(0))
    w.ok("assign_seats", 0, [(wallet, 100, 0), (wallet, 200, 0)], job=job)
    w.awarded(job, 30, 70)
    w.chain.wait(2 * WINDOW)
    outcome = w.pay(job, 0, 1)
    assert [(e.seat, e.award) for e in outcome.events] == [(0, 30), (1, 70)]
    assert w.tokens(w.wallet(0)) == 100


def test_37_one_seat_twice_in_one_batch_and_again(world: World) -> None:
    job = matured(world, [50])
    outcome = world.pay(job, 0, 0)
    assert [e.name for e in outcome.events] == ["Paid"]
    assert world.pay(job, 0).events == []
    assert world.tokens(world.wallet(0)) == 50
    own = associated(world.wallet(0), world.mint)[0]
    world.refused("NothingToPay", "pay_to", 0, job=job, wallet=world.wallet(0), destination=own)
    world.refused("BadSeatIndex", "pay", [(1, 255)], job=job, extra=[ZERO])


def test_38_pay_to_by_somebody_else_to_the_vault_or_to_a_broken_account(world: World) -> None:
    w = world
    job = matured(w, [50, 60])
    mine = associated(w.wallet(0), w.mint)[0]
    w.refused("Unauthorized", "pay_to", 0, job=job, wallet=w.wallet(1), destination=mine)
    w.refused("Unauthorized", "pay_to", 0, job=job, wallet=w.stranger, destination=w.token_account(w.stranger))
    w.refused("BadTokenAccount", "pay_to", 0, job=job, wallet=w.wallet(0), destination=job.vault)
    w.refused("BadTokenAccount", "pay_to", 0, job=job, wallet=w.wallet(0), destination=w.wallet(0))
    w.freeze(mine)
    w.refused("BadTokenAccount", "pay_to", 0, job=job, wallet=w.wallet(0), destination=mine)
    w.refused("BadSeatIndex", "pay_to", 2, job=job, wallet=w.wallet(0), destination=mine)
    friend = w.token_account(w.owner)
    w.ok("pay_to", 0, job=job, wallet=w.wallet(0), destination=friend)  # its own money, its own choice
    assert w.tokens(friend) == 50


def bonded(w: World, bond: int = 40) -> JobRef:
    job = w.job([100_000], bonds=[bond])
    wallet = w.paid_wallet(0, bond)
    w.ok("accept_seat", 0, bond, job=job, wallet=wallet, source=associated(wallet, w.mint)[0])
    return job


def test_39_claim_and_abandon_with_a_bond_that_is_slashed(world: World) -> None:
    job = bonded(world)
    world.ok("dispute", [0], job=job)
    world.ok("resolve", 0, 0, 40, job=job)
    world.chain.wait(DAY)
    assert world.pay(job, 0).events == []
    swept = world.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.closed) == (BUDGET + 40, True)
    assert world.tokens(world.client_vault) == FUNDS + 40


def test_39_claim_and_abandon_with_a_bond_that_comes_back(world: World) -> None:
    job = bonded(world)
    end = world.read(job).deadline + WINDOW
    world.chain.at(end - 1)
    assert world.pay(job, 0).events == []
    world.chain.at(end)
    (event,) = world.pay(job, 0).events
    assert (event.award, event.bond) == (0, 40)
    assert world.tokens(world.wallet(0)) == 40
    assert (world.seat(job).bond, world.seat(job).state) == (0, 1)


def test_39_claim_and_abandon_without_a_bond(world: World) -> None:
    """Costs the client the reserved cap until the end, and nothing else."""
    job = world.job([100_000])
    world.chain.wait(DAY)
    swept = world.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.closed) == (BUDGET, True)


def test_39_posting_a_bond(world: World) -> None:
    w = world
    job = w.job([100_000, 1], bonds=[40, 0])
    wallet, source = w.paid_wallet(0, 100), associated(w.wallet(0), w.mint)[0]
    post: dict[str, Any] = {"job": job, "wallet": wallet, "source": source}
    other: dict[str, Any] = post | {"wallet": w.wallet(1)}
    vault: dict[str, Any] = post | {"source": job.vault}
    w.refused("TermsChanged", "accept_seat", 0, 39, **post)
    w.refused("SeatAlreadyActive", "accept_seat", 1, 0, **other)
    w.refused("BadSeatIndex", "accept_seat", 2, 40, **post)
    w.refused("BadTokenAccount", "accept_seat", 0, 40, **vault)
    w.commit(job)
    w.refused("SeatNotActive", "award", 1, [(0, 1)], job=job)
    w.ok("accept_seat", 0, 40, **post)
    w.refused("SeatAlreadyActive", "accept_seat", 0, 40, **post)
    w.ok("award", 1, [(0, 1)], job=job)
    assert w.tokens(job.vault) == BUDGET + 40


def test_39_a_bond_under_an_open_appeal_waits(world: World) -> None:
    job = bonded(world)
    world.chain.at(world.read(job).deadline)
    until = world.ok("appeal", 0, 5, job=job, wallet=world.wallet(0)).events[-1].until
    world.chain.at(until - 1)
    assert world.pay(job, 0).events == []
    world.chain.at(until)
    assert [e.bond for e in world.pay(job, 0).events] == [40]


def test_40_forfeit_one_second_before_and_at_t_forfeit(world: World) -> None:
    """A frozen payee that never answers: its money and the rent wait 180 days, then the client has them."""
    w = world
    job = bonded(w)
    w.awarded(job, 60_000)
    w.freeze(associated(w.wallet(0), w.mint)[0])
    forfeit = w.read(job).deadline + 2 * WINDOW + ARBITER + idl().constants["UNCLAIMED"]
    w.chain.at(forfeit - 1)
    assert [e.name for e in w.pay(job, 0).events] == ["PaySkipped"]
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.forfeited, swept.closed, swept.to_client) == (False, False, BUDGET - 60_000 - fee(60_000, FEE))
    w.chain.at(forfeit)
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.forfeited, swept.closed, swept.fee) == (True, True, 0)
    assert w.tokens(w.client_vault) == FUNDS + 40


def test_40_until_somebody_closes_it_a_late_payee_is_still_paid(world: World) -> None:
    w = world
    job = matured(w, [60_000])
    w.chain.wait(2 * idl().constants["UNCLAIMED"])
    assert [e.award for e in w.pay(job, 0).events] == [60_000]
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.fee, swept.closed) == (fee(60_000, FEE), True)
