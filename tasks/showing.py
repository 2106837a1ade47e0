"""What the Prefect UI shows of a running job: one progress and one table artifact, and events for odd shards.

An artifact write costs 40-130 ms, so there is at most one pair in two seconds, which no round waits for; nothing is
written per shard.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.events import emit_event

from cloudlinkup.types import format_tokens
from tasks.state import Entry, RoundState

if TYPE_CHECKING:
    from tasks.context import Run

EVERY = 2.0  # seconds between two writes


class Showing:
    """One flow run's artifacts. Prefect keeps each version of a table under its key."""

    def __init__(self) -> None:
        self._progress: UUID | None = None
        self._last = 0.0
        self._writing: asyncio.Task[None] | None = None

    async def show(self, run: Run, round_: RoundState) -> None:
        """After a round. Skips a write that comes too soon, never the last one, which it waits for. Raises what the
        write before raised."""
        done = run.state.steps_done >= run.state.total_steps
        if not done and (time.monotonic() - self._last < EVERY or (self._writing and not self._writing.done())):
            return
        before, self._writing = self._writing, None
        if before is not None:
            await before
        percent = 100 * run.state.steps_done / max(1, run.state.total_steps)
        about = (
            f"Round {round_.round}: {run.state.metric} {run.state.score:.4f}. "
            f"Audit: {round_.audit_segments} segments replayed in {round_.audit_seconds:.2f} s, "
            f"{round_.audit_bytes} bytes"
        )
        rows = [_row(run, entry) for entry in round_.entries]  # as they are now
        self._writing = asyncio.create_task(self._write(run, percent, rows, about))
        self._last = time.monotonic()
        if done:
            await self._writing

    async def end(self) -> None:
        """Returns when nothing is being written any more."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self, run: Run, percent: float, rows: list[dict[str, object]], about: str) -> None:
        if self._progress is None:
            self._progress = await acreate_progress_artifact(
                percent, key=f"progress-{run.request_id}", description=f"verified steps of {run.state.total_steps}"
            )
        table = acreate_table_artifact(key=f"shards-{run.request_id}", table=rows, description=about)
        await asyncio.gather(aupdate_progress_artifact(self._progress, percent), table)

    def exceptional(self, run: Run, round_: RoundState) -> None:
        """An event for each shard that was not simply accepted."""
        for entry in round_.entries:
            if entry.outcome != "accepted":
                emit_event(
                    event=f"cloudlinkup.shard.{entry.outcome}",
                    resource={"prefect.resource.id": f"cloudlinkup.job.{run.request_id}.seat.{entry.seat}"},
                    payload={"round": round_.round, "attempt": entry.attempt, "reason": entry.reason},
                )


def _row(run: Run, entry: Entry) -> dict[str, object]:
    seat = run.state.seat(entry.seat)
    step = int(run.state.plan["segment_steps"])
    return {
        "seat": entry.seat,
        "wallet": seat.wallet,
        "outcome": entry.outcome,
        "segments": entry.segments,
        "replayed": entry.replayed,
        "audited more for": ", ".join(entry.risk),
        "seconds": round(entry.seconds, 3),
        "verified steps": seat.steps,
        "approved pay": format_tokens(seat.steps * run.state.price, run.decimals),
        "steps in this shard": entry.segments * step,
        "reason": entry.reason,
    }
