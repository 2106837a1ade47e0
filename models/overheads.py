"""What a job takes beside training and replays: once (setup), and a round (transfers, chain, bookkeeping).

Both are measured: `tasks.overheads` reads them from this installation's own past jobs. Where there are none a prior
speaks, which is what a fresh local stack took (two cores: 27 rounds of the example took 61 s on a calm machine, 84 s on
a busy one); on a cluster a round also waits until its commitment and the challenge's block are final. In log space a
past job counts twice as much as the prior, and the spread of the next one follows from theirs
(normal-inverse-gamma, as in Gelman et al., Bayesian Data Analysis, section 3.3; its t is taken for a Gaussian). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

SETUP, ROUND = 12.0, 2.5  # seconds, on a local stack
SPREAD = 0.3  # sigma in log space between jobs: other load on the machine
PRIOR_JOBS, SPREAD_JOBS = 0.5, 2  # past jobs that the prior of the middle, and of the spread, count for
SLOT, FINAL = 0.4, 32  # seconds, and slots until a block is final, on Solana's clusters
RECENT = 8  # jobs that are looked at: machines and chains change
LEAST = 0.05  # seconds: what overlapped with training is not nothing


@dataclass(frozen=True)
class Spent:
    """Seconds of one past job: once, and a round."""

    setup: float
    round: float


@dataclass(frozen=True)
class Overheads:
    """To be expected of the next job, in seconds. Spreads: sigma in log space; `jobs`: how many were measured."""

    setup: float
    round: float
    setup_spread: float
    round_spread: float
    jobs: int = 0


def expected(spent: Sequence[Spent] = (), challenge_delay: int = 1) -> Overheads:
    """From past jobs, latest first. `challenge_delay`: slots; above 1 it is a cluster's chain."""
    spent = spent[:RECENT]
    final = SLOT * (FINAL + challenge_delay) if challenge_delay > 1 else 0.0
    setup, setup_spread = _expected([s.setup for s in spent], SETUP)
    each, round_spread = _expected([s.round for s in spent], ROUND + final)
    return Overheads(setup, each, setup_spread, round_spread, len(spent))


def _expected(values: Sequence[float], prior: float) -> tuple[float, float]:
    """(median, sigma in log space) of the next value."""
    logs, first = [log(max(LEAST, value)) for value in values], log(prior)
    weight = PRIOR_JOBS + len(logs)
    mean = (PRIOR_JOBS * first + sum(logs)) / weight
    squares = SPREAD_JOBS * SPREAD**2 + PRIOR_JOBS * (first - mean) ** 2 + sum((x - mean) ** 2 for x in logs)
    return exp(mean), sqrt(squares / (SPREAD_JOBS + len(logs)) * (1 + 1 / weight))
