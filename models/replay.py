"""A past job planned and run again under a predictor, with the speeds that its contributors really had.

The product's own `plan_job` plans it, and a `Simulation` runs it: the first round by the predictor, later ones by what
was observed, each within its time-box. Unlike in the flow, the first round's split follows the predictions as well
(`Simulation.trusts`), as predictors are compared here. Everybody who worked in the job takes part, at the median speed
that the gateway saw; asks are not in telemetry, so everybody is taken to ask the same an hour at full duty, and the
cost is the contributors' time at full duty. At most `MOST_STEPS` steps a contributor: later rounds are alike.

Not here: who is selected, vanishing contributors, the time of transfers, audit and chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from statistics import median

import numpy as np

from models.facts import Candidate, JobFacts
from models.plan import plan_job
from models.predictor import Predictor
from models.seen import Seen
from models.selection import Ranked
from models.simulator import Machine, Simulation, World

MOST_STEPS = 300  # of the replayed job, for each contributor


@dataclass(frozen=True)
class PastJob:
    """One job, its contributors, and wall seconds per step of each as they were, in the order of `candidates`."""

    job: JobFacts
    candidates: tuple[Candidate, ...]
    seconds: tuple[float, ...]


def past_job(seen: Sequence[Seen]) -> PastJob:
    """From the accepted shards of one job."""
    by_agent: dict[str, list[Seen]] = {}
    for s in seen:
        by_agent.setdefault(s.candidate.agent, []).append(s)
    candidates = tuple(rows[-1].candidate for rows in by_agent.values())
    seconds = tuple(median(exp(s.truth) / s.candidate.share for s in rows) for rows in by_agent.values())
    return PastJob(seen[0].job, candidates, seconds)


def replay(past: PastJob, predictor: Predictor) -> tuple[float, float]:
    """(makespan in seconds, seconds at full duty of all contributors) of the job under this predictor's plans."""
    n = len(past.candidates)
    most = MOST_STEPS * n * past.job.batch
    job = past.job.model_copy(update={"samples": min(past.job.samples, most)})
    predictions = predictor.predict(job, past.candidates)
    chosen = [Ranked(c, p, 1, 1.0) for c, p in zip(past.candidates, predictions, strict=True)]
    plan = plan_job(job, chosen, predictor=predictor.name, version=predictor.version)
    machines = {seat: Machine(seconds) for seat, seconds in enumerate(past.seconds)}
    running = Simulation(plan, machines, np.random.default_rng(0), World(0.0, 0.0), tells=False, trusts=True)
    while running.step():
        pass
    done = running.outcome()
    return done.seconds, sum(took * past.candidates[seat].share for seat, took in done.work.items())
