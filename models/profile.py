"""This job, timed on the flow's own machine before any money is locked: the reference of every prediction.

Real segments of the real spec on the client's real rows (`SegmentRunner`, with the state hash that closes a segment)
at two batch sizes, taken in turns so that other load hits both alike; step time is affine in the batch, so two sizes
give overhead and time per sample. In the job's own precision, and in pieces of its own size. The caller adds the same
machine's onboarding probes, without which nobody can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from cloudlinkup.training import caps
from cloudlinkup.training.architectures import MAX_BATCH, initial_weights, memory_of_step
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.wire.messages import Hardware, Probe
from models.facts import ReferenceProfile

STEPS = 5  # of one timed segment
MOST_ROWS = 16_384  # rows copied for the profile
LEAST_SEGMENTS = 4  # of each batch size, the first of which warms up


def profile_reference(
    spec: TrainingSpec,
    features: np.ndarray,
    targets: np.ndarray,
    *,
    probes: Sequence[Probe],
    hardware: Hardware | None = None,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 1.0,
    frozen: FrozenWeights | None = None,
) -> ReferenceProfile:
    """Times the job for about `seconds` (longer where a step is slow: at least four segments of each size).

    `features`, `targets`: as `SegmentRunner` takes them. `probes` and `hardware` describe this same machine, with the
    same `threads`. `frozen`: as `SegmentRunner` takes it. Blocks; call it in a thread. Raises ValueError when spec and
    rows do not fit.
    """
    larger = replace(spec, batch=4 * spec.batch)
    fits = larger.batch <= MAX_BATCH and memory_of_step(larger) <= caps.PASS
    sizes = (spec.batch, larger.batch if fits or spec.batch < 4 else spec.batch // 4)
    weights = initial_weights(spec)
    work = ShardWork(seed=b"\0" * 32, segment_steps=STEPS, max_segments=10_000, progress_from=0, progress_to=1_000_000)
    x, y = features[:MOST_ROWS], targets[:MOST_ROWS]
    runners = [
        SegmentRunner(_with_batch(spec, b), work, weights, x, y, device=device, threads=threads, frozen=frozen)
        for b in sizes
    ]
    times: list[list[float]] = [[], []]
    end = perf_counter() + seconds
    while len(times[0]) < LEAST_SEGMENTS or (perf_counter() < end and not runners[0].done):
        for runner, found in zip(runners, times, strict=True):
            start = perf_counter()
            runner.run_segment()
            runner.state_hash()
            found.append((perf_counter() - start) / STEPS)
    first, second = (np.asarray(found[1:]) for found in times)
    small, large = float(np.median(first)), float(np.median(second))
    # noise can turn the line around: a step's time per sample is at least 1% of what it is on average
    per_sample = max((large - small) / (sizes[1] - sizes[0]), 0.01 * small / sizes[0])
    return ReferenceProfile(
        overhead=max(0.0, small - per_sample * sizes[0]),
        per_sample=min(per_sample, small / sizes[0]),
        spread=float((np.quantile(first, 0.9) - np.quantile(first, 0.1)) / small),
        steps=STEPS * len(first),
        kind="cpu" if device == "cpu" else "cuda",
        device_class=hardware.device_class if hardware else "",
        probes=tuple(probes),
    )


def _with_batch(spec: TrainingSpec, batch: int) -> TrainingSpec:
    pieces = spec.micro_batch
    return replace(spec, batch=batch, micro_batch=None if pieces is None else min(pieces, batch))
