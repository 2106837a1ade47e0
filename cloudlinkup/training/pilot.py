"""`train.lr: "auto"`: which of three peak learning rates suits a job, by short trainings on the auditor's own machine.

Each candidate trains the job's network from its own start at the job's batch for the same few steps, with the whole
schedule squeezed into them, on four fifths of the training rows; the least mean loss on the other fifth is taken, the
smaller rate where two agree. The held-out rows, which the job's score is of, take no part, so choosing costs the score
nothing of its honesty. Steps, rows and start follow from the spec and the rows alone: the same job chooses the same.

Here and not in the paid first round, because three rates there would be three trainings, of which the weights of two
are thrown away, on machines that are yet to be measured; and because a rate that is chosen before the quote stands in
it, and in the spec whose hash is in every order. What it costs is this machine's time, about three times `steps`.

Not covered: that many contributors, or rounds, may suit another rate than one machine; rates beyond the three; that
short trainings favour larger rates than long ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf, isfinite

import numpy as np

from cloudlinkup.training.architectures import initial_weights, parameter_count
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.threads import torch_threads
from cloudlinkup.wire.hashes import digest

RATES = (0.003, 0.01, 0.02)
SEGMENT, MOST, LEAST = 10, 20, 2  # steps of a segment; segments of one candidate
WORK = 5e10  # multiply-adds of one candidate, above which it takes fewer steps
MOST_ROWS, MOST_JUDGED = 65_536, 4_096


def pilot_segments(spec: TrainingSpec) -> int:
    """Segments that each candidate trains."""
    tokens = spec.inputs if spec.task == "next_token" else 1
    step = 3.0 * parameter_count(spec) * spec.batch * tokens  # forward, and backward for inputs and weights
    return int(min(MOST, max(LEAST, WORK / step / SEGMENT)))


def pilot_losses(
    spec: TrainingSpec, features: np.ndarray, targets: np.ndarray, start: np.ndarray | None = None
) -> dict[float, float]:
    """The mean loss on rows kept back by rate; infinity where it diverged. `features`, `targets`: training rows.
    `start`: flat weights, by default the spec's initial ones.

    Blocks. Raises ValueError when they do not fit the spec.
    """
    seed = digest("pilot of rates", spec.seed)
    order = np.argsort(np.random.Philox(key=np.frombuffer(seed[:16], "<u8")).random_raw(len(features)), kind="stable")
    judged = order[: max(1, min(MOST_JUDGED, len(order) // 5))]
    trained = order[len(judged) :][:MOST_ROWS] if len(order) > 1 else order
    work = ShardWork(seed, SEGMENT, pilot_segments(spec), 0, 1_000_000)
    found: dict[float, float] = {}
    for rate in RATES:
        one = replace(spec, lr=rate)
        begin = initial_weights(one) if start is None else start
        runner = SegmentRunner(one, work, begin, features[trained], targets[trained])
        while runner.run_segment():
            pass
        with torch_threads(1):
            loss = evaluate(one, runner.weights(), features[judged], targets[judged]).loss if runner.finite() else inf
        found[rate] = loss if isfinite(loss) else inf
    return found


def choose_rate(losses: Mapping[float, float]) -> float:
    """The rate of the least loss; the smallest rate where all diverged."""
    return min(losses, key=lambda rate: (losses[rate], rate))
