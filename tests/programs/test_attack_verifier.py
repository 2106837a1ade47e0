"""Attacks by a verifier that is hasty, inconsistent, silent or stolen."""

from __future__ import annotations

from tests.programs.world import BUDGET, DAY, FEE, FUNDS, WINDOW, World, fee


def test_21_award_without_a_commitment_in_an_earlier_slot(world: World) -> None:
    job = world.job([100])
    for round_ in (0, 1):
        world.refused("BadRound", "award", round_, [(0, 50)], job=job)
    for round_ in (0, 2):
        world.refused("BadRound", "commit_round", round_, b"\1" * 32, job=job)
    world.ok("commit_round", 1, b"\1" * 32, job=job)
    world.refused("CommitTooRecent", "award", 1, [(0, 50)], job=job)
    world.refused("BadRound", "commit_round", 1, b"\2" * 32, job=job)
    world.chain.wait(0)
    for round_ in (0, 2):
        world.refused("BadRound", "award", round_, [(0, 50)], job=job)
    world.ok("award", 1, [(0, 50)], job=job)
    world.ok("commit_round", 2, b"\2" * 32, job=job)
    world.chain.wait(0)
    world.refused("BadRound", "award", 1, [(0, 60)], job=job)
    read = world.read(job)
    assert (read.round, read.commit_root) == (2, b"\2" * 32)


def test_22_the_same_award_twice_lower_and_above_the_cap(world: World) -> None:
    job = world.job([100, 10], bonds=[0, 7])
    world.awarded(job, 60)
    event = world.awarded(job, 60, commit=False).events[-1]
    assert (event.count, event.amount) == (0, 0)
    world.refused("AwardBelowCurrent", "award", 1, [(0, 59)], job=job)
    world.refused("AwardAboveCap", "award", 1, [(0, 101)], job=job)
    world.refused("AwardBelowCurrent", "award", 1, [(0, 70), (0, 65)], job=job)
    world.refused("BadSeatIndex", "award", 1, [(2, 1)], job=job)
    world.refused("SeatNotActive", "award", 1, [(1, 1)], job=job)
    assert world.seat(job).awarded == 60


def test_22_award_and_commit_at_the_last_second_and_at_the_deadline(world: World) -> None:
    job = world.job([100])
    deadline = world.read(job).deadline
    world.commit(job)
    world.chain.at(deadline - 1)
    world.ok("award", 1, [(0, 10)], job=job)
    world.ok("commit_round", 2, b"\2" * 32, job=job)
    world.chain.at(deadline)
    world.refused("JobEnded", "award", 2, [(0, 20)], job=job)
    world.refused("JobEnded", "commit_round", 3, b"\2" * 32, job=job)


def test_23_award_after_a_ruling_struck_it(world: World) -> None:
    job = world.job([100])
    world.awarded(job, 80)
    world.ok("dispute", [0], job=job)
    world.ok("resolve", 0, 30, 0, job=job)
    assert (world.seat(job).cap, world.read(job).caps_total) == (30, 30)
    world.refused("AwardAboveCap", "award", 1, [(0, 80)], job=job)
    world.refused("AwardAboveCap", "award", 1, [(0, 31)], job=job)
    world.ok("raise_caps", [(0, 80)], job=job)  # the client changed its mind
    world.ok("award", 1, [(0, 80)], job=job)


def test_24_silent_verifier(world: World) -> None:
    """Work done, no award, no answer: the contributor appeals and is paid by ruling."""
    job = world.job([100_000])
    world.paid_wallet(0)
    world.chain.at(world.read(job).deadline)
    world.ok("appeal", 0, 90_000, job=job, wallet=world.wallet(0))
    world.ok("resolve", 0, 90_000, 0, job=job)
    assert not world.pay(job, 0).error  # at once: a ruling ends the wait
    assert world.tokens(world.wallet(0)) == 90_000
    world.chain.wait(DAY)
    assert world.ok("close_job", job=job).events[-1].closed


def test_25_stolen_verifier(world: World) -> None:
    """It awards everything to accomplices in 256 seats; the client objects in bulk, and the arbiter strikes it all."""
    w = world
    job = w.job([3_000] * 256)
    w.commit(job)
    for first in range(0, 256, 87):
        w.ok("award", 1, [(i, 3_000) for i in range(first, min(first + 87, 256))], job=job)
    for first in range(0, 256, 86):
        events = w.ok("dispute", list(range(first, min(first + 86, 256))), job=job).events
        assert {e.amount for e in events} == {3_000}
    w.refused("NothingToDispute", "dispute", list(range(80)), job=job)
    w.ok("finish_job", job=job)
    for seat in range(256):
        w.ok("resolve", seat, 0, 0, job=job)
    w.chain.wait(DAY)
    for first in range(0, 256, 20):
        assert not w.pay(job, *range(first, min(first + 20, 256))).error
    swept = w.ok("close_job", job=job).events[-1]
    assert (swept.to_client, swept.fee, swept.closed) == (BUDGET, 0, True)
    assert w.tokens(w.client_vault) == FUNDS


def test_25_stolen_verifier_and_a_client_that_sleeps(world: World) -> None:
    """Without an objection the verifier's word stands: that is the rule, and it stops at the caps."""
    job = world.job([500_000])
    world.paid_wallet(0)
    world.awarded(job, 500_000)
    world.chain.wait(2 * WINDOW)
    assert not world.pay(job, 0).error
    assert world.tokens(world.wallet(0)) == 500_000
    world.chain.wait(DAY)
    assert world.ok("close_job", job=job).events[-1].to_client == BUDGET - 500_000 - fee(500_000, FEE)
