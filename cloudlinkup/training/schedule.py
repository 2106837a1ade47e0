"""The learning rate of a step: one warm-up and one cosine over the whole job, whoever runs the step.

Progress is the share of the job's samples, so a round that takes longer or a contributor that does less moves nobody
else's schedule.
"""

from __future__ import annotations

from math import cos, pi

from cloudlinkup.training.spec import ShardWork

WARM_UP = 0.03  # share of the job over which the rate rises linearly from 0
FLOOR = 0.02  # share of the peak at the end
MILLION = 1_000_000


def factor(progress: float) -> float:
    """Share of the peak learning rate at `progress` in 0..1, rounded so that no libm's last bit matters."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < WARM_UP:
        return round(progress / WARM_UP, 9)
    return round(FLOOR + (1 - FLOOR) * 0.5 * (1 + cos(pi * (progress - WARM_UP) / (1 - WARM_UP))), 9)


def progress_at(work: ShardWork, index: int) -> float:
    """Progress in the middle of the shard's step `index` (0-based), so that not even the job's first step is idle."""
    steps = work.max_segments * work.segment_steps
    return (work.progress_from + (work.progress_to - work.progress_from) * (index + 0.5) / steps) / MILLION


def rate(peak: float, work: ShardWork, index: int) -> float:
    """Learning rate of the shard's step `index`."""
    return peak * factor(progress_at(work, index))
