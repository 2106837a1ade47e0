"""Independent trainings of one job: which there are, how far each runs, which are stopped. Pure.

A *trial* is a training of its own from its own start, done by one contributor at a time; a *wave* is a round on chain
in which every contributor does one chunk of one trial. Nothing is averaged between them, so there is no limit to how
many contributors help, and no loss from their number; what remains is that a trial's own steps follow each other.

Successive halving (Jamieson and Talwalkar 2016), synchronous: at a rung all that are left are compared at the same
share of their steps, and all but the best 1/eta stop.

Not here: who does how much of which in a wave (`waves`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Any, Literal

import numpy as np

from cloudlinkup.errors import BadInput
from cloudlinkup.search import Ensemble, Folds, GridSearch, Halving, RandomSearch, Range
from cloudlinkup.types import CAPS, Frozen, JobSpec, parse_job
from cloudlinkup.wire.hashes import digest

SEGMENT = 10  # steps
STATE_BYTES = 256 * 2**20  # of a contributor's disk for the states of one chunk's segments

State = Literal["open", "stopped", "done"]


@dataclass(frozen=True)
class Trial:
    """One training: its number, the job that it alone would be, what sets it apart, and the fold it is scored on."""

    number: int
    job: JobSpec
    settings: dict[str, Any]
    fold: int | None = None


def expand(job: JobSpec) -> tuple[Trial, ...]:
    """The trials of a job with `search`. The same job gives the same ones. Raises BadInput that names the field."""
    search = job.search
    assert search is not None
    alone = job.model_dump(mode="json") | {"search": None}
    if isinstance(search, Folds):
        plain = parse_job(alone)
        trials = [Trial(k, plain, {"fold": k}, k) for k in range(search.folds)]
        if search.deliver == "final":
            trials.append(Trial(search.folds, plain, {"fold": "none"}))
        return _capped(job, trials)
    return _capped(job, [Trial(k, _with(alone, one), one) for k, one in enumerate(_settings(job))])


def _settings(job: JobSpec) -> list[dict[str, Any]]:
    search = job.search
    if isinstance(search, Ensemble):
        return [{"train.seed": (job.train.seed + k) % 2**63} for k in range(search.members)]
    if isinstance(search, GridSearch):
        count = int(np.prod([len(values) for values in search.over.values()], dtype=object))
        if count > CAPS["trials"]:
            problem = f"{count} combinations are more than {CAPS['trials']}"
            raise BadInput("search.over", f"{count} trainings", problem, "give fewer values, or use a random search")
        return [dict(zip(search.over, values, strict=True)) for values in itertools.product(*search.over.values())]
    assert isinstance(search, RandomSearch)
    generator = np.random.Generator(np.random.Philox(np.frombuffer(digest("search", job.train.seed)[:16], "<u8")))
    return [{path: _draw(choice, generator) for path, choice in search.over.items()} for _ in range(search.trials)]


def _draw(choice: tuple[Any, ...] | Range, generator: np.random.Generator) -> Any:
    unit = float(generator.random())
    if not isinstance(choice, Range):
        return choice[int(unit * len(choice))]
    low, high = (log(choice.low), log(choice.high)) if choice.log else (choice.low, choice.high)
    value = low + unit * (high - low)
    value = exp(value) if choice.log else value
    return round(value) if choice.whole else float(f"{value:.6g}")


def _with(document: dict[str, Any], settings: Mapping[str, Any]) -> JobSpec:
    """The job with these settings in place. Raises BadInput that says which training it is."""
    changed = document | {"train": dict(document["train"]), "model": dict(document["model"])}
    for path, value in settings.items():
        part, _, name = path.partition(".")
        changed[part][name] = value
    try:
        return parse_job(changed)
    except BadInput as error:
        raise BadInput(f"search ({error.field})", error.value, error.problem, error.fix) from None


def _capped(job: JobSpec, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    if len(trials) < 2:
        raise BadInput("search.over", "1 training", "there is nothing to compare", "give more values, or no search")
    jobs = [(trial.job.model_dump_json(), trial.fold) for trial in trials]
    if len(set(jobs)) < len(jobs) and not isinstance(job.search, RandomSearch):
        raise BadInput("search.over", "(twice)", "two trainings are the same", "give each value once")
    if job.train.samples * len(trials) > CAPS["samples"]:
        many = f"{job.train.samples} x {len(trials)}"
        raise BadInput("train.samples", many, f"more than {CAPS['samples']} in all", "take fewer samples or trainings")
    return tuple(trials)


# ---------------------------------------------------------------- steps and rungs


def segment_steps(trials: Sequence[Trial]) -> int:
    """Steps a segment, one for the whole job: ten, or what the shortest training has."""
    return min(SEGMENT, *(-(-trial.job.train.samples // trial.job.train.batch) for trial in trials))


def total_steps(trial: Trial, segment: int) -> int:
    """Optimizer steps of one whole training, in whole segments."""
    return -(-trial.job.train.samples // trial.job.train.batch) // segment * segment


def rung_steps(total: int, halving: Halving, rung: int, segment: int) -> int:
    """Steps after which a training of `total` steps is compared at `rung` (from 0), in whole segments, at least one."""
    exact = total / halving.eta ** (halving.rungs - rung)
    return min(total, max(segment, round(exact / segment) * segment))


def kept(count: int, halving: Halving) -> int:
    """How many of `count` go on after a rung: at least one."""
    return max(1, ceil(count / halving.eta))


@dataclass(frozen=True)
class Standing:
    """How far a trial is. `weight`: a step's time against the costliest trial's. `score`: the last, higher is better.

    `most_segments`: of one chunk, so that a contributor can keep every state.
    """

    number: int
    total: int
    done: int = 0
    state: State = "open"
    score: float | None = None
    weight: float = 1.0
    most_segments: int = 10**9


def boundary(one: Standing, halving: Halving | None, rung: int, segment: int) -> int:
    """The step up to which it may run before it is compared with the others."""
    if halving is None or rung >= halving.rungs:
        return one.total
    return rung_steps(one.total, halving, rung, segment)


def after_wave(
    standings: Sequence[Standing], halving: Halving | None, rung: int, segment: int
) -> tuple[tuple[int, ...], int]:
    """(the trials that stop now, the rung that is next). Several rungs at once where rounding put them together.

    Ties go to the lower number; a trial without a score is the worst.
    """
    gone: list[int] = []
    while halving is not None and rung < halving.rungs:
        running = [one for one in standings if one.state == "open" and one.number not in gone]
        if not running or any(one.done < boundary(one, halving, rung, segment) for one in running):
            break
        best = sorted(running, key=lambda one: (-(one.score if one.score is not None else -float("inf")), one.number))
        gone += [one.number for one in best[kept(len(running), halving) :]]
        rung += 1
    return tuple(sorted(gone)), rung


def steps_in_all(totals: Sequence[int], halving: Halving | None, segment: int) -> int:
    """Steps of the whole job at most: with halving, those whose trainings stop are the shortest."""
    if halving is None:
        return sum(totals)
    left, spent, before = sorted(totals, reverse=True), 0, [0] * len(totals)
    for rung in range(halving.rungs):
        at = [rung_steps(total, halving, rung, segment) for total in left]
        spent += sum(a - b for a, b in zip(at, before, strict=True))
        keep = kept(len(left), halving)
        left, before = left[:keep], at[:keep]
    return spent + sum(total - b for total, b in zip(left, before, strict=True))


# ---------------------------------------------------------------- rows


def fold_of_rows(rows: int, folds: int, seed: int, classes: np.ndarray | None = None) -> np.ndarray:
    """int32 (rows,): the fold of each row, sizes alike, and alike in every class where `classes` are given.

    Raises BadInput where a fold would have fewer than two rows.
    """
    if rows < 2 * folds:
        raise BadInput("search.folds", folds, f"{rows} rows are too few for so many folds", "take fewer folds")
    key = np.frombuffer(digest("folds", seed)[:16], "<u8")
    order = np.argsort(np.random.Philox(key=key).random_raw(rows), kind="stable")
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    out = np.empty(rows, np.int32)
    out[order] = np.arange(rows) % folds
    return out


def halves(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows to choose by, rows to report on): the held-out ones in two, so that what is reported was not chosen on.

    With a single row both are that one.
    """
    key = np.frombuffer(digest("choose", seed)[:16], "<u8")
    order = np.argsort(np.random.Philox(key=key).random_raw(rows), kind="stable")
    if rows < 2:
        return order, order
    return np.sort(order[: rows // 2]), np.sort(order[rows // 2 :])


# ---------------------------------------------------------------- the whole search


class SearchWork(Frozen):
    """What planning needs of a search, by trial: steps, a step's time against the costliest one's, segments a chunk."""

    steps: tuple[int, ...]
    weights: tuple[float, ...]
    most_segments: tuple[int, ...]
    segment: int
    halving: Halving | None = None

    @property
    def total_steps(self) -> int:
        """Steps at most, with what halving saves taken off."""
        return steps_in_all(self.steps, self.halving, self.segment)

    def standings(self) -> list[Standing]:
        """Every trial before its first step."""
        rows = zip(self.steps, self.weights, self.most_segments, strict=True)
        return [Standing(k, total, weight=w, most_segments=most) for k, (total, w, most) in enumerate(rows)]


def most_segments(parameters: int) -> int:
    """Segments of one chunk whose states (12 bytes a parameter each) a contributor can be asked to keep."""
    return max(3, STATE_BYTES // (12 * max(1, parameters)) - 1)
