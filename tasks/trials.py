"""The independent trainings of a job with `search`, between the stored state and the pure rules of `models/trials`.

A wave is a round like any other: orders, roots, challenges, replays and awards are the same. What differs stands here:
what each order is about, what becomes of an accepted update (it is added to its own training, with no other), which
trainings go on. After `kill -9` each training goes on from its own last stored weights. No Prefect in here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cloudlinkup.errors import BadInput
from cloudlinkup.home import Settings
from cloudlinkup.model_spec import for_training
from cloudlinkup.search import Folds
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.training.architectures import check_spec, parameter_count, with_micro_batch
from cloudlinkup.training.data import pack_partition
from cloudlinkup.training.evaluate import score
from cloudlinkup.training.headline import better
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import dequantise
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import Frozen, JobSpec
from cloudlinkup.wire.hashes import sha256
from models.facts import JobFacts, Prediction
from models.plan import JobPlan, RoundPlan
from models.trials import (
    SearchWork,
    Standing,
    after_wave,
    expand,
    fold_of_rows,
    halves,
    most_segments,
    segment_steps,
    total_steps,
)
from models.waves import FIXED, MOST_FIXED, Chunk, plan_wave, wave_round
from tasks.context import Run
from tasks.initial import begin
from tasks.orders import update_name
from tasks.planning import job_facts, profile
from tasks.race import handling
from tasks.state import Partition, RoundState, TrialState
from tasks.subject import Subject, trial_rows

SEARCH = "search.json"


class TrialPlan(Frozen):
    """One training, as it was set up. `spec`: canonical JSON. `facts`: its place among the search's."""

    settings: dict[str, Any]
    fold: int | None
    spec: str
    facts: int


class SearchPlan(Frozen):
    """All of them, and what planning knows of each kind of step. `facts[0]` is the costliest's, for all the steps."""

    trials: tuple[TrialPlan, ...]
    work: SearchWork
    facts: tuple[JobFacts, ...]


async def plan_search(
    job: JobSpec, data: Prepared, settings: Settings, base: FrozenWeights | None = None
) -> SearchPlan:
    """Expands, checks and times the trainings: about a second for each network that differs. Raises BadInput."""
    trials, found = expand(job), []
    segment = segment_steps(trials)
    if isinstance(job.search, Folds):
        _folds(job, data)
    profiles: dict[str, Any] = {}
    known: dict[tuple[str, int], JobFacts] = {}
    for trial in trials:
        one = trial.job
        model, frozen = for_training(one.model)
        lr = data.spec.lr if one.train.lr == "auto" else one.train.lr
        spec = replace(data.spec, model=model, frozen=frozen, batch=one.train.batch, lr=lr, seed=one.train.seed)
        try:
            check_spec(spec)
            spec = with_micro_batch(spec, one.train.micro_batch)
        except ValueError as error:
            problem = f"{error} (in a training with {trial.settings})"
            raise BadInput("search", trial.number, problem, "leave that combination out") from None
        key, like = json.dumps(model), replace(data, spec=spec)
        if key not in profiles:
            profiles[key] = await profile(like, settings, base if spec.frozen else None)
        if (key, spec.batch) not in known:
            facts = await asyncio.to_thread(job_facts, one, like, profiles[key], settings.home, base)
            known[key, spec.batch] = facts
        found.append((trial, spec, (key, spec.batch)))
    seconds = {kind: facts.profile.step_seconds(facts.batch) for kind, facts in known.items()}
    order = sorted(known, key=lambda kind: (-seconds[kind], kind))
    work = SearchWork(
        steps=tuple(total_steps(trial, segment) for trial, _, _ in found),
        weights=tuple(seconds[kind] / seconds[order[0]] for _, _, kind in found),
        most_segments=tuple(most_segments(parameter_count(spec)) for _, spec, _ in found),
        segment=segment,
        halving=getattr(job.search, "halving", None),
    )
    costliest = known[order[0]]
    quoted = costliest.model_copy(update={"samples": work.total_steps * costliest.batch})
    return SearchPlan(
        trials=tuple(
            TrialPlan(
                settings=trial.settings, fold=trial.fold, spec=spec.to_bytes().decode(), facts=1 + order.index(kind)
            )
            for trial, spec, kind in found
        ),
        work=work,
        facts=(quoted, *(known[kind] for kind in order)),
    )


def stored_search(run: Run) -> SearchPlan:
    """What segment planned of this job's search."""
    return SearchPlan.model_validate_json((run.folder / SEARCH).read_bytes())


def load_trials(run: Run) -> None:
    """Every training at its last stored weights, or at its start."""
    plan = stored_search(run)
    fresh = not run.state.trials
    if fresh:
        run.state.trials = [TrialState() for _ in plan.trials]
    if isinstance(run.job.search, Folds):
        run.folds = _folds(run.job, run.data)
    run.trials = [_live(run, plan, number) for number in range(len(plan.trials))]
    if fresh:
        for number, state in enumerate(run.state.trials):
            state.scores = [_score(run, number, 0)]


def _live(run: Run, plan: SearchPlan, number: int) -> Subject:
    trial, state, prefix = plan.trials[number], run.state.trials[number], f"trials/{number:02}/"
    spec = TrainingSpec.from_bytes(trial.spec.encode())
    kept = run.folder / f"{prefix}weights-{state.generation}.bin"
    if state.generation and kept.exists():
        published = Published.from_bytes(kept.read_bytes())
    else:
        published = Published(begin(run, spec))
    return Subject(
        spec=spec,
        published=published,
        generation=state.generation,
        prefix=prefix,
        weight=plan.work.weights[number],
        fold=trial.fold,
        facts=plan.facts[trial.facts],
        frozen=None if spec.frozen is None else run.base,
    )


