"""The plan that a submitted job runs by: its own goal's, of those that keep budget and deadline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.wire.messages import Probe
from models.plan import JobPlan
from tasks.allocate import allocate
from tasks.segment import FACTS, stored_facts
from tests.conftest import Platform
from tests.tasks.conftest import Rig

HOUR = 3_600_000_000  # base units


async def allocated(rig: Rig, goal: str | None, **changes: object) -> JobPlan:
    """The stage as the flow runs it, of a job that starts anew."""
    run = rig.run
    run.job = run.job.model_copy(update={"goal": goal, **changes})
    run.state.quote, run.state.seats = {}, []
    await allocate.fn(run)
    plan = JobPlan.model_validate(run.state.plan)
    assert [(s.seat, s.agent) for s in run.state.seats] == [(p.seat, p.agent) for p in plan.everybody]
    return plan


async def test_the_goal_of_a_submitted_job_chooses_its_plan(rig: Rig, platform: Platform) -> None:
    run, agents = rig.run, list(rig.cluster.by_agent)
    device = run.state.seats[0].device_class
    async with Ledger.connect(platform.chain.url, platform.chain.program_id, poll=0.02) as ledger:
        run.ledger, run.mint, run.owner, run.decimals = ledger, platform.mint, platform.keys["owner"].public, 6
        run.genesis = await ledger.genesis()
        facts, probe = stored_facts(run), Probe(name="matmul", precision="fp32", seconds=0.001, spread=0.1)
        profile = facts.profile.model_copy(update={"device_class": device, "probes": (probe,), "per_sample": 0.01})
        run.write(FACTS, facts.model_copy(update={"profile": profile}).model_dump_json().encode())
        for one, ask in zip(rig.cluster.by_agent.values(), (HOUR // 1_000, HOUR // 500), strict=True):
            one.handler.terms = replace(one.handler.terms, genesis=run.genesis, ask=ask)

        usual, fast = await allocated(rig, None), await allocated(rig, "budget")
        assert {s.agent for s in usual.seats} == {s.agent for s in fast.seats} == set(agents)
        for goal in ("deadline", "cheapest"):
            cheap = await allocated(rig, goal)
            assert [s.agent for s in cheap.seats] == agents[:1] and cheap.price < usual.price
        with pytest.raises(BadInput, match="budget"):  # quoted, it may cost more; run, it may not
            await allocated(rig, "cheapest", budget="0.000001")
        assert not run.state.quote
