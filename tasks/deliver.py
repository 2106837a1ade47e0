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
from cloudlinkup.training.evaluate import score
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
    if not state.metric:  # no round ended
        held = data.holdout_features, data.holdout_targets
        state.metric, state.score = score(data.spec, run.weights.published, *held)
    folder = run.folder / "delivered"
    write_delivery(folder, data.spec, run.weights.published, data.preprocessing, facts(run))


def facts(run: Run) -> dict[str, Any]:
    """What metrics.json says of how the model came about."""
    data, state = run.data, run.state
    known: dict[str, Any] = {
        "metric": state.metric,
        "score": state.score,
        "rounds": state.round,
        "steps": state.steps_done,
        "rows": {"trained": len(data.features), "held_out": len(data.holdout_features)},
        "contributors": sum(seat.steps > 0 for seat in state.seats),
        "price_per_step": str(state.price),
        "curve": state.curve,
    }
    if (reference := _reference(data.spec.task, data.targets, data.holdout_targets)) is not None:
        known["reference"] = {"name": reference[0], "score": reference[1]}
    if state.ended_early:
        known["ended_early"] = state.ended_early
    return known


def _reference(task: str, targets: np.ndarray, held: np.ndarray) -> tuple[str, float] | None:
    """The score of an answer that looks at no feature, on the same held-out rows."""
    if task == "classification":
        commonest = np.bincount(targets).argmax()
        return "always answering the commonest label", float((held == commonest).mean())
    if task == "regression":
        residual = ((held - targets.mean(axis=0)) ** 2).sum(axis=0)
        total = ((held - held.mean(axis=0)) ** 2).sum(axis=0)
        return "always answering the mean", float(np.mean(1 - residual / total)) if (total > 0).all() else 0.0
    return None
