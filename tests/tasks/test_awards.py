"""Awards on a real chain: no ruling is undone by a later award, no verified work is lost to a dispute or a crash."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cloudlinkup.ledger.accounts import Seat as ChainSeat
from cloudlinkup.ledger.escrow import Ledger
from tasks.awards import award_late, carried, owing, read_job, send_awards
from tasks.context import Run
from tasks.release import release
from tasks.state import Award, JobState
from tasks.train import _raise_caps
from tasks.verify import _commit
from tests.conftest import Platform
from tests.tasks.conftest import STEP, Rig
from tests.tasks.test_ending import PLAN, lock
from tests.tasks.test_sweep import ARBITER, WINDOW, ledger, stage

__all__ = ["ledger", "stage"]
PAY = 7 * STEP  # base units a segment


@pytest.fixture
async def job(rig: Rig, stage: Platform, ledger: Ledger) -> AsyncIterator[Run]:
    """The rig's run with a job of two seats on a chain whose clock the tests move."""
    run, keys = rig.run, stage.keys
    run.ledger, run.mint, run.owner = ledger, stage.mint, keys["owner"].public
    run.operator, run.verifier, run.sponsor, run.cranker = (
        keys[one] for one in ("operator", "verifier", "sponsor", "cranker")
    )
    run.settings = replace(run.settings, mint=str(stage.mint), owner=str(keys["owner"].public))
    run.state.plan, run.state.total_steps = json.loads(PLAN.model_dump_json()), PLAN.total_steps
    await lock(run, stage, 36_000)
    yield run


async def verified(rig: Rig, number: int, segments: dict[int, int]) -> None:
    """What `train` and `verify` leave of a round in which these seats delivered so many segments."""
    run = rig.run
    await rig.begin(number=number)
    round_ = run.round
    assert round_ is not None
    await _raise_caps(run, round_.entries)
    for entry in round_.entries:
        if entry.seat in segments:
            entry.outcome, entry.segments = "committed", segments[entry.seat]
            entry.root, entry.upload = "ab" * 32, "cd" * 32
        else:
            entry.outcome = "lost"
    round_.stage = "trained"
    await _commit(run, round_)
    for entry in round_.entries:
        entry.outcome = "accepted" if entry.outcome == "committed" else entry.outcome
    round_.stage = "verified"
    run.save_round()


async def released(rig: Rig, number: int, segments: dict[int, int]) -> list[int]:
    """A whole round; what the chain has awarded afterwards."""
    await verified(rig, number, segments)
    await release.fn(rig.run)
    rig.run.state.round, rig.run.round = number, None
    return await awarded(rig.run)


async def awarded(run: Run) -> list[int]:
    return [seat.awarded for seat in (await read_job(run)).seats]


async def rule(run: Run, stage: Platform, seat: int, units: int) -> None:
    await run.ledger.dispute(run.operator, run.account, [seat])
    await run.ledger.resolve(stage.keys["arbiter"], run.account, seat, units)


async def test_a_later_award_does_not_undo_a_ruling(job: Run, rig: Rig, stage: Platform):
    assert await released(rig, 1, {0: 3, 1: 3}) == [3 * PAY, 3 * PAY]
    await rule(job, stage, 0, PAY)
    assert await released(rig, 2, {0: 2, 1: 2}) == [PAY + 2 * PAY, 5 * PAY]
    assert await released(rig, 3, {0: 1}) == [4 * PAY, 5 * PAY]
    found = await read_job(job)
    assert found.seats[0].cap < found.seats[1].cap, "no more is set aside than the ruling left"
    assert not job.state.awards


async def test_a_ruling_after_the_caps_were_raised_is_kept_and_the_rounds_work_is_paid(
    job: Run, rig: Rig, stage: Platform
):
    assert await released(rig, 1, {0: 3, 1: 3}) == [3 * PAY, 3 * PAY]
    await verified(rig, 2, {0: 3, 1: 3})
    await rule(job, stage, 0, 0)  # its cap falls below what this round earned
    await release.fn(job)
    assert await awarded(job) == [3 * PAY, 6 * PAY]


