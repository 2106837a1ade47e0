"""Attacks on time: maturity, holds, appeals and rulings, one second before and at every edge."""

from __future__ import annotations

from typing import Any

import pytest

from tests.programs.chain import START, associated
from tests.programs.world import ARBITER, DAY, WINDOW, JobRef, World

assert START % WINDOW == 0  # so that tests can name edges


def paid(w: World, job: JobRef, seat: int = 0) -> int:
    outcome = w.pay(job, seat)
    assert not outcome.error, outcome.logs
    return w.tokens(w.wallet(seat))


def ready(w: World, caps: list[int], bonds: list[int] | None = None, **terms: Any) -> JobRef:
    job = w.job(caps, bonds=bonds or [], **terms)
    for i in range(len(caps)):
        w.paid_wallet(i)
    return job


@pytest.mark.parametrize("made", [0, 50, 99])
def test_26_the_last_second_before_and_the_first_of_maturity(world: World, made: int) -> None:
    """Wherever in a window an award is made, it matures when the second window after it starts."""
    job = ready(world, [100])
    world.chain.at(START + made)
    world.awarded(job, 60)
    world.chain.at(START + WINDOW - 1)
    assert paid(world, job) == 0
    world.chain.at(START + WINDOW)
    assert paid(world, job) == 0
    assert (world.seat(job).fresh, world.seat(job).aging) == (0, 60)
    world.chain.at(START + 2 * WINDOW - 1)
    assert paid(world, job) == 0
    world.chain.at(START + 2 * WINDOW)
    assert paid(world, job) == 60


def test_26_both_buckets_without_a_roll_in_between(world: World) -> None:
    job = ready(world, [100])
    world.awarded(job, 60)
    world.chain.at(START + 2 * WINDOW)
    assert paid(world, job) == 60


def test_27_a_later_award_does_not_delay_an_earlier_one(world: World) -> None:
    job = ready(world, [100])
    world.awarded(job, 10)
    world.chain.at(START + WINDOW)
    world.awarded(job, 30, round_=2)
    world.chain.at(START + 2 * WINDOW)
    world.awarded(job, 70, round_=3)
    assert paid(world, job) == 10
    world.chain.at(START + 3 * WINDOW)
    assert paid(world, job) == 30
    world.chain.at(START + 4 * WINDOW - 1)
    assert paid(world, job) == 30
    world.chain.at(START + 4 * WINDOW)
    assert paid(world, job) == 70


def test_28_a_dispute_keeps_matured_money_payable(world: World) -> None:
    job = ready(world, [100])
    world.awarded(job, 10)
    world.chain.at(START + 2 * WINDOW)
    world.awarded(job, 50, round_=2)
    world.ok("dispute", [0], job=job)
    assert paid(world, job) == 10
    world.chain.wait(ARBITER - 1)
    assert paid(world, job) == 10


def test_28_a_batch_award_passes_over_held_seats(world: World) -> None:
    job = ready(world, [100, 100, 100])
    world.awarded(job, 10, 10, 10)
    world.ok("dispute", [1], job=job)
    event = world.awarded(job, 20, 20, 20, round_=2).events[-1]
    assert (event.count, event.skipped, event.amount) == (2, 1, 20)
    assert [s.awarded for s in world.read(job).seats] == [20, 10, 20]


def test_29_silent_arbiter_on_a_dispute_upholds_the_award(world: World) -> None:
    job = ready(world, [100])
    world.awarded(job, 60)
    world.chain.wait(5)
    until = world.ok("dispute", [0], job=job).events[-1].until
    assert until == START + 5 + ARBITER
    world.chain.at(until - 1)
    assert paid(world, job) == 0
    world.chain.at(until)
    assert paid(world, job) == 60


