"""When a job that is under way will be done: P50, P80, P90 and the probability of a deadline, from what is known now.

All contributors work until the end of the work, since each round is split anew; so the time left is the steps left
over the sum of their speeds. Uncertain are each contributor's speed (the belief's own interval), a move that all share
(`COMMON`), and who vanishes (5% do, the simulated rate, at any time). The sum has no closed form: fixed-seed draws, so
the same facts give the same answer. Rounds of whole segments with a time-box lose a few percent against the
bound: `ROUNDS`. It and `COMMON` are assumptions. `benchmarks.calibration` holds the result against simulated jobs: a
deadline stated at 95% is kept less often than that, so take the quantiles for a little early.

Not covered: contributors that join later, who only make it sooner.
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

DRAWS = 512
LOST = 0.05  # share of contributors that vanish in a job
COMMON = 0.02  # sigma in log space of what slows all together
ROUNDS = 1.06  # training over the bound


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
def _randoms(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    stays = np.where(rng.random((DRAWS, count)) < LOST, rng.random((DRAWS, count)), 1.0)
    return rng.standard_normal((DRAWS, count)), stays, rng.standard_normal(DRAWS)


def estimate(steps: float, speeds: Sequence[Prediction], fixed: float = 0.0) -> Estimate:
    """`steps` left to do by contributors at `speeds`; `fixed`: seconds that no contributor can shorten (rounds' and
    dispatch's handling, audit). Raises ValueError for no contributors or negative numbers."""
    if not speeds or steps < 0 or fixed < 0:
        raise ValueError("an estimate needs contributors, and steps and seconds of at least 0")
    seconds = np.array([p.seconds for p in speeds])
    sigma = np.array([log(p.high / p.seconds) / Z90 for p in speeds])
    normal, stays, common = _randoms(len(speeds))
    rate = (stays / (seconds * np.exp(sigma * normal))).sum(1)
    # somebody is always left in the end: the job waits for one to return rather than for ever
    rate = np.maximum(rate, 0.05 / seconds.min())
    return Estimate(np.sort(fixed + steps * ROUNDS * np.exp(COMMON * common) / rate))
