"""One job as it would go, by the product's own pilot, race, rounds and corrections, against simulated machines.

A machine has a true time per step (hidden from the planner), a moment when it vanishes, and jitter. What a round costs
beside training is `dispatch`. Nothing of planning is written a second time here: `plan_pilot`, `keep`, `plan_round` and
`Correction` are called as the flow calls them.

Not here: money beyond steps, audit, several jobs at once, machines that join late, bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf

import numpy as np

from models.correction import Correction
from models.estimate import Estimate, estimate
from models.facts import TrackRecord
from models.plan import JobPlan, plan_pilot, plan_round
from models.race import Racer, keep

MOST_ROUNDS = 1_000


@dataclass(frozen=True)
class Machine:
    """`seconds` a step, truly; gone after `until` seconds of the job."""

    seconds: float
    until: float = inf


@dataclass(frozen=True)
class Outcome:
    """`seconds` in all; `busy`: machine seconds of paid steps; `estimate` and `at`: after the first round."""

    seconds: float
    busy: float
    rounds: int
    kept: tuple[int, ...]
    estimate: Estimate | None
    at: float


def simulate(
    plan: JobPlan, machines: Sequence[Machine], rng: np.random.Generator, *, dispatch: float = 5.0, jitter: float = 0.05
) -> Outcome:
    """`machines` by seat of `plan.everybody`. `seconds` is infinite where nobody is left."""
    beliefs = {s.seat: Correction.start(s.prediction) for s in plan.everybody}
    left, now, busy, after, at = plan.total_steps, 0.0, 0.0, None, 0.0
    for number in range(1, MOST_ROUNDS):
        beliefs = {s: b for s, b in beliefs.items() if machines[s].until > now}
        if left < plan.segment_steps or not beliefs:
            return Outcome(now if beliefs else inf, busy, number - 1, tuple(beliefs), after, at)
        speeds = {s: b.prediction for s, b in beliefs.items()}
        pilot = number == 1 and plan.pilot_segments > 0
        if pilot:
            split = plan_pilot(plan, number, left, speeds)
        else:
            split = plan_round(plan, number, left, speeds, unmeasured={s for s, b in beliefs.items() if not b.segments})
        took, delivered = 0.0, {}
        for seat in split.seats:
            machine = machines[seat.seat]
            each = machine.seconds * seat.segment_steps * exp(rng.normal(0, jitter))
            done = min(seat.max_segments, int(split.time_box / each))
            mine = min(split.time_box, seat.max_segments * each)
            if machine.until < now + mine:  # what it did is lost with it, and the loss is seen at once
                took = max(took, machine.until - now)
                continue
            took, delivered[seat.seat] = max(took, mine), done
            belief, steps = beliefs[seat.seat], done * seat.segment_steps
            beliefs[seat.seat] = (
                belief.observe(done * each, steps, done)
                if done
                else belief.observe(2 * split.time_box, seat.segment_steps, 1)
            )
            left, busy = left - steps, busy + done * each
        now += took + dispatch
        if pilot and plan.racers and any(delivered.values()):
            racers = [Racer(s, b.prediction, delivered.get(s, 0), TrackRecord()) for s, b in beliefs.items()]
            kept = keep(racers, len(plan.seats), steps=left, seconds_left=inf)
            beliefs = {s: beliefs[s] for s in kept.kept}
        if number == 1 and beliefs:
            rounds = -(-left // max(1, plan.round_steps))
            after, at = estimate(left, [b.prediction for b in beliefs.values()], rounds * dispatch), now
    return Outcome(inf, busy, MOST_ROUNDS, tuple(beliefs), after, at)
