"""What one shard is about: the job's one network, or one of its independent trainings. No Prefect in here.

Orders, audits and gates ask this instead of the run, so that they are the same for both kinds of job.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.outer import Published
from cloudlinkup.training.spec import TrainingSpec
from models.facts import JobFacts
from tasks.initial import begin
from tasks.state import Partition, RoundState, Seat

if TYPE_CHECKING:
    from tasks.context import Run


@dataclass(frozen=True)
class Subject:
    """A network in training. `prefix`: of its files in the job's folder. `weight`: of a step's time against the
    costliest training's. `fold`: the rows that it is scored on instead of trained on."""

    spec: TrainingSpec
    published: Published
    generation: int
    prefix: str = ""
    weight: float = 1.0
    fold: int | None = None
    facts: JobFacts | None = None
    frozen: FrozenWeights | None = None  # what of it is not trained


def subject(run: Run, trial: int | None) -> Subject:
    """`trial`: of the entry; None where the contributors train one network together."""
    if trial is None:
        return Subject(run.data.spec, run.weights, run.state.generation, frozen=run.frozen)
    return run.trials[trial]


def as_begun(run: Run, round_: RoundState, trial: int | None) -> Subject:
    """As the shards of `round_` began with it: of a round whose audit runs beside the next one, an earlier network."""
    now = subject(run, trial)
    if trial is not None or round_.generation == now.generation:
        return now
    return replace(now, published=generation(run, round_.generation), generation=round_.generation)


def generation(run: Run, number: int) -> Published:
    """The coordinator's weights as a round left them, from the job's folder; 0: as they began."""
    if number == 0:
        return Published(begin(run, run.data.spec))
    return Published.from_bytes((run.folder / f"weights-{number}.bin").read_bytes())


def partition(run: Run, seat: Seat, trial: int | None) -> Partition:
    """The sealed rows that an order of `seat` names."""
    found = seat.partition if trial is None else run.state.shared[str(run.trials[trial].fold)]
    assert found is not None, "rows are sealed before orders are made"
    return found


def trial_rows(run: Run, trial: int) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets) that a trial trains on: all, or those of the other folds."""
    fold = run.trials[trial].fold
    if fold is None:
        return run.data.features, run.data.targets
    inside = run.folds != fold
    return run.data.features[inside], run.data.targets[inside]
