"""Waiting jobs start in the order of their ranks: a real Prefect server and a real worker's way of taking runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Running, Scheduled
from prefect.testing.utilities import prefect_test_harness
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

from cloudlinkup.home import Home, Settings
from cloudlinkup.jobs import JobStore
from deployments.apply import make_queue
from flows.rank_queue import POOL, QUEUE, Ranker
from models.priority import TIERS, WAIT


class Instant(BaseWorker[BaseJobConfiguration, Any, BaseWorkerResult]):
    """Prefect's own worker, but for what it starts: `keep` runs go on, the others end at once."""

    type = "instant"
    started: list[str]
    keep: set[str]

    async def run(self, flow_run: FlowRun, configuration: Any, task_status: Any = None) -> BaseWorkerResult:
        task_status.started(flow_run.name)
        async with get_client() as client:
            await client.set_flow_run_state(flow_run.id, Running(), force=True)
            self.started.append(flow_run.name)
            if flow_run.name not in self.keep:
                await client.set_flow_run_state(flow_run.id, Completed(), force=True)
        return BaseWorkerResult(identifier=flow_run.name, status_code=0)


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose owner settled enough, long ago, for the highest tier."""
    monkeypatch.setenv("CLOUDLINKUP_OWNER", "the-owner")
    home = Home(tmp_path).make()
    store = JobStore(home.jobs_db)
    store.begin("old", "{}", "run")
    store.finish("old", {"settled": True, "paid": "1000", "fee": str(TIERS[-1])})
    store.begin("open", "{}", "run")
    store.finish("open", {"settled": False, "paid": "0", "fee": str(10**15)})
    return Settings.load(home)


@flow(name="train")
async def nothing(job: dict[str, Any], request_id: str) -> None:
    """What the deployment names; never called here."""


async def submit(client: PrefectClient, deployment: UUID, name: str, left: timedelta, whose: str) -> UUID:
    deadline = (datetime.now(UTC) + left).strftime("%Y-%m-%dT%H:%M:%SZ")
    run = await client.create_flow_run_from_deployment(
        deployment,
        name=name,
        tags=[whose],
        parameters={"job": {"deadline": deadline}, "request_id": name},
        state=Scheduled(),
    )
    return run.id


async def test_the_best_rank_starts_first_and_an_old_job_of_the_lowest_tier_starts(
    harness: None, settings: Settings
) -> None:
    day, soon = timedelta(days=1), timedelta(minutes=16)
    ranker = Ranker(settings, whose=lambda run: run.tags[0])
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="instant"))
        await make_queue(client, QUEUE, 3)
        await make_queue(client, QUEUE, 1)
        queue = await client.read_work_queue_by_name(QUEUE, work_pool_name=POOL)
        assert queue.concurrency_limit == 1
        deployment = await client.create_deployment(
            await client.create_flow_from_name("train"), "train", work_pool_name=POOL, work_queue_name=QUEUE
        )
        async with Instant(work_pool_name=POOL) as worker:
            worker.started, worker.keep = [], {"running"}
            running = await submit(client, deployment, "running", day, "the-owner")
            await took(worker, 1)
            await submit(client, deployment, "low", day, "nobody")
            await submit(client, deployment, "middle", day, "the-owner")
            urgent = await submit(client, deployment, "urgent", soon, "the-owner")
            now = time.time() + 1
            assert [p.key for p in await ranker.look(now)] and await worker.get_and_submit_flow_runs() == []

            await client.set_flow_run_state(running, Completed(), force=True)
            worker.keep = {"urgent"}
            await took(worker, 2)
            assert worker.started == ["running", "urgent"]  # submitted last, and the most urgent

            # new urgent jobs of the best client keep coming; an hour later the old one of nobody goes first
            assert len(await ranker.look(now)) == 2
            await submit(client, deployment, "newer", soon, "the-owner")
            late = await ranker.look(now + WAIT)
            assert late[0].due
            worker.keep = set()
            await client.set_flow_run_state(urgent, Completed(), force=True)
            await took(worker, 3)
            assert worker.started[2] == "low"
            await took(worker, 5)
            assert await ranker.look(now + WAIT) == ()
    store = JobStore(settings.home.jobs_db)
    told = [event.data for event in store.events("low")]
    assert told[0]["place"] == 3 and "priority" in told[0]["reason"]
    assert told[-2]["place"] == 1 and "waited" in told[-2]["reason"]
    assert [event.kind for event in store.events("urgent")] == ["queued", "dequeued"]


async def took(worker: Instant, runs: int) -> None:
    """Polls as the worker does, until so many have started."""
    async with asyncio.timeout(60):
        while len(worker.started) < runs:
            await worker.get_and_submit_flow_runs()
            await asyncio.sleep(0.05)
