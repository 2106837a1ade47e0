"""Stage *deliver*: the model as a folder that a person can use without us."""

from __future__ import annotations

import asyncio

from cloudlinkup.sdk.delivered import write_delivery
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.context import Run


@task(name="deliver", cache_policy=NO_CACHE)
async def deliver(run: Run) -> None:
    """Writes `delivered/` in the job's folder: weights, spec, preprocessing, metrics. The receipt follows at settle."""
    run.save("deliver")
    with run.timed("deliver"):
        state = run.state
        await asyncio.to_thread(
            write_delivery,
            run.folder / "delivered",
            spec=run.data.spec,
            weights=run.weights.published,
            preprocessing=run.data.preprocessing,
            metrics={
                "metric": state.metric,
                "score": state.score,
                "rounds": state.round,
                "steps": state.steps_done,
                "curve": state.curve,
            },
        )
    run.save("settle")
    run.event("delivered", metric=run.state.metric, score=round(run.state.score, 4))
