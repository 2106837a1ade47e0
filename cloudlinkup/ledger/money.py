"""The program's money rules as pure functions, so that what is due can be told before anything is sent.

W is a job's dispute window, L its arbiter window, D its deadline, n its number of seats.

An award made at t matures when floor(now/W) >= floor(t/W) + 2: more than one window later and at most two. `fresh`
holds what was awarded in the seat's epoch, `aging` what was awarded in the one before; everything else has matured. A
later award never delays an earlier one. A dispute holds a seat for L, then lapses and the award stands; an open appeal
reserves the whole cap until D + W + L. At T_end (D with no seats, else D + W) anybody may sweep the job; by
T_last = D + 2W + L everything is decided; at T_last + 180 days what nobody could collect returns to the client.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloudlinkup.ledger.accounts import OPEN_WINDOW, UNCLAIMED, Job, Seat

BPS = 10_000


def fee(amount: int, bps: int) -> int:
    """floor(amount * bps / 10000), as the program computes it without 128-bit arithmetic."""
    return amount // BPS * bps + amount % BPS * bps // BPS


def most_for_caps(budget: int, bps: int) -> int:
    """The largest sum of caps that fits a budget: caps + fee(caps) <= budget."""
    most = budget * BPS // (BPS + bps)
    while most + 1 + fee(most + 1, bps) <= budget:
        most += 1
    return most


# ---------------------------------------------------------------- times


def end_time(job: Job) -> int:
    """T_end: from then on anybody may sweep."""
    return job.deadline + (job.dispute_window if job.seats else 0)


def last_time(job: Job) -> int:
    """T_last: by then every award, dispute and appeal is decided."""
    return job.deadline + 2 * job.dispute_window + job.arbiter_window


def forfeit_time(job: Job) -> int:
    return last_time(job) + UNCLAIMED


def on_hold(seat: Seat, job: Job, now: int) -> bool:
    """Under dispute: nothing matures, nothing is awarded; what has matured stays payable."""
    return seat.disputed_at != 0 and now < seat.disputed_at + job.arbiter_window


def appeal_live(seat: Seat, job: Job, now: int) -> bool:
    return seat.appeal == 1 and now < job.deadline + job.dispute_window + job.arbiter_window


# ---------------------------------------------------------------- what is due


def roll(seat: Seat, job: Job, now: int) -> Seat:
    """The seat with its buckets as of `now`."""
    if on_hold(seat, job, now):
        return seat
    epoch = now // job.dispute_window
    steps = max(0, epoch - seat.epoch)
    fresh, aging = seat.fresh, seat.aging
    if steps == 1:
        fresh, aging = 0, seat.fresh
    elif steps >= 2:
        fresh, aging = 0, 0
    return replace(seat, fresh=fresh, aging=aging, epoch=epoch if steps else seat.epoch, disputed_at=0)


def matured(seat: Seat, job: Job, now: int) -> int:
    """What has matured so far, paid or not."""
    rolled = roll(seat, job, now)
    return rolled.awarded - rolled.fresh - rolled.aging


def payable_award(seat: Seat, job: Job, now: int) -> int:
    return matured(seat, job, now) - seat.paid


def payable_bond(seat: Seat, job: Job, now: int) -> int:
    """The bond, once the job is over and nothing is open on the seat."""
    over = now >= job.deadline + job.dispute_window
    free = not on_hold(seat, job, now) and not appeal_live(seat, job, now)
    return seat.bond if seat.active and over and free else 0


def payable(job: Job, now: int) -> dict[int, int]:
    """Base units that `pay` would send now, award and bond together, by seat; seats with nothing due are absent."""
    due = {i: payable_award(seat, job, now) + payable_bond(seat, job, now) for i, seat in enumerate(job.seats)}
    return {seat: amount for seat, amount in due.items() if amount > 0}


def pending(job: Job, now: int) -> dict[int, int]:
    """Awards that are not paid and have not matured, by seat; seats with none are absent."""
    waiting = {i: seat.awarded - matured(seat, job, now) for i, seat in enumerate(job.seats)}
    return {seat: amount for seat, amount in waiting.items() if amount > 0}


def disputable_bonds(job: Job, now: int) -> dict[int, int]:
    """Bonds that a dispute would still hold, by seat: those held, until one window after the deadline."""
    early = now < job.deadline + job.dispute_window
    return {i: seat.bond for i, seat in enumerate(job.seats) if early and seat.active and seat.bond}


def next_maturity(job: Job, now: int) -> int | None:
    """The next moment after `now` at which more becomes payable if nobody does anything, else None."""
    moments: set[int] = set()
    window, over = job.dispute_window, job.deadline + job.dispute_window
    for seat in job.seats:
        rolled = roll(seat, job, now)
        lapse = seat.disputed_at + job.arbiter_window if on_hold(seat, job, now) else 0
        if rolled.aging:
            moments.add(max(lapse, (rolled.epoch + 1) * window))
        if rolled.fresh:
            moments.add(max(lapse, (rolled.epoch + 2) * window))
        if seat.active and seat.bond and not payable_bond(seat, job, now):
            reserved = over + job.arbiter_window if seat.appeal == 1 else 0
            moments.add(max(lapse, reserved, over))
    return min((moment for moment in moments if moment > now), default=None)


# ---------------------------------------------------------------- the end


@dataclass(frozen=True)
class Sweep:
    """What `close_job` would do: base units to the treasury and to the client, and whether it erases the job.

    `owed`, `bonds` and `reserve` (the fee on what is owed) stay in the vault.
    """

    fee_due: int
    to_client: int
    owed: int
    bonds: int
    reserve: int
    erases: bool

    @property
    def moves_nothing(self) -> bool:
        return self.fee_due == 0 and self.to_client == 0 and not self.erases


def owed(job: Job, now: int) -> int:
    """What seats can still get: unpaid awards, or the whole unspent cap where an appeal is open. 0 once forfeited."""
    if now >= forfeit_time(job):
        return 0
    return sum((seat.cap if appeal_live(seat, job, now) else seat.awarded) - seat.paid for seat in job.seats)


def sweep(job: Job, vault_amount: int, now: int, *, treasury_usable: bool = True) -> Sweep:
    """What `close_job` does at `now` with that vault, if T_end has passed and the client's vault can receive."""
    left = owed(job, now)
    bonds = 0 if now >= forfeit_time(job) else sum(seat.bond for seat in job.seats if seat.active)
    due = fee(job.paid_total, job.fee_bps) - job.fee_paid
    reserve = fee(job.paid_total + left, job.fee_bps) - (job.fee_paid + due)
    free = vault_amount - (due if treasury_usable else 0) - left - bonds - reserve
    erases = left == 0 and bonds == 0 and now >= job.id_time + OPEN_WINDOW
    return Sweep(due, free, left, bonds, reserve, erases)
