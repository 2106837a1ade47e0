"""Work whose units do not depend on each other, dealt by `factoring.next_chunk` to simulated machines.

Each idle machine takes its next chunk at once; a chunk costs `dispatch` and then its units. A machine that vanishes
loses its chunk, which is seen at once: the units come back, and machines without work take them. Nobody's speed is
known before its first chunk. Events in the order of time, by a heap.
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
) -> float:
    """Seconds until all `total` units are done (`Machine.seconds` a unit); infinite where nobody was left.

    Raises ValueError without machines or for a negative total.
    """
    if not machines or total < 0:
        raise ValueError("there must be machines, and at least 0 units")
    speeds: dict[int, float | None] = {i: None for i, m in enumerate(machines) if m.since <= 0 < m.until}
    # (when, order, machine, units that it brings): 0 units for one that only becomes free
    events = [(max(0.0, m.since), i, i, 0) for i, m in enumerate(machines) if m.until > max(0.0, m.since)]
    heapq.heapify(events)
    left, under_way, count, end = total, 0, len(machines), 0.0
    idle: list[int] = []
    while events and (left or under_way):
        now, _, i, units = heapq.heappop(events)
        speeds.setdefault(i, None)
        under_way -= abs(units)
        if units < 0:  # it vanished with them
            speeds.pop(i)
            left -= units
        else:
            end = max(end, now) if units else end
            idle.append(i)
        waiting, idle = idle, []
        for j in waiting:
            if j not in speeds or machines[j].until <= now:
                speeds.pop(j, None)
                continue
            chunk = next_chunk(left, speeds, j, total=total, least=least, overhead=dispatch) if left else 0
            if not chunk:
                idle.append(j)
                continue
            left, under_way, count = left - chunk, under_way + chunk, count + 1
            each = machines[j].seconds * exp(rng.normal(0, jitter))
            done = now + dispatch + chunk * each
            if machines[j].until < done:
                heapq.heappush(events, (machines[j].until, count, j, -chunk))
            else:
                speeds[j] = 1 / each  # known when the chunk is back, before which it takes no other
                heapq.heappush(events, (done, count, j, chunk))
    return end if not left and not under_way else inf
