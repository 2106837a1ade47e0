"""What a verified step costs. Integers of base units only, as the chain counts them.

One uniform price per step clears the job: the highest of the selected contributors' asks per step, so nobody works
below its ask and nobody gains by overstating it slightly. The price is fixed before the money is locked; a
contributor that turns out slower than predicted earns less per hour, which is its own risk and the reason why asks are
compared at the predicted time. Fee arithmetic is the escrow program's, to the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from cloudlinkup.ledger.money import fee, most_for_caps


def ask_per_step(ask: int, seconds: float, share: float) -> int:
    """Base units that one step must earn: `ask` an hour at full duty, `seconds` a step at the offered `share`."""
    return ceil(ask * seconds * share / 3600)


def cleared_price(asks: Sequence[int]) -> int:
    """The uniform price per verified step: the highest ask per step among the selected, at least 1."""
    if not asks:
        raise ValueError("nobody is selected")
    return max(1, *asks)


def with_fee(amount: int, bps: int) -> int:
    """What the budget must hold for caps of `amount`: the chain refuses caps + fee(caps) above the budget."""
    return amount + fee(amount, bps)


def affordable_steps(budget: int, caps: Mapping[int, int], awarded: Mapping[int, int], price: int, bps: int) -> int:
    """Steps that still fit the budget, counting the caps that are already on chain.

    The unspent part of a live seat's cap is not counted, so the figure is a lower bound (in steps).
    """
    taken = sum(max(caps.get(seat, 0), awarded.get(seat, 0)) for seat in caps.keys() | awarded.keys())
    return max(0, most_for_caps(budget, bps) - taken) // price
