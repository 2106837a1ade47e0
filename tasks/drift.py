"""When predictions drift: one event, and one run of the retraining flow, however many jobs notice.

Looked at when a job ends. The run is queued by deployment name with an idempotency key of version and day, so that
Prefect makes one run a day at most for the same champion. Nothing here may fail a job: what goes wrong is logged.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import structlog
from prefect.client.orchestration import get_client
from prefect.events import emit_event

from cloudlinkup.home import Home
from models.drift import Drift, find_drift
from models.registry import Registry
from models.telemetry import Telemetry

DEPLOYMENT = "retrain-allocator/retrain-allocator"
DAYS, MOST = 30.0, 2_000  # of attempts that are read

log = structlog.get_logger()


async def look_for_drift(home: Home) -> Drift | None:
    """Raises the event and queues the run when there is drift. None when nothing could be said."""
    try:
        frame = await Telemetry(home.telemetry_db).attempts(since=time.time() - DAYS * 86_400, most=MOST)
        champion = await asyncio.to_thread(Registry(home.root / "models").champion)
        found = await asyncio.to_thread(find_drift, frame, champion)
        if found.drifted:
            await announce(found)
    except Exception as error:  # a job that is done and paid does not fail for this
        log.warning("could not look for drift", why=f"{type(error).__name__}: {error}")
        return None
    return found


async def announce(drift: Drift) -> None:
    """The event, then the run. Raises Prefect's errors, such as for a server without the deployment."""
    emit_event(
        event="cloudlinkup.predictor.drift",
        resource={"prefect.resource.id": f"cloudlinkup.predictor.{drift.version}"},
        payload={"shards": drift.shards, "outside": drift.outside, "median miss, fold": round(drift.fold, 3)},
    )
    async with get_client() as client:
        deployment = await client.read_deployment_by_name(DEPLOYMENT)
        await client.create_flow_run_from_deployment(
            deployment.id,
            idempotency_key=f"drift-{drift.version}-{datetime.now(UTC):%Y-%m-%d}",
            tags=["drift"],
        )
    log.warning("predictions drifted; retraining is queued", version=drift.version, outside=drift.outside)
