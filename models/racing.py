"""How many race for the places: more, as long as each more is expected to make the job faster.

A racer is drawn from the prediction of its speed, at least as wide as the hidden slowdown of shared servers; what a
width is worth is the expected summed speed of the `places` fastest. Racing costs little time, since the pilot is work
that has to be done, but every racer reads rows of the job, and its pilot's cap may be stranded: so half as many again
as there are places must bring `LEAST_GAIN`, at most `MOST` race for a place, and the pilot stays within `MOST_SHARE` of
the job where more than two race for a place. By `benchmarks.plans`, at a hidden slowdown of
sigma 0.3, a job of 8 of 60 took 1.16 times the clairvoyant bound with two for a place, and 1.05 by this rule.
Pure; fixed-seed draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log

import numpy as np
from numpy.typing import NDArray

from models.correction import HIDDEN, Z90
from models.facts import Prediction

MOST = 4  # that race for a place
ALWAYS = 2  # that may, however short the job is
MOST_SHARE = 0.10  # of the job's segments in the pilot
LEAST_GAIN = 0.015  # in speed, by half as many again as there are places
CLAIM = 3.0  # times the median that a claimed speed counts for at most: nobody talks the others out of the race
DRAWS = 128


@lru_cache(maxsize=32)
def _randoms(count: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((DRAWS, count))


def expected_speed(field: Sequence[Prediction], places: int, counts: Sequence[int]) -> list[float]:
    """Expected summed speed of the `places` fastest of the first `counts` of the field, for each of `counts`."""
    mean = np.array([-log(p.seconds) for p in field])
    mean = np.minimum(mean, np.median(mean) + log(CLAIM))
    sigma = np.array([max(log(p.high / p.low) / (2 * Z90), HIDDEN) for p in field])
    speeds = np.exp(mean + sigma * _randoms(len(field)))
    found = []
    for count in counts:
        first = speeds[:, :count]
        if count > places:
            first = np.partition(first, count - places, axis=1)[:, count - places :]
        found.append(float(first.sum(1).mean()))
    return found


def race_width(field: Sequence[Prediction], places: int, units: int, least: int) -> int:
    """How many of `field` (best first, those with a place at its head) race for `places`, the places included.

    `units`: segments of the job; `least`: segments of one seat's pilot. Raises ValueError for fewer than one place.
    """
    if places < 1:
        raise ValueError("a race is for at least one place")
    most = max(ALWAYS * places, min(MOST * places, int(MOST_SHARE * units / max(1, least))))
    most, step = min(most, len(field)), max(1, places // 2)
    if most <= places:
        return most
    counts = [*range(places, most, step), most]
    speeds = expected_speed(field, places, counts)
    width = counts[0]
    for i in range(1, len(counts)):
        part = (counts[i] - counts[i - 1]) / step
        if speeds[i] / speeds[i - 1] - 1 >= LEAST_GAIN * part:
            width = counts[i]
    return width
