"""The plan that a submitted job runs by: its own goal's, of those that keep budget and deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cloudlinkup.errors import BadInput, NoContributors
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.wire.messages import Probe
from models.plan import JobPlan
from models.predictor import SHIPPED, Predictor
from models.registry import Registry
from models.telemetry import Attempt, Telemetry
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


@asynccontextmanager
async def market(rig: Rig, platform: Platform) -> AsyncIterator[list[str]]:
    """The rig on a real chain, with a reference that its two contributors can be compared with: the second asks twice
    as much. Yields their agents."""
    run, device = rig.run, rig.run.state.seats[0].device_class
    async with Ledger.connect(platform.chain.url, platform.chain.program_id, poll=0.02) as ledger:
        run.ledger, run.mint, run.owner, run.decimals = ledger, platform.mint, platform.keys["owner"].public, 6
        run.genesis = await ledger.genesis()
        facts, probe = stored_facts(run), Probe(name="matmul", precision="fp32", seconds=0.001, spread=0.1)
        profile = facts.profile.model_copy(update={"device_class": device, "probes": (probe,), "per_sample": 0.01})
        run.write(FACTS, facts.model_copy(update={"profile": profile}).model_dump_json().encode())
        for one, ask in zip(rig.cluster.by_agent.values(), (HOUR // 1_000, HOUR // 500), strict=True):
            one.handler.terms = replace(one.handler.terms, genesis=run.genesis, ask=ask)
        yield list(rig.cluster.by_agent)


async def test_the_goal_of_a_submitted_job_chooses_its_plan(rig: Rig, platform: Platform) -> None:
    async with market(rig, platform) as agents:
        usual, fast = await allocated(rig, None), await allocated(rig, "budget")
        assert {s.agent for s in usual.seats} == {s.agent for s in fast.seats} == set(agents)
        for goal in ("deadline", "cheapest"):
            cheap = await allocated(rig, goal)
            assert [s.agent for s in cheap.seats] == agents[:1] and cheap.price < usual.price
        with pytest.raises(BadInput, match="budget"):  # quoted, it may cost more; run, it may not
            await allocated(rig, "cheapest", budget="0.000001")
        assert not rig.run.state.quote


@pytest.mark.parametrize("harm", ["store", "pointer", "newer"])
async def test_a_store_or_registry_that_cannot_be_used_costs_no_job(rig: Rig, platform: Platform, harm: str) -> None:
    home = rig.run.settings.home
    registry = Registry(home.root / "models")
    if harm == "store":
        home.telemetry_db.write_bytes(b"not a database, but long enough to look like a file" * 10)
    elif harm == "pointer":
        registry.folder.mkdir(exist_ok=True)
        (registry.folder / "champion.json").write_text("{")
    else:
        registry.add(replace(Predictor.load(SHIPPED), version="1"))
        registry.promote("1")
        meta = registry.folder / "1" / "metadata.json"
        meta.write_text(meta.read_text().replace('"format": 1', '"format": 99'))
    async with market(rig, platform) as agents:
        plan = await allocated(rig, None)
    assert {s.agent for s in plan.seats} == set(agents)
    notes = " ".join(rig.run.state.quote["notes"])
    assert (plan.predictor == "rank-1" and "rank-1 rule alone" in notes and "Fix: " in notes) == (harm != "store")


async def test_nobody_to_plan_with_and_a_deadline_that_nobody_meets_lock_nothing(
    rig: Rig, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.allocate.FIRST_WAIT", 0.1)
    async with market(rig, platform):
        soon = datetime.now(UTC) + timedelta(seconds=30)
        with pytest.raises(BadInput, match="90% confidence") as caught:
            await allocated(rig, None, deadline=soon)
        assert caught.value.field == "deadline"
        rig.cluster.by_agent.clear()
        with pytest.raises(NoContributors, match=r"no contributor is connected\. Fix: "):
            await allocated(rig, None)
    assert not rig.run.state.quote and not rig.run.state.seats


async def test_who_works_five_times_slower_than_its_probes_say_is_planned_by_what_was_seen(
    rig: Rig, platform: Platform
) -> None:
    run = rig.run
    async with market(rig, platform) as agents:
        facts, seat = stored_facts(run), run.state.seats[1]
        step, store = facts.profile.step_seconds(facts.batch), Telemetry(run.settings.home.telemetry_db)
        for number in range(4):
            past = Attempt(
                request_id=f"request-{number}",
                job_id=f"job-{number}",
                round=1,
                seat=0,
                attempt=1,
                wallet=seat.wallet,
                agent=seat.agent,
                device_class=seat.device_class,
                predictor="rank-1",
                version="0",
                predicted=step,
                job=facts,
                probes=tuple(seat.probes),
                share=1.0,
                steps=100,
                segments=10,
                seconds=100 * step * 5,
                bytes_up=1,
                bytes_down=1,
                outcome="accepted",
                price=1,
                at=1_700_000_000.0 + number,
            )
            assert await store.record_attempt(past)
        plan = await allocated(rig, None)
    known = {s.agent: s.prediction for s in plan.everybody}
    liar, honest = known[agents[1]], known[agents[0]]
    assert liar.source == "record" and honest.source != "record"
    assert liar.seconds == pytest.approx(5 * honest.seconds, rel=0.2)
