"""How much an idle contributor takes next, of work whose units do not depend on each other: factoring.

Each idle worker takes a part of what is left, in proportion to its measured speed: half of what is left is dealt out
to all, then half of the rest, and so on (factoring, Hummel, Schonberg and Flynn 1992; weighted by speed, Hummel et al.
1996). Early chunks are long, so dispatch costs little; late ones are short, so a slowdown that nobody foresaw costs
one short chunk. A worker nobody has measured gets a pilot first, of a twentieth of all units shared equally by all.
No prediction is needed. `least` is the chunk below which dispatch is not worth its cost.

Pure. Not here: who is a worker, when one is given up for lost (its chunk simply comes back into `remaining`), and
trainings whose steps follow each other (`trials`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import ceil, isfinite
from typing import TypeVar

PILOT = 0.05  # of all units, shared equally among the workers
SHARE = 0.5  # of what is left, dealt out at each look

Worker = TypeVar("Worker", bound=Hashable)


def next_chunk(
    remaining: int,
    speeds: Mapping[Worker, float | None],
    worker: Worker,
    *,
    total: int,
    least: int = 1,
    most: int | None = None,
    overhead: float = 0.0,
) -> int:
    """Units (0 to `remaining`) that `worker`, idle now, should take.

    `remaining`: units that nobody has, of `total`. `speeds`: units a second by worker, for everybody at work; None for
    those not measured yet. `least`: fewer are taken only at the end. `most`: a cap (memory, pay, hours). `overhead`:
    seconds that a dispatch costs; a chunk then lasts at least as long, so that at most half the time is lost to it.
    Raises ValueError for counts below 0, `least` below 1, speeds that are not positive and finite, and KeyError for a
    worker that is not in `speeds`.
    """
    if remaining < 0 or total < remaining or least < 1 or overhead < 0 or (most is not None and most < 0):
        raise ValueError("counts must be at least 0, remaining at most total, least at least 1")
    known = [s for s in speeds.values() if s is not None]
    if not all(isfinite(s) and s > 0 for s in known):
        raise ValueError("speeds must be positive and finite")
    mine = speeds[worker]
    if mine is None:
        wanted = PILOT * total / len(speeds)
    else:
        # who is not measured counts as an average worker
        everybody = sum(known) * len(speeds) / len(known)
        wanted = max(SHARE * remaining * mine / everybody, overhead * mine)
    units = min(remaining, max(least, ceil(wanted)))
    return units if most is None else min(units, most)