def test_29_silent_arbiter_on_an_appeal_upholds_the_verifier(world: World) -> None:
    job = ready(world, [100_000])
    deadline = world.read(job).deadline
    world.chain.at(deadline)
    until = world.ok("appeal", 0, 50_000, job=job, wallet=world.wallet(0)).events[-1].until
    assert until == deadline + WINDOW + ARBITER
    world.chain.at(until - 1)
    swept = world.ok("close_job", job=job).events[-1]
    assert world.tokens(job.vault) == 102_500  # the cap and the fee on it stay
    assert not swept.closed
    world.chain.at(until)
    world.refused("NothingToResolve", "resolve", 0, 50_000, 0, job=job)
    world.chain.wait(DAY)
    assert world.ok("close_job", job=job).events[-1].to_client == 102_500


def test_30_a_dispute_can_be_repeated_only_while_something_is_immature(world: World) -> None:
    """W = 1,000 and L = 300: three objections to one award, and then it is paid all the same."""
    job = ready(world, [100], dispute_window=1000, deadline=world.chain.now + 9000)
    world.awarded(job, 60)
    made, disputes = world.chain.now, 0
    while True:
        outcome = world.call("dispute", [0], job=job)
        if outcome.error:
            break
        disputes += 1
        world.refused("NothingToDispute", "dispute", [0], job=job)
        world.chain.wait(ARBITER)
    assert outcome.error == "NothingToDispute"
    assert disputes == 7
    assert world.chain.now <= made + 2 * 1000 + ARBITER
    assert paid(world, job) == 60


@pytest.mark.parametrize("window", [WINDOW, 1000])
def test_31_dispute_in_the_last_second_of_immaturity_is_over_at_t_last(world: World, window: int) -> None:
    """L longer than W, and shorter: an award of the deadline's last second, disputed in its last immature one."""
    start = world.chain.now
    job = ready(world, [100], dispute_window=window, deadline=start + 2 * window + 1)
    world.commit(job)
    deadline = start + 2 * window + 1
    world.chain.at(deadline - 1)
    world.ok("award", 1, [(0, 60)], job=job)
    world.chain.at(deadline - 1 + 2 * window - 1)
    assert paid(world, job) == 0
    world.ok("dispute", [0], job=job)
    t_last = deadline + 2 * window + ARBITER
    world.chain.at(t_last)
    assert paid(world, job) == 60
    world.chain.wait(DAY)
    assert world.ok("close_job", job=job).events[-1].closed


def test_31_a_bond_can_be_disputed_until_the_second_before_d_plus_w(world: World) -> None:
    job = ready(world, [100], [40])
    world.mint_to(associated(world.wallet(0), world.mint)[0], 40)
    source = associated(world.wallet(0), world.mint)[0]
    world.ok("accept_seat", 0, 40, job=job, wallet=world.wallet(0), source=source)
    end = world.read(job).deadline + WINDOW
    world.chain.at(end)
    world.refused("NothingToDispute", "dispute", [0], job=job)
    world.chain.at(end - 1)
    world.ok("dispute", [0], job=job)
    world.chain.at(end)
    assert paid(world, job) == 0
    world.ok("resolve", 0, 0, 15, job=job)
    assert paid(world, job) == 25


def test_31_a_bond_not_posted_is_not_disputed(world: World) -> None:
    job = ready(world, [100], [40])
    world.refused("NothingToDispute", "dispute", [0], job=job)


def test_32_edges_of_the_time_for_appeals(world: World) -> None:
    job = ready(world, [100, 100, 100], [0, 0, 5])
    deadline = world.read(job).deadline

    def appeal(seat: int, amount: int = 50) -> str:
        return world.call("appeal", seat, amount, job=job, wallet=world.wallet(seat)).error

    world.chain.at(deadline - 1)
    assert appeal(0) == "AppealClosed"
    world.chain.at(deadline)
    assert appeal(2) == "SeatNotActive"
    assert appeal(0, 0) == "AwardOutOfRange"
    assert appeal(0, 101) == "AwardOutOfRange"
    assert appeal(0, 100) == ""
    assert appeal(0, 100) == "AlreadyAppealed"
    world.chain.at(deadline + WINDOW)
    assert appeal(1) == "AppealClosed"
    world.chain.at(deadline + WINDOW - 1)
    assert appeal(1) == ""
    world.refused("BadSeatIndex", "appeal", 3, 50, job=job, wallet=world.wallet(0))


