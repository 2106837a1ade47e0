"""Stage *deliver*: the model as a folder that a person can use without us.

Any round can be the last: what is delivered is the weights after the last one that verified. A job that failed after
such a round is delivered too; one without any delivers the weights it began with, and their score.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from cloudlinkup.sdk.delivered import write_delivery
from cloudlinkup.training.evaluate import all_scores, score_outputs
from cloudlinkup.training.headline import headline
from cloudlinkup.training.outer import Published
from cloudlinkup.training.spec import TrainingSpec
from tasks.context import Run
from tasks.results import write_results


@task(name="deliver", cache_policy=NO_CACHE)
async def deliver(run: Run) -> None:
    """Writes `delivered/` in the job's folder: all but the receipt, which follows at settle."""
    run.save("deliver")
    with run.timed("deliver"):
        await asyncio.to_thread(_write, run)
    run.save("settle")
    run.event("delivered", metric=run.state.metric, score=round(run.state.score, 4))


def _write(run: Run) -> None:
    data, state = run.data, run.state
    if run.job.search is not None:
        write_results(run, facts(run))
        return
    weights = best_weights(run)
    state.metric = headline(data.spec.task, run.job.metric)
    state.metrics = all_scores(data.spec, weights, data.holdout_features, data.holdout_targets, run.frozen)
    state.score = state.metrics[state.metric]
    write_delivery(run.folder / "delivered", data.spec, weights, data.preprocessing, facts(run))


def best_weights(run: Run) -> np.ndarray:
    """What is delivered: the last round's published weights, or with `train.patience` those of the best; where the last
    audit took something out of them, the weights without it."""
    best = run.state.best_generation
    if run.state.unpublished and best in (0, run.state.generation):
        return run.weights.weights
    if run.job.train.patience is None or best in (0, run.state.generation):
        return run.weights.published
    return Published.from_bytes((run.folder / f"weights-{best}.bin").read_bytes()).published


def facts(run: Run) -> dict[str, Any]:
    """What metrics.json says of how the model came about."""
    data, state = run.data, run.state
    known: dict[str, Any] = {
        "metric": state.metric,
        "score": state.score,
        "metrics": state.metrics,
        "rounds": state.round,
        "steps": state.steps_done,
        "rows": {"trained": len(data.features), "held_out": len(data.holdout_features)},
        "contributors": sum(seat.steps > 0 for seat in state.seats),
        "price_per_step": str(state.price),
        "curve": state.curve,
    }
    if state.best_score is not None and run.job.search is None:
        known["chosen"] = f"the best of {len(state.curve)} rounds, number {state.best_round}, by these very rows"
    name, value = _reference(data.spec, state.metric, data.targets, data.holdout_targets)
    known["reference"] = {"name": name, "score": value}
    if state.rolled_back:
        known["rolled_back"] = state.rolled_back
    if state.ended_early:
        known["ended_early"] = state.ended_early
    return known


def _reference(spec: TrainingSpec, metric: str, targets: np.ndarray, held: np.ndarray) -> tuple[str, float]:
    """The score of an answer that looks at no feature, on the same held-out rows."""
    if spec.task == "regression":
        mean = np.broadcast_to(targets.mean(axis=0), held.shape)
        return "always answering the mean", score_outputs(spec, mean, held, metric).value
    counts = np.bincount(targets.reshape(-1), minlength=spec.outputs).astype(np.float64)
    if spec.task == "next_token":
        logs = np.log((counts + 1) / (counts + 1).sum())
        guessed = float((held == counts.argmax()).mean())
        value = guessed if metric == "accuracy" else float(np.exp(-logs[held.reshape(-1)].mean()))
        return "answering each token as often as the text has it", value
    constant = np.broadcast_to(counts, (len(held), spec.outputs))
    return "always answering the commonest label", score_outputs(spec, constant, held, metric).value
