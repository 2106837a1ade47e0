"""When a job that is under way will be done: P50, P80, P90 and the probability of a deadline, from what is known now.

All contributors work until the end of the work, since each round is split anew; so the time left is the steps left
over the sum of their speeds, nobody counting for over `plan.MOST_WORK` of it from four on, and what rounds lose:

    seconds = rounds x handling + steps / speed x (1 + FLOOR / segments + LAST / rounds)

`segments` are those of an average seat in a round (whole ones are delivered, so a third of one is lost), and in the
last round, which has no bell, all wait for the slowest. Both figures were fitted to simulated jobs. Uncertain are each
contributor's speed (the belief's own interval), what all share (`COMMON`, `LAST_SPREAD`), and who vanishes (`LOST` do,
at any time; the best of those that raced and were not kept takes the place from then on, if there is one). That has no
closed form: fixed-seed draws, so the same facts give the same answer.

The draws are then set right by how they fell out: `KEPT` holds, for stated levels, the level of the draws that kept
them in simulated jobs (conformal, per job: the whole job's end, not each contributor's speed).
`benchmarks.calibration --fit` makes the table, and without it judges on another seed.

Not covered: contributors that join later, who only make it sooner; a share of vanishing other than the assumed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
from numpy.typing import NDArray

from models.correction import Z90
from models.facts import Prediction
from models.plan import BOUND_FROM, MOST_WORK, JobPlan, rounds_left

DRAWS = 512
LOST = 0.05  # share of contributors that vanish in a job
HANDS = 0.5  # of a round's work is lost with who vanishes
FLOOR, LAST = 0.32, 0.06
COMMON, LAST_SPREAD = (
    0.02,
    0.04,
)  # sigma in log space of what slows all together, and of the last round over their number
# stated level, and the level of the draws that is told for it
KEPT = (
    *((0.0, 0.0), (0.02, 0.018), (0.05, 0.062), (0.1, 0.133), (0.2, 0.24), (0.35, 0.371), (0.5, 0.486)),
    *((0.65, 0.613), (0.8, 0.785), (0.9, 0.891), (0.95, 0.939), (0.98, 0.979), (1.0, 1.0)),
)


@dataclass(frozen=True)
class Rest:
    """What is left of a job. `handling`: seconds a round beside training. Raises ValueError for negative numbers."""

    steps: float
    rounds: int = 1
    handling: float = 0.0
    segments: float = 10.0  # of an average seat in a round

    def __post_init__(self) -> None:
        if self.steps < 0 or self.rounds < 0 or self.handling < 0 or self.segments <= 0:
            raise ValueError("what is left is steps, rounds and seconds of at least 0")


def rest_of(plan: JobPlan, remaining: int, seats: int, handling: float) -> Rest:
    """`remaining` steps by so many seats in the rounds that the plan would hold."""
    rounds = rounds_left(plan, remaining, seats)
    segments = remaining / max(1, rounds) / max(1, seats) / plan.segment_steps
    return Rest(remaining, rounds, handling, max(1.0, segments))


@dataclass(frozen=True)
class Estimate:
    """Seconds from now until the work is done, as sorted draws."""

    draws: NDArray[np.float64]

    def quantile(self, level: float) -> float:
        return float(np.quantile(self.draws, level))

    def probability(self, seconds: float) -> float:
        """That it is done within `seconds`."""
        return float(np.searchsorted(self.draws, seconds, side="right") / len(self.draws))


@lru_cache(maxsize=64)
def _randoms(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(speeds, share of the time that each stays, what is common, the how-manieth loss of the draw), standard."""
    rng = np.random.default_rng(0)
    lost = rng.random((DRAWS, count)) < LOST
    stays = np.where(lost, rng.random((DRAWS, count)), 1.0)
    return rng.standard_normal((DRAWS, count)), stays, rng.standard_normal((2, DRAWS)), lost.cumsum(1) - 1


def raw(rest: Rest, speeds: Sequence[Prediction], spares: Sequence[Prediction] = ()) -> Estimate:
    """As `estimate`, before the draws are set right."""
    if not speeds:
        raise ValueError("an estimate needs contributors")
    seconds = np.array([p.seconds for p in speeds])
    sigma = np.array([log(p.high / p.seconds) / Z90 for p in speeds])
    normal, stays, common, loss = _randoms(len(speeds))
    rounds = max(1, rest.rounds)
    lost = stays < 1
    stays = np.where(lost, np.maximum(0.0, stays - HANDS / rounds), 1.0)
    speed = 1 / (seconds * np.exp(sigma * normal))
    if spares:
        next_best = np.array([*sorted((1 / p.seconds for p in spares), reverse=True), 0.0])
        speed = stays * speed + (1 - stays) * next_best[np.minimum(loss, len(spares))]
    else:
        speed = stays * speed
    if len(speeds) >= BOUND_FROM:  # one at most can have over so much, as it is over a half
        speed = np.minimum(speed, (speed.sum(1, keepdims=True) - speed) * float(MOST_WORK / (1 - MOST_WORK)))
    # somebody is always left in the end: the job waits for one to return rather than for ever
    rate = np.maximum(speed.sum(1), 0.05 / np.median(seconds))
    slow = np.exp(COMMON * common[0] + LAST_SPREAD / rounds * common[1])
    training = rest.steps * (1 + FLOOR / rest.segments + LAST / rounds) * slow / rate
    more = HANDS * lost.any(1)  # rounds, for what was lost
    return Estimate(np.sort((rest.rounds + more) * rest.handling + training))


def estimate(rest: Rest, speeds: Sequence[Prediction], spares: Sequence[Prediction] = ()) -> Estimate:
    """When the `rest` is done by contributors at `speeds`; `spares` take the places of those that vanish.

    Raises ValueError for no contributors.
    """
    draws = raw(rest, speeds, spares).draws
    stated, told = zip(*KEPT, strict=True)
    levels = np.interp((np.arange(DRAWS) + 0.5) / DRAWS, stated, told)
    return Estimate(np.quantile(draws, levels))
