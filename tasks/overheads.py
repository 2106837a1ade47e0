"""What past jobs of this home took beside training: from their receipts, and the store of attempts.

The receipt says how long each stage took, the attempts how long each round's longest shard. A job that was down for a
while between two runs, or ended before its first round, says nothing. No Prefect in here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cloudlinkup.home import Home
from cloudlinkup.jobs import JobStore
from models.auditing import shown_seconds
from models.overheads import RECENT, Spent
from models.telemetry import Telemetry

ONCE = ("segment", "allocate", "lock", "deliver", "settle")  # stages; all others are of rounds
DOWN = 1.5  # times what its stages took that a job may have taken, and so many seconds more
STARTS = 30.0
JOBS = 50  # latest jobs that are looked through for `RECENT` that are done


async def spent(home: Home) -> list[Spent]:
    """At most `RECENT` of the latest jobs that are done, latest first."""
    views = await asyncio.to_thread(JobStore(home.jobs_db).list, JOBS)
    receipts = [view.receipt for view in views if view.stage == "done" and view.receipt is not None]
    training = await Telemetry(home.telemetry_db).longest_shards([str(r["job_id"]) for r in receipts])
    found = [one_job(receipt, training.get(str(receipt["job_id"]), 0.0)) for receipt in receipts]
    return [one for one in found if one is not None][:RECENT]


def one_job(receipt: dict[str, Any], training: float) -> Spent | None:
    """`training`: seconds of the rounds' longest shards. None where the receipt does not say it."""
    stages, rounds = receipt["quoted"].get("stage_seconds", {}), int(receipt["rounds"])
    once = sum(seconds for name, seconds in stages.items() if name in ONCE)
    took, staged = float(receipt["seconds"]), sum(stages.values())
    if rounds < 1 or not once < took <= DOWN * staged + STARTS:
        return None
    # stages of two rounds may overlap: what is left of the whole, not their sum
    audit = shown_seconds(float(receipt.get("audit_seconds", 0.0)), rounds, training)
    return Spent(once, max(0.0, took - once - training - audit) / rounds)