def test_32_an_appeal_is_for_more_than_was_awarded_and_once_only(world: World) -> None:
    job = ready(world, [100])
    world.awarded(job, 60)
    world.chain.at(world.read(job).deadline)
    world.refused("AwardOutOfRange", "appeal", 0, 60, job=job, wallet=world.wallet(0))
    world.ok("appeal", 0, 61, job=job, wallet=world.wallet(0))
    world.ok("resolve", 0, 70, 0, job=job)
    world.refused("AlreadyAppealed", "appeal", 0, 80, job=job, wallet=world.wallet(0))
    world.refused("NothingToResolve", "resolve", 0, 80, 0, job=job)


def test_33_a_ruling_outside_every_bound(world: World) -> None:
    job = ready(world, [100], [40])
    world.mint_to(associated(world.wallet(0), world.mint)[0], 40)
    source = associated(world.wallet(0), world.mint)[0]
    world.ok("accept_seat", 0, 40, job=job, wallet=world.wallet(0), source=source)
    world.awarded(job, 20)
    world.chain.wait(2 * WINDOW)
    world.awarded(job, 60, round_=2)
    world.refused("NothingToResolve", "resolve", 0, 50, 0, job=job)
    world.ok("dispute", [0], job=job)
    world.refused("AwardOutOfRange", "resolve", 0, 19, 0, job=job)  # 20 matured
    world.refused("AwardOutOfRange", "resolve", 0, 61, 0, job=job)
    world.refused("SlashAboveBond", "resolve", 0, 60, 41, job=job)
    world.refused("BadSeatIndex", "resolve", 1, 60, 0, job=job)
    world.chain.wait(ARBITER)
    world.refused("NothingToResolve", "resolve", 0, 60, 0, job=job)
    world.chain.wait(-1)
    world.ok("resolve", 0, 20, 40, job=job)
    assert (world.seat(job).bond, world.seat(job).awarded, world.seat(job).cap) == (0, 20, 20)
    world.refused("NothingToResolve", "resolve", 0, 20, 0, job=job)


def test_33_a_ruling_on_an_appeal_goes_up_to_the_cap(world: World) -> None:
    job = ready(world, [100])
    world.awarded(job, 20)
    world.chain.at(world.read(job).deadline)
    world.ok("appeal", 0, 90, job=job, wallet=world.wallet(0))
    world.refused("AwardOutOfRange", "resolve", 0, 101, 0, job=job)
    world.refused("AwardOutOfRange", "resolve", 0, 19, 0, job=job)  # matured meanwhile
    world.refused("SlashAboveBond", "resolve", 0, 100, 1, job=job)
    world.ok("resolve", 0, 100, 0, job=job)
    assert paid(world, job) == 100


def test_34_an_appeal_does_not_shield_a_seat_from_dispute(world: World) -> None:
    job = ready(world, [100])
    deadline = world.read(job).deadline
    world.commit(job)
    world.chain.at(deadline - 1)
    world.ok("award", 1, [(0, 60)], job=job)
    world.chain.at(deadline)
    world.ok("appeal", 0, 90, job=job, wallet=world.wallet(0))
    world.ok("dispute", [0], job=job)
    world.chain.wait(1)
    world.ok("resolve", 0, 0, 0, job=job)
    assert (world.seat(job).awarded, world.seat(job).appeal, world.seat(job).cap) == (0, 2, 0)
    assert paid(world, job) == 0


def test_50_the_operator_finishes_before_the_award_lands(world: World) -> None:
    """It still lands: the deadline moves to one dispute window from now, and never back."""
    job = ready(world, [100])
    world.commit(job)
    assert world.ok("finish_job", job=job).events[-1].deadline == START + WINDOW
    world.ok("award", 1, [(0, 60)], job=job)
    world.chain.wait(WINDOW - 1)
    assert world.ok("finish_job", job=job).events[-1].deadline == START + WINDOW
    world.ok("award", 1, [(0, 70)], job=job)
    world.chain.wait(1)
    world.refused("JobEnded", "award", 1, [(0, 80)], job=job)
    world.refused("JobEnded", "finish_job", job=job)
