"""`--compare`: the same job in a plain loop on this machine, scored on the same rows.

It trains on the rows that the job prepared (its folder keeps them), with as many samples, and never before the job
has ended, so that it takes no core from it. Not covered: a fair race in time; only the score is compared.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cloudlinkup.home import Home
from cloudlinkup.types import JobSpec


@dataclass(frozen=True)
class Comparison:
    """`score` of the plain loop on the held-out rows, and the seconds that it trained."""

    score: float
    seconds: float


async def compare(home: Home, request_id: str, job: JobSpec) -> Comparison:
    """Trains and scores; in a thread, since torch holds it for a while."""
    return await asyncio.to_thread(_compare, home, request_id, job)


def _compare(home: Home, request_id: str, job: JobSpec) -> Comparison:
    from cloudlinkup.tables.prepared import Prepared
    from cloudlinkup.training.baseline import train_alone
    from cloudlinkup.training.evaluate import score
    from cloudlinkup.training.start import begin_with

    folder = home.job_folder(request_id)
    data = Prepared.load(folder / "prepared")
    start = begin_with(data.spec, folder / "initial.safetensors")
    alone = train_alone(data.spec, data.features, data.targets, job.train.samples, seed=job.train.seed, start=start)
    _, value = score(data.spec, alone.weights, data.holdout_features, data.holdout_targets, job.metric)
    return Comparison(round(value, 6), round(alone.seconds, 2))
