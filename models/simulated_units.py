"""Work whose units do not depend on each other, dealt by `factoring.next_chunk` to simulated machines.

A machine takes its next chunk when it is done with the last, or a dispatch before that (`ahead`: what it needs for the
next one travels while it works). A chunk costs `dispatch` and then its units. A machine that vanishes loses what it
has, which is seen at once: the units come back, and machines without work take them. Nobody's speed is known before its
first chunk. Events in the order of time, by a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from math import exp, inf

import numpy as np

from models.factoring import next_chunk
from models.simulator import Machine


def simulate_units(
    total: int,
    machines: Sequence[Machine],
    rng: np.random.Generator,
    *,
    dispatch: float = 5.0,
    jitter: float = 0.05,
    least: int = 1,
    ahead: bool = False,
) -> float:
    """Seconds until all `total` units are done (`Machine.seconds` a unit); infinite where nobody was left.

    Raises ValueError without machines or for a negative total.
    """
    if not machines or total < 0:
        raise ValueError("there must be machines, and at least 0 units")
    speeds: dict[int, float | None] = {i: None for i, m in enumerate(machines) if m.since <= 0 < m.until}
    pace: dict[int, float] = {}  # of the chunk in hand: known when it is done, or nearly so
    # (when, order, machine, what): it asks; units are done; or, below 0, it vanished with them
    events = [(m.since, i, i, 0) for i, m in enumerate(machines) if m.until > m.since]
    heapq.heapify(events)
    left, count, end = total, len(machines), 0.0
    under_way = dict.fromkeys(range(len(machines)), 0)
    until = [0.0] * len(machines)  # when each is done with what it has
    idle: set[int] = set()
    while events and (left or any(under_way.values())):
        now, _, i, units = heapq.heappop(events)
        if units > 0:
            end, under_way[i] = max(end, now), under_way[i] - units
            continue
        if units < 0:
            left, under_way[i] = left - units, under_way[i] + units
            speeds.pop(i, None)
        else:
            speeds[i] = pace.get(i)
            idle.add(i)
        for j in sorted(idle):
            if machines[j].until <= now:
                speeds.pop(j, None)
                idle.discard(j)
                continue
            chunk = next_chunk(left, speeds, j, total=total, least=least, overhead=dispatch) if left else 0
            if not chunk:
                continue
            idle.discard(j)
            each = machines[j].seconds * exp(rng.normal(0, jitter))
            left, under_way[j] = left - chunk, under_way[j] + chunk
            until[j] = max(until[j], now + dispatch) + chunk * each
            gone = machines[j].until
            count += 2
            heapq.heappush(events, (min(gone, until[j]), count, j, chunk if gone >= until[j] else -chunk))
            asks = until[j] - (dispatch if ahead else 0.0)
            if gone > asks:
                pace[j] = 1 / each
                heapq.heappush(events, (max(now, asks), count + 1, j, 0))
    return end if not left and not any(under_way.values()) else inf
