"""Follows a job until it ends: the lines of its progress from the job store, its run's state from Prefect.

Not covered: jobs of another machine's stack (the job store is a file of this home).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from cloudlinkup.cli.runs import Runs
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import CloudLinkUpError, JobFailed
from cloudlinkup.home import Settings
from cloudlinkup.jobs import JobEvent, JobStore, JobView

LOOK = 0.25  # seconds between two looks at the job store
ASK = 2.0  # seconds between two questions to Prefect
WAIT_FOR_RUN = 60.0  # seconds a run may take to register its job


class JobEnded(CloudLinkUpError):
    """The job ended with an error of its own: the message and exit code are those that the run stored."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self.stored = {("type" if key == "error" else key): value for key, value in stored.items()}
        self.exit_code = int(stored.get("exit_code", 5))
        super().__init__(stored.get("message", "the job failed"))


def line(event: JobEvent) -> str:
    """One event for a person: its time of day, its kind, its facts."""
    facts = " ".join(f"{key}={_short(value)}" for key, value in event.data.items())
    return f"{time.strftime('%H:%M:%S', time.localtime(event.at))}  {event.kind:<12} {facts}".rstrip()


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 100 else text[:97] + "..."


def note(event: JobEvent) -> None:
    """One line to the terminal."""
    terminal.note(line(event))


async def follow(
    settings: Settings, request_id: str, run_id: str, *, after: int = 0, show: Callable[[JobEvent], None] = note
) -> JobView:
    """Shows progress from event `after` on until the job is done. Returns it.

    Raises JobEnded when it failed, and JobFailed when its run ended and left it unfinished.
    """
    store, runs = JobStore(settings.home.jobs_db), Runs(settings.prefect_api)
    asked = 0.0
    while True:
        for event in store.events(request_id, after):
            show(event)
            after = event.id
        view = store.view(request_id)
        if view is not None and view.finished:
            return _ended(view)
        if time.monotonic() - asked > ASK:
            asked = time.monotonic()
            run = await runs.read(run_id)
            if run.ended:
                view = store.view(request_id)
                if view is not None and view.finished:
                    return _ended(view)
                why = (view.error or {}).get("message") if view else None
                raise JobFailed(
                    f"its run ended as {run.state}{f': {why}' if why else ''}. Fix: read "
                    f"{settings.home.logs / 'prefect-worker.log'}; the same `cloudlinkup submit` with "
                    f"--request-id {request_id} continues it"
                )
        await asyncio.sleep(LOOK)


def _ended(view: JobView) -> JobView:
    if view.stage == "failed":
        raise JobEnded(view.error or {})
    return view
