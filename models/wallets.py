"""How many places of a job one wallet takes, so that what its devices do together stays within a third.

From four seats on no wallet weighs more than a third of a round (`training/aggregate`). Devices beyond that would be
paid for work that hardly counts: the mean of many short ways is no longer way, as that of one fast device is. So of n
places, n from four on, a wallet takes at most n/3, rounded up, and four or more are filled only where three wallets or
more share them; below four nothing binds, as a third cannot be a bound. It binds neither a client that names fewer than
three wallets, which is its own choice, nor a search, whose trainings are each one contributor's. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

BOUND_FROM, LEAST_WALLETS = 4, 3


def most_places(places: int) -> int:
    """How many of so many places one wallet takes at most."""
    return places if places < BOUND_FROM else -(-places // 3)


def admit(wallets: Sequence[str], places: int, held: Sequence[str] = ()) -> tuple[int, ...]:
    """Indices of the `wallets` (best first; one entry a device) that get the `places` beside those that are `held`.

    Places that nobody may take stay free, and the bound is that of the places that are taken.
    """
    count = min(max(0, places), len(held) + len(wallets))
    while True:
        most, taken = most_places(count), Counter(held)
        found: list[int] = []
        for index, wallet in enumerate(wallets):
            if len(held) + len(found) < count and taken[wallet] < most:
                taken[wallet] += 1
                found.append(index)
        filled = len(held) + len(found)
        if filled >= BOUND_FROM and len(taken) < LEAST_WALLETS:
            filled = BOUND_FROM - 1
        if filled >= count or not found:
            return tuple(found)
        count = filled
