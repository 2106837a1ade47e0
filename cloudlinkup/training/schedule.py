"""What changes over a job: the learning rate of a step, and the outer momentum of a round. And how its rounds are made.

One warm-up and one cosine over the whole job, whoever runs the step. Progress is the share of the job's samples, so a
round that takes longer or a contributor that does less moves nobody else's schedule.

Rounds are either *stateless* (AdamW's moments begin afresh in each round; anybody may take over a seat at any round) or
*kept* (each seat goes on with its own; short rounds, and Nesterov momentum m on the averaged updates once the start is
over). Momentum makes every step count 1 / (1 - m) times, so AdamW's local steps in kept rounds are sqrt(1 - m) as long:
without that a table of twice the errors loses another 0.9 points, and a text 6% of the loss (docs/rounds.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, pi, sqrt
from typing import Literal

from cloudlinkup.training.spec import ShardWork, Task, TrainingSpec

WARM_UP = 0.03  # share of the job over which the rate rises linearly from 0
FLOOR = 0.02  # share of the peak at the end
MILLION = 1_000_000
FEW_PASSES = 20  # over the training rows: at 10.7 kept state is better, at 36 and 89 there is no difference
MOMENTUM_FROM = 0.2  # of the job: from the start on it is far worse
MOMENTUM_TEXT, MOMENTUM_TABLE = 0.6, 0.5
MOMENTUM_MUON = 0.75  # of a text by Muon: with 0.5 to 0.7 or 0.8 it loses more (docs/rounds.md)
MOST_OUTER = 1.5

Rounds = Literal["stateless", "kept"]


def choose_rounds(task: Task, samples: int, rows: int) -> Rounds:
    """What "auto" means: kept for language models and for jobs that see their rows a few times only."""
    return "kept" if task == "next_token" or samples < FEW_PASSES * rows else "stateless"


def whole_text(spec: TrainingSpec) -> bool:
    """Whether kept rounds are as short as the bytes allow: for next-token models that are trained whole. Adapters lose
    0.6% of the loss with 25 steps too, and their audit opens states, which costs more the more rounds there are."""
    return spec.task == "next_token" and spec.frozen is None


def outer_momentum(spec: TrainingSpec, progress: float) -> float:
    """Nesterov momentum of a round that begins at `progress` in 0..1."""
    return 0.0 if progress < MOMENTUM_FROM else _momentum(spec)


def _momentum(spec: TrainingSpec) -> float:
    if spec.rounds == "stateless":
        return 0.0
    if spec.task != "next_token":
        return MOMENTUM_TABLE
    return MOMENTUM_MUON if spec.optimizer == "muon" else MOMENTUM_TEXT


def outer_rate(spec: TrainingSpec, shares: Iterable[float]) -> float:
    """What a kept round's averaged update is multiplied by: sqrt(n / 4), within 1 and 1.5, for the n equal updates of
    which the mean would be as little noise as the one with these `shares` (their sum is 1). At equal samples sixteen
    contributors take a quarter of the steps that four do, each on as small a batch: the mean of them is surer and too
    short. What was tried: docs/rounds.md."""
    if spec.rounds == "stateless":
        return 1.0
    alike = 1 / sum(share * share for share in shares)
    return min(MOST_OUTER, max(1.0, sqrt(alike / 4)))


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


def rate(spec: TrainingSpec, work: ShardWork, index: int) -> float:
    """Learning rate of the shard's step `index`. Muon's steps stay as long: shorter ones lost 4% of a text's loss."""
    shorter = 1.0 if spec.optimizer == "muon" else sqrt(1 - _momentum(spec))
    return spec.lr * shorter * factor(progress_at(work, index))
