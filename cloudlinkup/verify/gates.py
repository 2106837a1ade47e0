"""What an update must be before it may be averaged, whatever the replay said. Pure.

A gate is a net for what no honest training sends. It convicts nobody: what stands out is replayed whole
(`tasks/gate.py`), which proves an honest update honest and finds any other. So a gate may be strict: a false alarm
costs the auditor's time and nobody's pay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, log
from statistics import median

import numpy as np

NORM_FACTOR = 10.0  # times the others' median length per square root of steps
MIN_OTHERS = 2  # of whom there must be a median worth comparing with
LOSS_FACTOR = 3.0  # of the others' spreads of losses above their median
LOSS_OTHERS = 3  # of whom there must be a spread
LEAST_SPREAD = 0.01  # of the others' median loss: less is no difference worth a replay
JUDGED_LENGTH = 0.5  # times the median update's: within it a loss follows the direction, beyond it the step's size
_SIGMA = 1.4826  # standard deviations in a median absolute deviation of normal numbers


@dataclass(frozen=True)
class Offer:
    """One contributor's dequantised update and the verified steps it sums."""

    update: np.ndarray
    steps: int


def length(offer: Offer) -> float:
    return float(np.linalg.norm(offer.update.astype(np.float64)))


def pace(offer: Offer) -> float:
    """Length of the update for each square root of steps: alike for slow and fast honest contributors."""
    return length(offer) / offer.steps**0.5


def gates(
    offers: Mapping[int, Offer], parameters: int, loss: Callable[[np.ndarray], float] | None = None
) -> dict[int, tuple[str, ...]]:
    """By seat, the reasons why its update may not enter; an empty tuple where it may.

    `loss`: of an update (flat fp32) added to the round's published weights, on rows that no contributor could know
    before it committed. Reasons: "steps" (none verified), "length", "finite", "zero" (no update at all), "norm" (over
    ten times the other contributors' median per square root of steps, where at least two others passed the rest),
    "loss" (`odd_losses`, where at least three others did).
    """
    reasons: dict[int, list[str]] = {seat: [] for seat in offers}
    for seat, offer in offers.items():
        if offer.steps < 1:
            reasons[seat].append("steps")
        if offer.update.shape != (parameters,) or offer.update.dtype != np.float32:
            reasons[seat].append("length")
        elif not np.isfinite(offer.update).all():
            reasons[seat].append("finite")
        elif not offer.update.any():
            reasons[seat].append("zero")
    sound = {seat: offers[seat] for seat, found in reasons.items() if not found}
    paces = {seat: pace(offer) for seat, offer in sound.items()}
    for seat, own in paces.items():
        others = [other for key, other in paces.items() if key != seat]
        if len(others) >= MIN_OTHERS and own > NORM_FACTOR * median(others):
            reasons[seat].append("norm")
    if loss is not None and len(sound) > LOSS_OTHERS:
        for seat in odd_losses(judged(sound, loss), {seat: offer.steps for seat, offer in sound.items()}):
            reasons[seat].append("loss")
    return {seat: tuple(found) for seat, found in reasons.items()}


def judged(offers: Mapping[int, Offer], loss: Callable[[np.ndarray], float]) -> dict[int, float]:
    """The loss of every update at half the median update's length, so that neither a short nor a long one hides."""
    lengths = {seat: length(offer) for seat, offer in offers.items()}
    common = JUDGED_LENGTH * median(lengths.values())
    return {seat: loss((offer.update * (common / lengths[seat])).astype("f4")) for seat, offer in offers.items()}


def odd_losses(losses: Mapping[int, float], steps: Mapping[int, int]) -> set[int]:
    """Seats whose loss is above the others' median by more than three of their spreads (the median absolute deviation
    as a standard deviation), or not finite. A loss below the others' median is never odd.

    Of two honest updates of one length that of more `steps` leads to the lower loss, so each is compared with what the
    others' losses are at its own steps: along `_slope`, and no further than the others' steps go. Without that the
    slow among unequal contributors widen the spread until a sign flip is within it."""
    finite = {seat: own for seat, own in losses.items() if isfinite(own)}
    places = {seat: log(steps[seat]) for seat in losses}
    slope = _slope([(places[seat], own) for seat, own in finite.items()])
    found = set(losses) - set(finite)
    for seat, own in finite.items():
        others = {key: other for key, other in finite.items() if key != seat}
        if len(others) < LOSS_OTHERS:
            continue
        levels = [other - slope * places[key] for key, other in others.items()]
        middle = median(levels)
        apart = sorted(abs(level - middle) for level in levels)
        spread = _SIGMA * median(apart[2:] if slope else apart)  # a line always meets two
        within = [places[key] for key in others]
        expected = middle + slope * min(max(places[seat], min(within)), max(within))
        least = max(median(others.values()), expected + LOSS_FACTOR * max(spread, LEAST_SPREAD * abs(expected)))
        if own > least:
            found.add(seat)
    return found


def _slope(points: list[tuple[float, float]]) -> float:
    """Of a line through (x, y) by repeated medians (Siegel 1982), which less than half of the points cannot bend; 0
    where it would rise, or all x are alike."""
    each = [[(y - v) / (x - u) for u, v in points if u != x] for x, y in points]
    medians = [median(slopes) for slopes in each if slopes]
    return min(0.0, median(medians)) if medians else 0.0
