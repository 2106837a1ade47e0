"""Exact split of divisible work: who does how much so that the last one finishes as early as possible.

Contributor i works at `speeds[i]` units a second after a fixed `overheads[i]` seconds, and does at most `caps[i]`
units. In time t it can do g_i(t) = min(cap_i, max(0, t - overhead_i) * speed_i); the least makespan is the smallest t
with sum g_i(t) >= total. The sum is piecewise linear and grows, with corners at overhead_i and overhead_i + cap_i /
speed_i, so sorting the corners and one cumulative sum give t exactly (O(n log n), numpy only). Nobody is kept waiting
for a contributor whose overhead alone is longer than t: it gets nothing.

Not here: who takes part (`selection`), and what a step is (`plan`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Fill:
    """`amounts` in units per contributor (summing to the total), `makespan` in seconds."""

    amounts: NDArray[np.float64]
    makespan: float


def _arrays(
    speeds: ArrayLike, caps: ArrayLike | None, overheads: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    v = np.asarray(speeds, dtype=np.float64)
    c = np.full(v.shape, np.inf) if caps is None else np.asarray(caps, dtype=np.float64)
    o = np.zeros(v.shape) if overheads is None else np.asarray(overheads, dtype=np.float64)
    if v.ndim != 1 or v.size == 0 or c.shape != v.shape or o.shape != v.shape:
        raise ValueError("speeds, caps and overheads must be lists of one length, not empty")
    if not (np.isfinite(v).all() and (v > 0).all()):
        raise ValueError("speeds must be positive and finite")
    if np.isnan(c).any() or (c < 0).any() or not np.isfinite(o).all() or (o < 0).any():
        raise ValueError("caps must be at least 0, overheads at least 0 and finite")
    return v, c, o


def water_fill(
    total: float, speeds: ArrayLike, caps: ArrayLike | None = None, overheads: ArrayLike | None = None
) -> Fill:
    """The split of `total` units with the least makespan.

    Raises ValueError for speeds <= 0, for lists of different length, and when the caps together are below `total`.
    """
    v, c, o = _arrays(speeds, caps, overheads)
    if not np.isfinite(total) or total < 0:
        raise ValueError("total must be finite and at least 0")
    if total == 0:
        return Fill(np.zeros_like(v), 0.0)
    if c.sum() < total:
        raise ValueError("the caps together are below the work")
    used = c > 0
    start, end = o[used], o[used] + c[used] / v[used]
    finite = np.isfinite(end)
    times = np.concatenate([start, end[finite]])
    slopes = np.concatenate([v[used], -v[used][finite]])
    order = np.argsort(times, kind="stable")
    times, slopes = times[order], np.cumsum(slopes[order])
    # work that all can do by each corner: the integral of the summed speeds
    done = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(times))])
    k = max(int(np.searchsorted(done, total, side="left")) - 1, 0)
    slope = slopes[k]
    t = times[k] + (total - done[k]) / slope if slope > 0 else times[k]
    amounts = np.minimum(c, np.maximum(0.0, t - o) * v)
    amounts *= total / amounts.sum()  # rounding of the last bits only
    return Fill(np.minimum(amounts, c), float(t))


def integer_fill(
    total: int, speeds: ArrayLike, caps: ArrayLike | None = None, overheads: ArrayLike | None = None
) -> NDArray[np.int64]:
    """The same for whole units (segments): exact, and never more than `total` in all.

    Every unit (i, k) ends at overhead_i + k / speed_i; the best split takes the `total` earliest. Those that end
    within the fractional makespan are surely among them; the few left are given one by one to whoever would finish
    first. Raises ValueError as `water_fill`; caps are rounded down.
    """
    v, c, o = _arrays(speeds, caps, overheads)
    c = np.floor(c)
    fill = water_fill(float(total), v, c, o)
    # a hair below, so that rounding cannot hand out more than there is
    units = np.floor(fill.amounts * (1 - 1e-12)).astype(np.int64)
    left = int(total) - int(units.sum())
    ends = [(o[i] + (units[i] + 1) / v[i], i) for i in np.flatnonzero(units < c)]
    heapq.heapify(ends)
    for _ in range(left):
        _, i = heapq.heappop(ends)
        units[i] += 1
        if units[i] < c[i]:
            heapq.heappush(ends, (o[i] + (units[i] + 1) / v[i], i))
    return units
