"""Which training row belongs to which seat, moved as little as a change of seats needs. Pure; arrays of seat numbers.

A seat's rows travel as one blob, so what costs bytes is not a row that moves but a partition that changes. Hence:

- whoever stays keeps its rows, and so its partition, unless it must give or take;
- rows of somebody who left are lent to as few as can take them within `MOST` of their part by speed; whoever is below
  `LEAST` of its part is among them;
- every row has a *home*, and goes back there when its seat does: all then have again the very partitions that they had
  before, which nobody needs to send (`tasks.rounds` keeps them);
- somebody new takes rows that are lent or free, and else from as few as can give them without going below `LEAST`.

So parts follow the speeds within a quarter, and exactly where all are dealt at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cloudlinkup.training.data import shard_rows

LEAST, MOST = 0.75, 1.25  # of a seat's part by speed
NOBODY = -1


def anew(rows: int, shares: Mapping[int, float], seed: int, minimum: int) -> np.ndarray:
    """All `rows` dealt by `shares`: the seat of each, int32. Raises ValueError for fewer rows than seats."""
    held = np.full(rows, NOBODY, np.int32)
    minimum = max(1, min(minimum, rows // len(shares)))
    for seat, part in zip(shares, shard_rows(rows, list(shares.values()), seed, minimum=minimum), strict=True):
        held[part] = seat
    return held


def deal(
    held: np.ndarray, home: np.ndarray, shares: Mapping[int, float], *, seed: int, minimum: int
) -> tuple[np.ndarray, np.ndarray]:
    """(held, home) of every row, once exactly the seats in `shares` are active. Both int32 (rows,).

    `shares`: each active seat's part by speed; they sum to 1. `minimum`: rows that somebody new needs at least, where
    there are enough. Asked again with its own answer, nothing moves.
    """
    held, home, rows = held.copy(), home.copy(), len(held)
    new = [seat for seat in shares if not (held == seat).any()]
    here = np.isin(home, list(shares))
    held[here] = home[here]
    part = {seat: share * rows for seat, share in shares.items()}
    generator = np.random.default_rng(seed)
    for seat in new:
        have = int((held == seat).sum())
        if have >= LEAST * part[seat] and have >= 1:
            continue
        given = _give(held, shares, part, seat, max(round(part[seat]), min(minimum, rows // len(shares))), generator)
        if not have and not len(given):  # too little to give from
            whole = anew(rows, shares, seed, minimum)
            return whole, whole.copy()
        held[given] = home[given] = seat
    free = np.flatnonzero(~np.isin(held, list(shares)))
    for seat, some in _lend(held, part, generator.permutation(free)).items():
        held[some] = seat
        home[some[home[some] == NOBODY]] = seat
    return held, home


def _give(
    held: np.ndarray,
    shares: Mapping[int, float],
    part: Mapping[int, float],
    seat: int,
    wanted: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Rows for somebody new: free ones first, then from those who have most to give, as few of them as suffice."""
    free = generator.permutation(np.flatnonzero(~np.isin(held, list(shares))))
    found = [free[: max(0, wanted - int((held == seat).sum()))]]
    missing = wanted - int((held == seat).sum()) - len(found[0])
    spare = {other: int((held == other).sum() - max(1.0, LEAST * part[other])) for other in shares if other != seat}
    for other in sorted(spare, key=lambda one: (-spare[one], one)):
        if missing <= 0 or spare[other] <= 0:
            break
        own = generator.permutation(np.flatnonzero(held == other))
        found.append(own[: min(missing, spare[other])])
        missing -= len(found[-1])
    return np.concatenate(found)


def _lend(held: np.ndarray, part: Mapping[int, float], free: np.ndarray) -> dict[int, np.ndarray]:
    """Who takes which of the `free` rows."""
    if not len(free):
        return {}
    have = {seat: int((held == seat).sum()) for seat in part}
    order = sorted(part, key=lambda seat: (have[seat] >= LEAST * part[seat], have[seat] - part[seat], seat))
    takers: list[int] = []
    room = 0.0
    for seat in order:
        if have[seat] >= LEAST * part[seat] and room >= len(free):
            break
        takers.append(seat)
        room += max(0.0, MOST * part[seat] - have[seat])
    sizes = _level([have[s] for s in takers], [part[s] for s in takers], len(free))
    ends = np.cumsum(sizes)
    return {seat: free[end - size : end] for seat, size, end in zip(takers, sizes, ends, strict=True) if size}


def _level(have: list[int], part: list[float], rows: int) -> list[int]:
    """`rows` more among some, so that all who get any end at one multiple of their part; whole numbers that sum up."""
    order = sorted(range(len(have)), key=lambda i: have[i] / part[i])
    count, level = 0, 0.0
    while count < len(order):
        count += 1
        level = (rows + sum(have[i] for i in order[:count])) / sum(part[i] for i in order[:count])
        if count == len(order) or level <= have[order[count]] / part[order[count]]:
            break
    exact = [
        max(0.0, level * p - h) if i in order[:count] else 0.0 for i, (h, p) in enumerate(zip(have, part, strict=True))
    ]
    sizes = [int(x) for x in exact]
    rest = sorted(range(len(exact)), key=lambda i: sizes[i] - exact[i])
    for k in range(rows - sum(sizes)):
        sizes[rest[k % len(rest)]] += 1
    return sizes
