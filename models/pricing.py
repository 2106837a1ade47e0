"""What a verified step costs. Integers of base units only, as the chain counts them.

One uniform price per step clears the job: the highest of the selected contributors' asks per step, so nobody works
below its ask and nobody gains by overstating it slightly. The price is fixed before the money is locked; a
contributor that turns out slower than predicted earns less per hour, which is its own risk and the reason why asks are
compared at the predicted time. Fee arithmetic is the escrow program's, to the unit.

Paying each its own ask would fit orders and awards, and looks cheaper while asks are what work costs; they would not
stay so. Asks that answer each other cost the same under both rules, and say nothing true under that one
(`benchmarks.plans --only asks`; Kahn, Cramton, Porter and Tabors, Uniform Pricing or Pay-as-Bid Pricing, 2001).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil

from cloudlinkup.ledger.money import fee, most_for_caps
from cloudlinkup.types import U64_MAX
from models.facts import Candidate, JobFacts

EXACT = 2**53  # integers from here on lose digits as floats
TERA = 10**12


def ask_per_step(ask: int, seconds: float, share: float) -> int:
    """Base units that one step must earn: `ask` an hour at full duty, `seconds` a step at the offered `share`."""
    if ask < EXACT:
        return ceil(ask * seconds * share / 3600)
    return ceil(Fraction(seconds) * Fraction(share) * ask / 3600)


def step_ask(candidate: Candidate, job: JobFacts, seconds: float, *, reserve: bool = False) -> int:
    """Base units that a step of `job` must earn this contributor, at least 1, whatever unit it asks in.

    `seconds`: predicted a step, at its offered share. `reserve`: the least that it takes instead of what it asks. The
    result may be above u64: nobody can be paid that (`unpayable`).
    """
    ask = candidate.ask if not reserve or candidate.reserve is None else candidate.reserve
    if candidate.ask_per == "step":
        return max(1, ask)
    if candidate.ask_per == "tmac":
        return max(1, -(-ask * ceil(job.features.get("macs", 0.0)) // TERA))
    return max(1, ask_per_step(ask, seconds, candidate.share))


def unpayable(ask: int) -> bool:
    """Whether a step at this price is more than a token account can hold."""
    return ask > U64_MAX


def seat_cap(awarded: int, steps: int, price: int) -> int:
    """The cap on chain that covers what a seat was awarded and `steps` more. Raises ValueError above u64."""
    cap = awarded + steps * price
    if min(awarded, steps, price) < 0 or cap > U64_MAX:
        raise ValueError("a cap is at least 0 and fits u64")
    return cap


def refund(budget: int, paid: int, bps: int) -> int:
    """What a settled job returns: budget = paid + fee + refund, to the unit. Raises ValueError when it was overpaid."""
    left = budget - with_fee(paid, bps)
    if left < 0:
        raise ValueError("more was paid than the budget holds")
    return left


def cleared_price(asks: Sequence[int]) -> int:
    """The uniform price per verified step: the highest ask per step among the selected, at least 1.

    Raises ValueError when nobody is selected, or for a price that does not fit u64.
    """
    if not asks:
        raise ValueError("nobody is selected")
    price = max(1, *asks)
    if price > U64_MAX:
        raise ValueError("the price per step does not fit u64")
    return price


def with_fee(amount: int, bps: int) -> int:
    """What the budget must hold for caps of `amount`: the chain refuses caps + fee(caps) above the budget."""
    return amount + fee(amount, bps)


def affordable_steps(budget: int, caps: Mapping[int, int], awarded: Mapping[int, int], price: int, bps: int) -> int:
    """Steps that still fit the budget, counting the caps that are already on chain.

    The unspent part of a live seat's cap is not counted, so the figure is a lower bound (in steps).
    """
    taken = sum(max(caps.get(seat, 0), awarded.get(seat, 0)) for seat in caps.keys() | awarded.keys())
    return max(0, most_for_caps(budget, bps) - taken) // price