async def test_a_seat_under_dispute_is_awarded_afterwards(job: Run, rig: Rig, stage: Platform):
    assert await released(rig, 1, {0: 3, 1: 3}) == [3 * PAY, 3 * PAY]
    await job.ledger.dispute(job.operator, job.account, [0])
    assert await released(rig, 2, {0: 2, 1: 2}) == [3 * PAY, 5 * PAY], "nothing is awarded to a seat on hold"
    assert carried(job, 0) == 2 * PAY
    assert await released(rig, 3, {1: 1}) == [3 * PAY, 6 * PAY]
    assert carried(job, 0) == 2 * PAY
    stage.chain.warp(ARBITER)  # a silent arbiter
    assert await released(rig, 4, {0: 1, 1: 1}) == [6 * PAY, 7 * PAY]
    assert not job.state.awards


async def test_what_a_dispute_held_back_follows_its_ruling(job: Run, rig: Rig, stage: Platform):
    assert await released(rig, 1, {0: 3, 1: 3}) == [3 * PAY, 3 * PAY]
    await job.ledger.dispute(job.operator, job.account, [0])
    await released(rig, 2, {0: 2})
    await job.ledger.resolve(stage.keys["arbiter"], job.account, 0, PAY)
    await award_late(job)
    assert await awarded(job) == [PAY + 2 * PAY, 3 * PAY], "the ruling was about the first round only"
    await award_late(job)
    assert await awarded(job) == [3 * PAY, 3 * PAY]


async def test_a_run_that_died_after_sending_awards_once(job: Run, rig: Rig):
    await released(rig, 1, {0: 3, 1: 3})
    await verified(rig, 2, {0: 2, 1: 1})
    real, died = job.ledger.award, ConnectionError("the process died")

    async def dies(*args: object, **options: object) -> list[str]:
        await real(*args, **options)  # type: ignore[arg-type]
        raise died

    job.ledger.award = dies  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await release.fn(job)
    assert await awarded(job) == [5 * PAY, 4 * PAY]
    del job.ledger.award
    stored = job.store.state(job.request_id)
    assert stored is not None
    job.state = JobState.model_validate_json(stored)  # what the next run finds
    assert job.round is not None and job.round.stage == "verified"
    await release.fn(job)
    assert await awarded(job) == [5 * PAY, 4 * PAY]
    assert not job.state.awards and job.round.stage == "awarded"


async def test_a_ruling_on_what_a_dead_run_had_sent_stands(job: Run, rig: Rig, stage: Platform):
    await verified(rig, 1, {0: 3, 1: 3})
    await release.fn(job)
    sent = {0: Award(base=0, target=3 * PAY, cap=3 * PAY, sent=True)}  # as stored by a run that died here
    await rule(job, stage, 0, PAY)
    job.state.awards = sent
    await send_awards(job)
    assert await awarded(job) == [PAY, 3 * PAY]
    assert [event.kind for event in job.store.events(job.request_id)].count("ruled") == 1


async def test_the_deadline_ends_late_awards_without_noise(job: Run, rig: Rig, stage: Platform):
    await released(rig, 1, {0: 3})
    await job.ledger.dispute(job.operator, job.account, [0])
    await released(rig, 2, {0: 1})
    stage.chain.warp(36_000 + WINDOW)
    await award_late(job)
    assert await awarded(job) == [3 * PAY, 0] and carried(job, 0) == PAY


def seat(awarded_: int, cap: int) -> ChainSeat:
    from solders.pubkey import Pubkey

    return ChainSeat(Pubkey.default(), cap, awarded_, 0, 0, 0, 0, 0, 0, 1, 0)


def test_what_is_owing_by_what_the_chain_has():
    award = Award(base=10, target=30, cap=40)
    assert owing(award, seat(30, 40)) is None
    assert owing(award, seat(10, 50)) == award.model_copy(update={"cap": 50})
    assert owing(award, seat(20, 40)) == Award(base=20, target=30, cap=40), "an earlier part of it landed"
    assert owing(award, seat(4, 4)) == Award(base=4, target=24, cap=4), "a ruling before it was sent"
    assert owing(award.model_copy(update={"sent": True}), seat(4, 4)) is None
