"""The Prefect worker of the local stack: `python -m deployments.worker`.

It waits for the Prefect server, applies `prefect.yaml` when that changed, and then runs Prefect's own process worker
on the pool `local`. It is a small runner of our own because each call of Prefect's command line takes three seconds.
Environment: PREFECT_API_URL, PREFECT_HOME, CLOUDLINKUP_READY (a file, made once runs are taken).

Every few seconds it ranks the jobs that wait (`flows/rank_queue`), so that a free place goes to the right one.

A run that was in progress when the last worker ended is marked as crashed first: this pool has one worker, so nobody
else can be executing it, and submitting its request again then continues it. Not covered: several workers on a pool.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Crashed
from prefect.workers.process import ProcessWorker

from cloudlinkup.home import Settings
from deployments.apply import POOL, digest, wait_for_server
from deployments.handover import not_yet, socket_path
from deployments.processes import LAUNCHER

RANK_EVERY = 5.0  # seconds
SPARE_LOOK, SPARE_AFTER = 0.5, 45.0  # seconds between two looks, and until the next one where a run is long
APPLY_DEADLINE = 180.0  # seconds: imports the flows, and waits for the server

log = structlog.get_logger()


async def apply_deployments() -> None:
    """Applies prefect.yaml, in a process of its own: that imports the flows (with torch) while the server starts."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "deployments.apply")
    try:
        async with asyncio.timeout(APPLY_DEADLINE):
            code = await process.wait()
    except TimeoutError:
        process.kill()
        raise
    if code:
        raise SystemExit(f"deployments.apply ended with {code}")


async def end_orphans() -> int:
    """Marks what the last worker left running as crashed (or cancelled). Returns how many."""
    left: list[Any] = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=left))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
        for run in runs:
            cancelling = run.state_type == StateType.CANCELLING
            message = "The local stack stopped while this run was in progress."
            state = Cancelled(message=message) if cancelling else Crashed(message=message)
            await client.set_flow_run_state(run.id, state, force=True)
    return len(runs)


async def keep_spare(home: Path) -> None:
    """One process that waits for the next job's run, until cancelled (`spare.py`). The next one is started when the run
    of the last one has ended or is well under way: its imports would slow the start that they are for."""
    path = socket_path(str(home))
    coming = not_yet(path)
    try:
        while True:
            for old in (coming, path):
                old.unlink(missing_ok=True)
            words = (sys.executable, "-S", str(LAUNCHER), sys.executable, "-m", "deployments.spare")
            process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL)
            # it makes its socket before it imports, and removes it when it takes a run, which may be at once afterwards
            for there in (False, True):
                # in this order, as the one becomes the other
                while process.returncode is None and (coming.exists() or path.exists()) == there:  # noqa: ASYNC110
                    await asyncio.sleep(SPARE_LOOK)  # another process's file
            if process.returncode and coming.exists():  # it failed to import, as would the next one
                log.warning("no spare process", code=process.returncode)
                await asyncio.sleep(SPARE_AFTER)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), SPARE_AFTER)
            await asyncio.sleep(SPARE_LOOK)
    finally:
        for left in (coming, path):
            left.unlink(missing_ok=True)


async def rank_for_ever() -> None:
    """Ranks the queue until cancelled. What goes wrong is logged once a while: no job is worth less for a wrong order.

    The ranking is named, not imported: this folder only names what it runs.
    """
    ranker = importlib.import_module("flows.rank_queue").Ranker(Settings.load())
    while True:
        await asyncio.sleep(RANK_EVERY)
        try:
            await ranker.look()
        except Exception as error:
            log.warning("queue not ranked", why=f"{type(error).__name__}: {str(error)[:200]}")


def _holds(record: Path, text: str) -> bool:
    return record.exists() and record.read_text() == text


def _keep(record: Path, text: str) -> None:
    record.write_text(text)


async def main(ready: Path, record: Path) -> None:
    """Runs until SIGTERM or SIGINT. `ready` is made once runs are taken; `record` says what was applied last."""
    began, wanted = time.monotonic(), digest()
    applied = _holds(record, wanted)
    if applied:
        await wait_for_server()
    else:
        await apply_deployments()
        _keep(record, wanted)
    orphans = await end_orphans()
    worker = ProcessWorker(work_pool_name=POOL, name=POOL, create_pool_if_not_found=False)

    def started(_: str) -> None:
        ready.touch()
        log.info("worker started", applied=not applied, orphans=orphans, seconds=round(time.monotonic() - began, 2))

    ranking = asyncio.create_task(rank_for_ever())
    spare = asyncio.create_task(keep_spare(Path(os.environ["PREFECT_HOME"])))
    task = asyncio.create_task(worker.start(printer=started))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("worker stopped")
    finally:
        ranking.cancel()
        spare.cancel()
        await asyncio.gather(ranking, spare, return_exceptions=True)


if __name__ == "__main__":
    home = Path(os.environ["PREFECT_HOME"])
    asyncio.run(main(Path(os.environ["CLOUDLINKUP_READY"]), home / "deployments.sha256"))
