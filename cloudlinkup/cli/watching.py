"""Follows a job until it ends: the lines of its progress from the job store, its run's state from Prefect.

Not covered: jobs of another machine's stack (the job store is a file of this home).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from cloudlinkup.cli.runs import FlowRun, Runs
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import CloudLinkUpError, JobFailed, Unavailable
from cloudlinkup.home import Settings
from cloudlinkup.jobs import JobEvent, JobStore, JobView

LOOK = 0.25  # seconds between two looks at the job store
ASK, MOST_ASK = 2.0, 16.0  # seconds between two questions to Prefect, and while it does not answer
SILENCE = 60.0  # seconds without an answer of Prefect's after which watching ends; the job may go on
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

    Raises JobEnded when it failed, JobFailed when its run ended and left it unfinished, and Unavailable when Prefect
    does not answer for a minute.
    """
    store, asking = JobStore(settings.home.jobs_db), _Asking(Runs(settings.prefect_api), request_id, run_id)
    while True:
        for event in store.events(request_id, after):
            show(event)
            after = event.id
        view = store.view(request_id)
        if view is not None and view.finished:
            return _ended(view)
        run = await asking.now_and_then()
        if run is not None and run.ended:
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


class _Asking:
    """Prefect, asked now and then. One that is busy may not answer at once: it is asked again, ever less often."""

    def __init__(self, runs: Runs, request_id: str, run_id: str) -> None:
        self._runs, self._request, self._run = runs, request_id, run_id
        self._next, self._pause = 0.0, ASK
        self._answered = time.monotonic()

    async def now_and_then(self) -> FlowRun | None:
        """The run, where it is time to ask and Prefect answers. Raises Unavailable after `SILENCE` seconds without."""
        if time.monotonic() < self._next:
            return None
        try:
            run = await self._runs.read(self._run)
        except Unavailable as error:
            if (silent := time.monotonic() - self._answered) > SILENCE:
                raise Unavailable(
                    f"nothing of the job's run for {silent:.0f} s: {error}; the job may go on meanwhile, and "
                    f"`cloudlinkup watch {self._request}` follows it again"
                ) from None
            self._pause = min(2 * self._pause, MOST_ASK)
            run = None
        else:
            self._answered, self._pause = time.monotonic(), ASK
        self._next = time.monotonic() + self._pause
        return run


def _ended(view: JobView) -> JobView:
    if view.stage == "failed":
        raise JobEnded(view.error or {})
    return view
