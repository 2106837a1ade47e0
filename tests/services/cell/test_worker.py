"""The lean Dask worker: what it leaves out, and that it keeps what the scheduler needs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
from distributed import Worker

from services.cell.worker import HEARTBEAT, LeanWorker
from tests.services.cell.contributor import Running, until


def workers() -> list[LeanWorker]:
    return [
        worker for worker in Worker._instances if isinstance(worker, LeanWorker) and worker.status.name == "running"
    ]


async def test_heartbeat_keeps_its_own_period(running: Running) -> None:
    agent = await running.agent().join()
    (worker,) = workers()
    assert worker.name == agent.name
    for _ in range(2):
        await worker.heartbeat()  # the scheduler asks for 0.5 s
        assert worker.periodic_callbacks["heartbeat"].callback_time == HEARTBEAT * 1_000
    assert set(worker.periodic_callbacks) == {"heartbeat", "keep-alive", "shift_counters"}


async def test_contributors_need_no_thread_no_port_and_leave_nothing(running: Running) -> None:
    await running.agent().join()
    (first,) = workers()
    before, scratch = psutil.Process().num_fds(), Path(first.local_directory).parent
    agents = [await running.agent().join() for _ in range(8)]
    # a descriptor at each end of the socket, both in this process; a few may be what earlier tests' threads opened
    assert psutil.Process().num_fds() - before <= 2 * len(agents) + 4
    assert not any(worker.services for worker in workers())
    await asyncio.gather(*(agent.leave() for agent in running.agents))
    await until(lambda: not workers())
    await until(lambda: not any(path.is_dir() for path in scratch.iterdir()))
