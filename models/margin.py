"""How far a quote's P90 lies above its P50.

Training takes all steps over the summed speed of those who take part, so their errors average out, but for what all of
them share. In log space, with w their shares of the speed:

    sigma^2 = (TOGETHER sum w_i half width_i)^2 + HIDDEN^2 sum w_i^2

The first part is by how much all predictions of a job are wrong at once (a network unlike the probes, contributors of
one GPU type): a part of the half width that the predictor states, fitted to the simulated fleet's jobs
(`benchmarks.fleet --fit`, seeds that it is not judged on). The second is each one's own hidden slowdown
(`correction.HIDDEN`). What a job takes beside training has its own spread (`overheads`), independent of the first two,
so the margins add as squares. Not here: contributors' hours (`quote`), a race, whose gain the losses of rounds about
balance, and what is known once a round was done (`estimate`). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, hypot, log, sqrt

from models.correction import HIDDEN, Z90
from models.facts import Prediction

TOGETHER = 0.29


def training_spread(predictions: Sequence[Prediction], together: float = TOGETHER) -> float:
    """Sigma in log space of how long the training takes by all of these."""
    rate = sum(1 / p.seconds for p in predictions)
    shares = [1 / p.seconds / rate for p in predictions]
    shared = together * sum(w * log(p.high / p.seconds) for w, p in zip(shares, predictions, strict=True))
    return hypot(shared, HIDDEN * sqrt(sum(w * w for w in shares)))


def times_p90(spread: float) -> float:
    """P90 over P50 of something lognormal."""
    return exp(Z90 * spread)
