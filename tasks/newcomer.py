"""The newcomer's shard (`models.newcomer`): when it is ordered, on whose rows, and what of the two is aggregated.

Its seat has no place in the job: it holds no rows and gets no other order, until a place becomes free (`race.revive`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.correction import Correction
from models.newcomer import with_newcomer
from models.plan import JobPlan, RoundPlan
from tasks.peers import Peer
from tasks.state import Entry, Seat

if TYPE_CHECKING:
    from tasks.context import Run


def waiting_seat(run: Run, plan: JobPlan) -> Seat | None:
    """The newcomer's seat, as long as it never had an order."""
    if plan.newcomer is None:
        return None
    seat = run.state.seat(plan.newcomer.seat)
    return seat if seat.dropped and not seat.attempts and seat.state != "rejected" else None


def add_shard(run: Run, plan: JobPlan, found: RoundPlan, peers: dict[str, Peer], spare_steps: int) -> RoundPlan:
    """`found` with the newcomer's shard, once in a job. `spare_steps`: that the budget holds beside all the rest."""
    seat = waiting_seat(run, plan)
    peer = peers.get(seat.agent) if seat is not None else None
    if seat is None or peer is None or not peer.fits(seat) or spare_steps < plan.newcomer_steps:
        return found
    more = with_newcomer(plan, found, Correction(**seat.belief).prediction)
    if more is not found:
        run.event("newcomer", round=found.round, seat=seat.seat, beside=more.seats[-1].twin)
    return more


def share_rows(run: Run, seat: Seat, twin: int) -> None:
    """The newcomer's order names its partner's rows: the same sealed blob, whose key is sealed to it as well."""
    seat.partition = run.state.seat(twin).partition


def rows_of(entry: Entry) -> int:
    """The seat that holds the rows of this shard."""
    return entry.seat if entry.twin is None else entry.twin


def one_of_each(taken: Sequence[Entry]) -> list[Entry]:
    """The accepted entries that are aggregated: a newcomer's only where its partner's is not among them."""
    seats = {entry.seat for entry in taken}
    return [entry for entry in taken if entry.twin is None or entry.twin not in seats]
