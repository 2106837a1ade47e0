"""A past job planned and run again under a predictor, with the speeds that its contributors really had.

The product's own `plan_job`, `plan_round` and `Correction` plan it: the first round by the predictor, later ones by
what was observed, each within its time-box. Everybody who worked in the job takes part, at the median speed that the
gateway saw; asks are not in telemetry, so everybody is taken to ask the same an hour at full duty, and the cost is the
contributors' time at full duty. At most `MOST_STEPS` steps a contributor: later rounds are alike.

Not here: who is selected, vanishing contributors, the time of transfers, audit and chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from statistics import median

from models.correction import Correction
from models.facts import Candidate, JobFacts
from models.plan import plan_job, plan_round
from models.predictor import Predictor
from models.seen import Seen
from models.selection import Ranked

MOST_STEPS = 300  # of the replayed job, for each contributor
MOST_ROUNDS = 60


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
    beliefs = {s.seat: Correction.start(s.prediction) for s in plan.seats}
    speeds, makespan, cost, left = plan.predictions, 0.0, 0.0, plan.total_steps
    for number in range(1, MOST_ROUNDS + 1):
        if left < plan.segment_steps:
            break
        split = plan_round(plan, number, left, speeds)
        took = 0.0
        for seat in split.seats:
            each = past.seconds[seat.seat] * seat.segment_steps
            done = min(seat.max_segments, int(seat.time_box / each))
            took = max(took, min(seat.time_box, seat.max_segments * each))
            cost += done * each * past.candidates[seat.seat].share
            left -= done * seat.segment_steps
            belief = beliefs[seat.seat]
            # too slow for one segment: known to be at least that slow
            beliefs[seat.seat] = (
                belief.observe(done * each, done * seat.segment_steps, done)
                if done
                else belief.observe(2 * seat.time_box, seat.segment_steps, 1)
            )
        makespan += took
        speeds = {seat: belief.prediction for seat, belief in beliefs.items()}
    return makespan, cost
