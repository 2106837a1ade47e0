"""A job that is taken up again after its end: no further round is begun, and money does not wait for the cell."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from cloudlinkup.errors import ClusterLost, JobFailed
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.types import parse_tokens
from models.plan import JobPlan
from tasks.context import Run
from tasks.escrow import write_seats
from tasks.rounds import next_round
from tasks.settle import _drop_peers
from tasks.state import Terms
from tests.conftest import Platform
from tests.tasks.conftest import STEP, Rig

PLAN = JobPlan(
    total_steps=1_000,
    dropped_steps=0,
    batch=16,
    segment_steps=STEP,
    local_steps=50,
    rounds=4,
    price=7,
    seats=(),
    predictor="base",
    version="1",
)


@pytest.fixture
async def job(rig: Rig, platform: Platform):
    """The rig's run with a job of its own on a real chain: locked, seats written, no round yet."""
    run = rig.run
    async with Ledger.connect(platform.chain.url, platform.chain.program_id) as ledger:
        keys = platform.keys
        run.ledger, run.mint, run.owner = ledger, platform.mint, keys["owner"].public
        run.operator, run.verifier, run.sponsor = keys["operator"], keys["verifier"], keys["sponsor"]
        run.cranker = keys["cranker"]
        run.settings = replace(run.settings, mint=str(platform.mint), owner=str(keys["owner"].public))
        run.state.plan, run.state.total_steps = json.loads(PLAN.model_dump_json()), PLAN.total_steps
        yield run


async def lock(run: Run, platform: Platform, seconds: int) -> None:
    from tasks.escrow import uuid7

    now = await run.ledger.now()
    job_id = uuid7(now)
    terms = Terms(
        job_id=job_id.hex(),
        account=str(run.ledger.job_address(run.owner, run.mint, job_id)),
        budget=parse_tokens("1", 6),
        deadline=now + seconds,
        dispute_window=platform.min_window,
        arbiter_window=platform.arbiter_window,
        fee_bps=100,
    )
    run.state.terms = terms
    await run.ledger.open_job(
        authority=run.operator, payer=run.operator, owner=run.owner, mint=run.mint, job_id=job_id,
        verifier=run.verifier.public, spec_hash=run.spec_hash, budget=terms.budget, deadline=terms.deadline,
        dispute_window=terms.dispute_window, arbiter_window=terms.arbiter_window, fee_bps=terms.fee_bps,
    )  # fmt: skip
    await write_seats(run)


async def until_chain(run: Run, second: int) -> None:
    async with asyncio.timeout(30):
        while await run.ledger.now() < second:  # noqa: ASYNC110 (the chain's clock)
            await asyncio.sleep(0.1)


async def test_a_finished_job_begins_no_further_round(job: Run, platform: Platform):
    await lock(job, platform, 3_600)
    assert await next_round(job)
    job.plan = None
    await job.ledger.finish_job(job.operator, job.account)
    assert not await next_round(job)
    assert job.plan is None
    # finishing brings the deadline forward by two windows, which may be over by now
    assert job.state.ended_early.startswith(("it was finished early", "the deadline passed"))


async def test_a_round_under_way_is_dropped_after_the_deadline(job: Run, platform: Platform, rig: Rig):
    await lock(job, platform, 3_600)
    await rig.begin()
    assert await next_round(job)  # goes on as it was planned
    await job.ledger.finish_job(job.operator, job.account)
    found = await job.ledger.job(job.account)
    assert found is not None
    went_on = await next_round(job)
    if await job.ledger.now() < found.deadline:
        assert went_on  # and may still be awarded until then
    await until_chain(job, found.deadline)
    assert not await next_round(job)
    assert job.round is None
    assert [event.kind for event in job.store.events(job.request_id)].count("round_dropped") == 1


async def test_what_is_awarded_is_still_aggregated_after_the_deadline(job: Run, rig: Rig):
    await rig.begin()
    assert job.round is not None
    job.round.stage = "awarded"
    assert await next_round(job)  # without a look at the chain, where the account may be gone


async def test_a_vanished_account_is_the_jobs_end(job: Run, platform: Platform):
    await lock(job, platform, 3_600)
    assert job.state.terms is not None
    job.state.terms.account = str(platform.keys["arbiter"].public)
    with pytest.raises(JobFailed):
        await next_round(job)


async def test_money_does_not_wait_for_the_cell(rig: Rig):
    rig.cluster.fails["*"] = ClusterLost("the Dask scheduler is gone")
    await _drop_peers(rig.run)
