"""The money rules against a plain history of awards, and against the real program."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from cloudlinkup.errors import ProgramError
from cloudlinkup.ledger import money
from cloudlinkup.ledger.accounts import OPEN_WINDOW, UNCLAIMED, Job, Seat

if TYPE_CHECKING:
    from tests.ledger.conftest import Play

NOBODY = Pubkey.default()
U64 = 2**64 - 1


def a_seat(**changes: int) -> Seat:
    zero = {"cap": 0, "awarded": 0, "fresh": 0, "aging": 0, "paid": 0, "bond": 0, "disputed_at": 0, "epoch": 0}
    return Seat(wallet=NOBODY, **{**zero, "state": 1, "appeal": 0, **changes})


def a_job(*seats: Seat, window: int = 60, arbiter: int = 120, **changes: int) -> Job:
    opened = 1_700_000_000
    numbers: dict[str, Any] = {"budget": 10**12, "caps_total": 0, "paid_total": 0, "fee_paid": 0, "opened_at": opened}
    numbers |= {"deadline": opened + 3_600, "commit_slot": 0, "dispute_window": window, "arbiter_window": arbiter}
    numbers |= {"round": 0, "fee_bps": 100, "bump": 255}
    keys: dict[str, Any] = {"client": NOBODY, "mint": NOBODY, "vault": NOBODY, "verifier": NOBODY, "rent_payer": NOBODY}
    job_id = (opened * 1_000).to_bytes(6, "big") + bytes(10)
    texts: dict[str, Any] = {"spec_hash": bytes(32), "commit_root": bytes(32), "job_id": job_id}
    return Job(**keys, **texts, **{**numbers, **changes}, seats=seats)


@given(st.integers(0, U64), st.integers(0, 1_000))
def test_fee_is_the_exact_floor(amount: int, bps: int) -> None:
    assert money.fee(amount, bps) == amount * bps // 10_000


@given(st.integers(0, U64), st.integers(0, 1_000))
def test_most_for_caps_is_the_most(budget: int, bps: int) -> None:
    most = money.most_for_caps(budget, bps)
    assert most + money.fee(most, bps) <= budget < most + 1 + money.fee(most + 1, bps)


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(0, 250), st.integers(1, 1_000)), max_size=12),
    st.integers(0, 400),
)
def test_an_award_matures_after_one_to_two_windows(window: int, steps: list[tuple[int, int]], later: int) -> None:
    """Each award is remembered with its time; two buckets must say the same."""
    job, now, history = a_job(window=window), 1_700_000_000, []
    seat = a_seat(epoch=now // window)
    for wait, amount in steps:
        now += wait
        seat = money.roll(seat, job, now)
        seat = replace(seat, fresh=seat.fresh + amount, awarded=seat.awarded + amount)
        history.append((now, amount))
    now += later
    expected = sum(amount for at, amount in history if now // window >= at // window + 2)
    assert money.matured(seat, job, now) == expected
    assert all(now - at > window for at, _ in history if now // window >= at // window + 2)
    assert expected >= sum(amount for at, amount in history if now - at >= 2 * window)
    due = money.next_maturity(replace(job, seats=(seat,)), now)
    if expected < seat.awarded:
        assert due is not None
        assert money.matured(seat, job, due - 1) == expected < money.matured(seat, job, due)
    else:
        assert due is None


def test_a_dispute_holds_and_then_lapses() -> None:
    now = 1_700_000_000
    seat = a_seat(awarded=300, fresh=100, aging=50, cap=300, disputed_at=now, epoch=now // 60)
    job = a_job(seat)
    assert money.on_hold(seat, job, now + 119) and not money.on_hold(seat, job, now + 120)
    assert money.payable(job, now + 119) == {0: 150}, "what had matured stays payable"
    assert money.payable(job, now + 120) == {0: 300}, "silence upholds the award"
    assert money.next_maturity(job, now + 119) == now + 120


def test_bonds_wait_for_the_end_and_for_appeals() -> None:
    seat = a_seat(bond=70, cap=500, awarded=200)
    job = a_job(seat, replace(seat, appeal=1), replace(seat, state=0))
    end = job.deadline + job.dispute_window
    assert money.end_time(job) == end and money.end_time(a_job()) == job.deadline
    assert money.payable(job, end - 1) == {0: 200, 1: 200, 2: 200}
    assert money.payable(job, end) == {0: 270, 1: 200, 2: 200}
    assert money.owed(job, end) == 200 + 500 + 200, "an open appeal reserves the cap"
    assert money.payable(job, end + 120) == {0: 270, 1: 270, 2: 200}
    assert money.owed(job, end + 120) == 600
    assert money.owed(job, money.last_time(job) + UNCLAIMED) == 0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**4)), max_size=6))
def test_a_sweep_conserves_what_the_vault_holds(amounts: list[tuple[int, int, int]]) -> None:
    seats = tuple(a_seat(cap=a + b, awarded=a + b, paid=b, bond=c) for a, b, c in amounts)
    paid, caps = sum(one.paid for one in seats), sum(one.cap for one in seats)
    budget = caps + money.fee(caps, 100) + 500
    job = a_job(*seats, paid_total=paid, caps_total=caps, budget=budget)
    vault = budget - paid + sum(one.bond for one in seats)
    now = money.end_time(job)
    end = money.sweep(job, vault, now)
    assert end.to_client >= 500
    assert vault == end.fee_due + end.to_client + end.owed + end.bonds + end.reserve
    assert money.sweep(job, vault, now, treasury_usable=False).to_client == end.to_client + end.fee_due
    day = job.id_time + OPEN_WINDOW
    assert money.sweep(job, vault, day).erases == (end.owed == 0 and end.bonds == 0)
    last = money.sweep(job, vault, money.forfeit_time(job))
    assert last.erases and last.to_client == vault - last.fee_due


async def test_the_rules_agree_with_the_program(play: Play) -> None:
    """A random history on the real program: what `payable` foretells is what `pay` then sends."""
    ledger, stage = play.ledger, play.stage
    operator, verifier, cranker = play.key("operator"), play.key("verifier"), play.key("cranker")
    random_ = random.Random(5)
    job = await play.open(lasts=7_200)
    wallets = await play.wallets(4)
    await ledger.assign_seats(operator, operator, job, [(one.public, 100_000, 0) for one in wallets])
    await ledger.commit_round(verifier, job, 1, b"\x01" * 32)
    seen = {"paid": 0, "disputed": 0}
    for _ in range(40):
        stage.chain.warp(random_.choice((0, 0, 7, 31, 61)))
        found = await ledger.job(job)
        assert found is not None
        seat = random_.randrange(4)
        what = random_.choice(("award", "award", "award", "pay", "dispute"))
        if what == "award":
            await ledger.award(verifier, job, 1, {seat: found.seats[seat].awarded + random_.randrange(1, 500)})
        elif what == "dispute":
            try:
                seen["disputed"] += len(await ledger.dispute(operator, job, [seat]))
            except ProgramError as error:
                assert error.name == "NothingToDispute"
                rolled = money.roll(found.seats[seat], found, await ledger.now())
                assert rolled.fresh + rolled.aging == 0
        else:
            due = money.payable(found, await ledger.now())
            before = [await play.balance(one) for one in wallets]
            sent = await ledger.pay(cranker, job)
            after = [await play.balance(one) for one in wallets]
            assert bool(sent) == bool(due)
            gained = {i: b - a for i, (a, b) in enumerate(zip(before, after, strict=True)) if b > a}
            assert gained == due
            seen["paid"] += len(due)
    assert seen["paid"] > 5 and seen["disputed"] > 3, seen
