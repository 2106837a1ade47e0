"""What an update must be before it may be averaged, whatever the replay said. Pure.

A gate is a coarse net for what no honest training sends; what slips through it is the robust rule's
(`training/aggregate.py`) and the audit's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

NORM_FACTOR = 10.0  # times the others' median length per square root of steps
MIN_OTHERS = 2  # of whom there must be a median worth comparing with


@dataclass(frozen=True)
class Offer:
    """One contributor's dequantised update and the verified steps it sums."""

    update: np.ndarray
    steps: int


def pace(offer: Offer) -> float:
    """Length of the update for each square root of steps: alike for slow and fast honest contributors."""
    return float(np.linalg.norm(offer.update.astype(np.float64))) / offer.steps**0.5


def gates(offers: Mapping[int, Offer], parameters: int) -> dict[int, tuple[str, ...]]:
    """By seat, the reasons why its update may not enter; an empty tuple where it may.

    Reasons: "steps" (none verified), "length", "finite", "zero" (no update at all), "norm" (over ten times the other
    contributors' median per square root of steps, where at least two others passed the rest).
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
    paces = {seat: pace(offers[seat]) for seat, found in reasons.items() if not found}
    for seat, own in paces.items():
        others = [other for key, other in paces.items() if key != seat]
        if len(others) >= MIN_OTHERS and own > NORM_FACTOR * median(others):
            reasons[seat].append("norm")
    return {seat: tuple(found) for seat, found in reasons.items()}