def _score(run: Run, number: int, steps: int) -> tuple[int, float]:
    of = run.trials[number]
    rows = choosing_rows(run, number)
    run.state.metric, value = score(of.spec, of.published.published, *rows, run.job.metric, of.frozen)
    return steps, value


def _folds(job: JobSpec, data: Prepared) -> np.ndarray:
    assert isinstance(job.search, Folds)
    classes = data.targets if job.task == "classification" else None
    return fold_of_rows(len(data.features), job.search.folds, job.train.seed, classes)


def work_left(run: Run) -> bool:
    return any(trial.state == "open" for trial in run.state.trials)


def standings(run: Run, work: SearchWork) -> list[Standing]:
    """Every training as the rules see it."""
    return [
        replace(
            one,
            done=state.done,
            state=state.state,
            score=better(run.state.metric, state.scores[-1][1]) if state.scores else None,
        )
        for one, state in zip(work.standings(), run.state.trials, strict=True)
    ]


Seal = Callable[[Run, bytes, int, str], Awaitable[Partition]]


async def seal_trial_rows(run: Run, seal: Seal) -> None:
    """The rows as sealed blobs: once for all seats, and once for each fold that is left out."""
    for number, of in enumerate(run.trials):
        key = str(of.fold)
        if key in run.state.shared:
            continue
        features, targets = trial_rows(run, number)
        plain = await asyncio.to_thread(pack_partition, features, targets)
        run.state.shared = run.state.shared | {key: await seal(run, plain, len(features), f"all but fold {key}")}


def plan_trials(
    run: Run, plan: JobPlan, number: int, beliefs: Mapping[int, Prediction], most: Mapping[int, int] | None
) -> RoundPlan | None:
    """The next wave, as orders will say it; None where the budget leaves no segment. `most`: steps by seat."""
    work = stored_search(run).work

    def wave(caps: Mapping[int, int] | None) -> tuple[Chunk, ...]:
        return plan_wave(
            standings(run, work),
            beliefs,
            segment=work.segment,
            halving=work.halving,
            rung=run.state.rung,
            first=run.state.round == 0,
            fixed=min(MOST_FIXED, handling(run)) if run.state.round else FIXED,
            overheads={seat.seat: seat.transfer for seat in run.state.active()},
            most_steps=caps,
        )

    chunks = wave(None)
    if most is not None and sum(c.segments for c in chunks) * work.segment > sum(most.values()):
        chunks = wave(most)
    return wave_round(plan, number, chunks, beliefs, work) if chunks else None


def advance_trials(run: Run, round_: RoundState) -> None:
    """Each accepted update moves its own training; then the rungs say which of them stop."""
    work = stored_search(run).work
    for entry in round_.entries:
        if entry.outcome == "accepted":
            assert entry.trial is not None
            _advance_one(run, round_, entry.trial, entry.seat, entry.segments * work.segment, work)
    gone, run.state.rung = after_wave(standings(run, work), work.halving, run.state.rung, work.segment)
    for number in gone:
        run.state.trials[number].state = "stopped"
    if gone:
        run.event("stopped", round=round_.round, trials=list(gone), why="the best at this rung go on")
    last = [state.scores[-1][1] for state in run.state.trials if state.scores]
    if last:
        run.state.score = max(last, key=lambda value: better(run.state.metric, value))
        run.state.curve = [*run.state.curve, (run.state.steps_done, run.state.score)]


def _advance_one(run: Run, round_: RoundState, number: int, seat: int, steps: int, work: SearchWork) -> None:
    of, state = run.trials[number], run.state.trials[number]
    published = of.published
    update = dequantise((run.folder / update_name(round_.round, seat)).read_bytes(), published.weights.size)
    base = sha256(published.published.tobytes())
    run.state.steps_done += steps
    state.done += steps
    try:
        delta = published.advance(published.weights + update)
    except ValueError as error:  # diverged: verified work stays paid, this training is over
        run.event("not_advanced", round=round_.round, trial=number, why=str(error))
        state.state = "stopped"
        return
    run.write(f"{of.prefix}delta-{published.rounds}.bin", delta)
    run.write(f"{of.prefix}base-{published.rounds}.txt", base.encode())
    run.write(f"{of.prefix}weights-{published.rounds}.bin", published.to_bytes())
    state.generation, state.holder = published.rounds, seat
    run.trials[number] = replace(of, generation=published.rounds)
    state.scores = [*state.scores, _score(run, number, state.done)]
    if state.done >= work.steps[number]:
        state.state = "done"


def choosing_rows(run: Run, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What a training is judged on: its fold, or the first half of the held-out rows."""
    data, fold = run.data, run.trials[number].fold
    if fold is not None:
        return data.features[run.folds == fold], data.targets[run.folds == fold]
    if isinstance(run.job.search, Folds):
        return data.holdout_features, data.holdout_targets  # nothing is chosen by it
    rows, _ = halves(len(data.holdout_targets), run.job.train.seed)
    return data.holdout_features[rows], data.holdout_targets[rows]


def reporting_rows(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Held-out rows that nothing was chosen by."""
    data = run.data
    if isinstance(run.job.search, Folds):
        return data.holdout_features, data.holdout_targets
    _, rows = halves(len(data.holdout_targets), run.job.train.seed)
    return data.holdout_features[rows], data.holdout_targets[rows]
