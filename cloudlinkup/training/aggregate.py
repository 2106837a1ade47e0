"""From contributors' updates to one: a mean weighted by verified steps, robust from four contributors on.

The rule from four on, *cosrel*: c_i is the cosine between update i and the unweighted coordinate-wise median of all;
drop i where c_i < 0.6 median(c); clip its length to 2 median_j(|d_j| / sqrt(steps_j)) sqrt(steps_i); then the mean
weighted by steps, nobody above a third (what is cut off goes to the others by their steps). It assumes shuffled rows.

Who counts is the contributor, not the seat: the seats of one wallet (several GPUs) go into all this as one, by the mean
of their updates weighted by steps. From four seats on no contributor is above a third, or an equal part where fewer
than three are left; the comparison with the others needs four contributors.

Below four there is no majority to compare with and a third cannot be a bound, so the mean is plain: a job of one, two
or three contributors rests on the audit, which then opens every last segment, and on the gates (`verify/gates.py`).
By itself it does not hold: late in a training all cosines are low, and a sign flip passes. What makes it hold is that
odd updates are replayed before they come here; both are measured in docs/robustness.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ROBUST_FROM = 4
KEEP_COSINE = 0.6
CLIP = 2.0
MOST_WEIGHT = 1 / 3


@dataclass(frozen=True)
class Aggregated:
    """`update` is the flat fp32 mean; `shares` each used seat's weight (they sum to 1); `dropped` seats by reason."""

    update: np.ndarray
    shares: dict[int, float]
    dropped: dict[int, str]


def aggregate(updates: Mapping[int, tuple[np.ndarray, int]], wallets: Mapping[int, str] | None = None) -> Aggregated:
    """`updates`: by seat, a finite flat fp32 update that passed the gates, and its verified steps (at least 1).
    `wallets`: whose each seat is; by default each is somebody else's.

    Raises ValueError for no updates, differing shapes, or steps below 1. The order of seats does not matter.
    """
    seats = sorted(updates)
    if not seats:
        raise ValueError("there is no update to aggregate")
    if len({updates[s][0].shape for s in seats}) != 1 or updates[seats[0]][0].ndim != 1:
        raise ValueError("updates differ in shape")
    if any(updates[s][1] < 1 for s in seats):
        raise ValueError("an update without verified steps")
    parties = _parties(seats, wallets)
    vectors, steps = _combined(updates, parties)
    if len(seats) < ROBUST_FROM:
        weights = steps / steps.sum()
        return Aggregated(_mean(vectors, weights), _shares(parties, weights, updates), {})
    if len(parties) < ROBUST_FROM:
        weights = capped(steps, MOST_WEIGHT)
        return Aggregated(_mean(vectors, weights), _shares(parties, weights, updates), {})

    lengths = np.array([np.linalg.norm(v.astype(np.float64)) for v in vectors])
    cosines = _cosines(vectors, lengths)
    middle = float(np.median(cosines))
    # where even the median update points away from the median there is no common direction to hold anybody to
    keep = cosines >= (KEEP_COSINE * middle if middle > 0 else middle)
    paces = lengths / np.sqrt(steps)
    most = CLIP * float(np.median(paces)) * np.sqrt(steps)
    scale = np.where(lengths > most, most / np.where(lengths > 0, lengths, 1), 1.0)
    used = [i for i in range(len(parties)) if keep[i]]
    weights = capped(steps[used], MOST_WEIGHT)
    update = _mean([vectors[i] for i in used], weights * scale[used])
    dropped = {seat: "direction" for i, party in enumerate(parties) if not keep[i] for seat in party}
    return Aggregated(update, _shares([parties[i] for i in used], weights, updates), dropped)


def capped(amounts: np.ndarray, most: float) -> np.ndarray:
    """Shares proportional to `amounts`, none above `most` (or 1/n where n parts cannot all stay below it)."""
    count = len(amounts)
    most = max(most, 1 / count)
    held = np.zeros(count, bool)
    while True:
        rest = 1 - most * held.sum()
        free = np.where(held, 0.0, amounts)
        shares = np.where(held, most, free / free.sum() * rest if free.sum() else 0.0)
        over = (shares > most * (1 + 1e-12)) & ~held
        if not over.any():
            return shares
        held |= over


def _cosines(vectors: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    chunk, dots, square = 1 << 20, np.zeros(len(vectors)), 0.0
    for start in range(0, len(vectors[0]), chunk):  # the stack of a chunk, not of everything
        stack = np.stack([v[start : start + chunk] for v in vectors]).astype(np.float64)
        middle = np.median(stack, axis=0)
        dots += stack @ middle
        square += float(middle @ middle)
    whole = lengths * square**0.5
    return np.divide(dots, whole, out=np.zeros_like(dots), where=whole > 0)


def _mean(vectors: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    total = np.zeros(vectors[0].shape, np.float64)
    for vector, weight in zip(vectors, weights, strict=True):
        total += float(weight) * vector
    return total.astype(np.float32)


def _parties(seats: list[int], wallets: Mapping[int, str] | None) -> list[list[int]]:
    """The seats of each contributor, in the order of their first."""
    parties: dict[object, list[int]] = {}
    for seat in seats:
        parties.setdefault(seat if wallets is None else wallets[seat], []).append(seat)
    return list(parties.values())


def _combined(
    updates: Mapping[int, tuple[np.ndarray, int]], parties: list[list[int]]
) -> tuple[list[np.ndarray], np.ndarray]:
    """(update, steps) of each contributor."""
    steps = np.array([sum(updates[seat][1] for seat in party) for party in parties], np.float64)
    vectors = [
        updates[party[0]][0]
        if len(party) == 1
        else _mean([updates[seat][0] for seat in party], np.array([updates[seat][1] for seat in party]) / total)
        for party, total in zip(parties, steps, strict=True)
    ]
    return vectors, steps


def _shares(
    parties: list[list[int]], weights: np.ndarray, updates: Mapping[int, tuple[np.ndarray, int]]
) -> dict[int, float]:
    """Each seat's weight: its contributor's, divided by steps."""
    totals = [sum(updates[seat][1] for seat in party) for party in parties]
    return {
        seat: float(weight) * (updates[seat][1] / total)
        for party, weight, total in zip(parties, weights, totals, strict=True)
        for seat in party
    }
