"""Applies `prefect.yaml` to the local Prefect server through its API: `python -m deployments.apply`.

The work pool's template fixes the command and the working directory and offers no job variables, so that whoever may
start a run cannot choose what is executed. `env` is left out on purpose: Prefect merges a run's `env` into any that
the template holds, declared or not, so a flow gets the worker's own environment and nothing else.

Not covered: storage, images, triggers; `prefect deploy --all` knows them, this local stack does not need them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

CHECKOUT = Path(__file__).resolve().parent.parent
POOL = "local"
TYPE = "process"
SERVER_DEADLINE = 300.0  # seconds: the first start migrates a new database, and machines may be busy

TEMPLATE: dict[str, Any] = {
    "job_configuration": {
        "command": shlex.join(
            [
                *(sys.executable, "-S", str(CHECKOUT / "deployments/child.py")),
                *(sys.executable, "-S", str(CHECKOUT / "deployments/handover.py")),
                *(sys.executable, "-m", "prefect.engine"),
            ]
        ),
        "working_dir": str(CHECKOUT),
        "stream_output": True,
    },
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


def digest() -> str:
    """Changes whenever what is applied does: this file, prefect.yaml, the flows and the types of their parameters."""
    files = [
        Path(__file__),
        CHECKOUT / "prefect.yaml",
        CHECKOUT / "cloudlinkup/types.py",
        *sorted((CHECKOUT / "flows").glob("*.py")),
    ]
    content = b"\0".join(path.read_bytes() for path in files)
    return hashlib.sha256(content + str(CHECKOUT).encode() + sys.executable.encode()).hexdigest()


async def wait_for_server() -> None:
    """Raises TimeoutError when the Prefect server does not become healthy in time."""
    import httpx

    url = os.environ["PREFECT_API_URL"]
    async with asyncio.timeout(SERVER_DEADLINE), httpx.AsyncClient(timeout=2) as client:
        while True:
            try:
                if (await client.get(f"{url}/health")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)


async def apply() -> None:
    """Creates or updates the pool and every deployment; imports the flows (for schemas) while the server starts."""
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    document = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())
    flows = {
        entry["entrypoint"]: load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
        for entry in document["deployments"]
    }
    await wait_for_server()
    async with get_client() as client:
        pool = WorkPoolCreate(name=POOL, type=TYPE, base_job_template=TEMPLATE)
        await client.create_work_pool(pool, overwrite=True)
        for queue in document["definitions"]["work_queues"]:
            await make_queue(client, **queue)
        for entry in document["deployments"]:
            flow = flows[entry["entrypoint"]]
            limit = ConcurrencyLimitConfig(**entry["concurrency_limit"])
            schedules = [DeploymentScheduleCreate(schedule=_schedule(item)) for item in entry.get("schedules", [])]
            await client.create_deployment(
                flow_id=await client.create_flow_from_name(flow.name),
                name=entry["name"],
                entrypoint=entry["entrypoint"],
                description=entry.get("description"),
                tags=entry.get("tags"),
                work_pool_name=entry["work_pool"]["name"],
                work_queue_name=entry["work_pool"].get("work_queue_name"),
                pull_steps=document["pull"],
                schedules=schedules,
                concurrency_limit=limit.limit,
                concurrency_options={"collision_strategy": limit.collision_strategy},  # pyright: ignore[reportArgumentType]
                parameter_openapi_schema=parameter_schema(flow).model_dump(),
                enforce_parameter_schema=entry["enforce_parameter_schema"],
                paused=False,
            )
            print(f"deployed {flow.name}/{entry['name']}")


async def make_queue(client: PrefectClient, name: str, concurrency_limit: int) -> None:
    """A queue of the pool that hands out as many runs at a time; made, or changed to that."""
    from prefect.exceptions import ObjectAlreadyExists

    try:
        await client.create_work_queue(name, work_pool_name=POOL, concurrency_limit=concurrency_limit)
    except ObjectAlreadyExists:
        queue = await client.read_work_queue_by_name(name, work_pool_name=POOL)
        await client.update_work_queue(queue.id, concurrency_limit=concurrency_limit)


def _schedule(item: dict[str, Any]) -> CronSchedule | IntervalSchedule:
    """`cron` with its timezone, or `interval` in seconds."""
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    if "interval" in item:
        return IntervalSchedule(interval=timedelta(seconds=item["interval"]))
    return CronSchedule(cron=item["cron"], timezone=item.get("timezone"))


if __name__ == "__main__":
    asyncio.run(apply())
