"""Submitting a job as any client of Prefect would: a run of the deployment `train/train`, over its REST API.

The request id names the run and is its idempotency key, so that the same request never becomes two runs at a time:
Prefect answers with the run that exists. Where the last one ended badly, a new run goes on from what the job store and
the chain remember. The old run is not set to AwaitingRetry, because Prefect's worker may report its crash again up to
a minute later, and would end the retry with it. Not covered: authentication (the local Prefect listens on loopback
only).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from cloudlinkup.errors import BadInput, Unavailable

DEPLOYMENT = "train/train"
TIMEOUT = 15.0  # seconds a request
BUSY = (429, 502, 503, 504)  # Prefect answers 503 while its database is busy: what is asked here may be asked again
PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds between the attempts
ENDED_BADLY = ("CRASHED", "FAILED", "CANCELLED")
ENDED = ("COMPLETED", *ENDED_BADLY)


@dataclass(frozen=True)
class FlowRun:
    """`state` is Prefect's state type, like RUNNING."""

    id: str
    state: str
    name: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Runs:
    """Prefect's API at `url` (ending in /api). Raises Unavailable when it does not answer."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def submit(self, job: dict[str, Any], request_id: str) -> FlowRun:
        """The run of this request that is under way or completed, or a new one.

        Raises BadInput when the request id was used for another job.
        """
        deployment = await self._ask("GET", f"/deployments/name/{DEPLOYMENT}")
        mine = {"flow_runs": {"name": {"any_": [request_id]}, "deployment_id": {"any_": [deployment["id"]]}}}
        before = await self._ask("POST", "/flow_runs/filter", mine)
        if any(run["parameters"].get("job") != job for run in before):
            raise BadInput("request-id", request_id, "was used for another job", "leave it out, or give a new UUID")
        bad = [run for run in before if run["state_type"] in ENDED_BADLY]
        body = {
            "name": request_id,
            "idempotency_key": f"{request_id}/{len(bad)}" if bad else request_id,
            "parameters": {"job": job, "request_id": request_id},
            "state": {"type": "SCHEDULED"},
        }
        if going := [run for run in before if run not in bad]:
            return _run(going[0])
        return _run(await self._ask("POST", f"/deployments/{deployment['id']}/create_flow_run", body))

    async def read(self, run_id: str) -> FlowRun:
        return _run(await self._ask("GET", f"/flow_runs/{run_id}"))

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT) as client:
                answer = await client.request(method, f"{self._url}{path}", json=body)
                for pause in PAUSES:
                    if answer.status_code not in BUSY:
                        break
                    await asyncio.sleep(pause)
                    answer = await client.request(method, f"{self._url}{path}", json=body)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"Prefect does not answer at {self._url} ({type(error).__name__}). Fix: run `cloudlinkup up`"
            ) from None
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise Unavailable(f"Prefect at {self._url} has no {path}. Fix: `cloudlinkup down`, then `cloudlinkup up`")
        if answer.is_error:
            raise Unavailable(f"Prefect refused {method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json()


def _run(document: dict[str, Any]) -> FlowRun:
    return FlowRun(document["id"], document.get("state_type") or "PENDING", document["name"])
