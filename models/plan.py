"""From a selection to steps: the job's rounds, and each round's split.

Rounds follow the measured default of training in rounds: H local steps per contributor between two averagings, 100
where that leaves at least 40 rounds, else 50; a short job takes fewer, so that there are at least four rounds to
rebalance in. Where each seat keeps its optimizer state across rounds, H is 25, down to 15 where that leaves under 25
rounds, in segments of at most 5 steps; for a text, unless it only trains adapters, the fewest that send a hundredth of
the bytes of data parallel training, 15, which brings its loss nearer to that than 25 do. The unit is the segment (at
most 10 steps); its length is chosen so that the slowest seat gets at least three of them (flooring to ten-step segments
loses 10% of the work at H = 50), and so that segments divide the job.

Each round is split anew by the speeds known then (`correction`), so a straggler delivers less instead of making
everybody wait. What binds a seat: money (`most_steps`), its hours, what nobody has measured yet (a pilot's work, or an
equal part of a round), and `MOST_WORK` of the round from four seats on. Aggregation weighs nobody above a third, yet
more work than that is not lost: a longer way on the same rows counts by its length. What it does to the score cannot be
seen, what it does to the time can (docs/rounds.md). Who would miss the time-box at the P90 of its speed gets less
before the round, not a cut after it, where others have room.

A round that is not the last ends at a bell, soon after the predicted makespan, and each is given what it could do
until then at the P10 of its time: nobody waits for a straggler, and nobody fast runs out of work. With exact shares and
boxes of half as long again, rounds took 1.10 of the bound, with the bell 1.04 (`benchmarks.plans`, jitter 5%).

Round 1 is a pilot where seats are raced for: the same few segments for everybody, whatever speed
was claimed, in a time-box, verified and paid like any other, and part of the training. Who is kept: `race`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from math import ceil, inf
from statistics import median
from typing import Annotated

from pydantic import Field

from cloudlinkup.training.quantize import encoded_size
from cloudlinkup.types import Frozen
from models.allocator import integer_fill
from models.facts import JobFacts, Prediction
from models.pricing import cleared_price
from models.racing import race_width
from models.selection import Ranked

LONG, SHORT, LEAST = 100, 50, 30  # local steps per contributor and round
KEPT_LONG, KEPT_SEGMENT = 25, 5  # the same, and steps of a segment, where optimizer state is kept
FEWER_BYTES = 100  # than data parallel training over a star sends, at least: 8 a parameter, worker and step
MANY_ROUNDS, FEW_ROUNDS, KEPT_ROUNDS = 40, 4, 25
AVERAGE_SEGMENTS = 10  # of an average seat in a round
LEAST_SEGMENTS = 3  # of the slowest seat in a round
MAX_SEGMENT = 10  # steps
LEAST_BOX = 5.0  # seconds: below this a time-box measures jitter
LEAST_SLACK, MOST_SLACK = 1.5, 4.0  # of the time-box over the predicted makespan
BELL = 1.02  # of the predicted makespan, when a round ends that is not the last
OVER = 1.5  # times its share that somebody may do who turns out faster
MILLION = 1_000_000
PILOT_SHARE = 0.05  # of the job's steps, shared equally in the pilot
PILOT_LEAST, PILOT_MOST = 2, 5  # segments of a seat in it
MOST_WORK, BOUND_FROM = Fraction(3, 4), 4  # nobody does over that share of a round of so many seats or more


def cheap_steps(fewer: int, segment: int) -> int:
    """The least H, in segments of so many steps, whose rounds (an update up, a difference down) send at least `fewer`
    times fewer bytes than data parallel training; of the audit's they have what is over."""
    count = 1_000_000  # parameters: the header counts for nothing
    least = -(-fewer * 2 * encoded_size(count) // (8 * count))
    return -(-least // segment) * segment


KEPT_LEAST = cheap_steps(FEWER_BYTES, KEPT_SEGMENT)


class PlannedSeat(Frozen):
    """A place in the job, numbered from 0 in the order of `assign_seats`."""

    seat: int
    agent: str
    wallet: str
    device_class: str
    ask: int  # base units per step
    prediction: Prediction


class JobPlan(Frozen):
    """What was agreed before any money was locked. `predictor` and `version` name what it was planned with."""

    total_steps: int  # a multiple of segment_steps, at most ceil(samples / batch)
    dropped_steps: int  # steps of the job that do not fill a segment
    batch: int
    segment_steps: Annotated[int, Field(ge=1, le=MAX_SEGMENT)]
    local_steps: int  # H: steps per contributor and round, on average
    rounds: int
    kept: bool = False  # optimizer state, across rounds
    price: int  # base units per verified step
    seats: tuple[PlannedSeat, ...]
    racers: tuple[PlannedSeat, ...] = ()  # have a place in the pilot too, and after it only if they are better
    pilot_segments: int = 0  # of each seat in the pilot; 0: round 1 is like any other
    newcomer: PlannedSeat | None = None  # has one shard, that somebody known does too (models/newcomer)
    newcomer_segments: int = 0  # of that shard, at most
    known: tuple[int, ...] = ()  # seats that it may be a duplicate of
    predictor: str
    version: str

    @property
    def everybody(self) -> tuple[PlannedSeat, ...]:
        """Who has a seat on chain from the start, by number."""
        return (*self.seats, *self.racers, *([self.newcomer] if self.newcomer else []))

    @property
    def newcomer_steps(self) -> int:
        """Most steps that are done twice, and paid twice."""
        return self.newcomer_segments * self.segment_steps

    @property
    def unmeasured_steps(self) -> int:
        """Most steps in a round of a seat that no shard of this job has measured: with equal work all wait for the
        slowest, so there is little of it until speeds are known."""
        return min(self.local_steps, (self.pilot_segments or PILOT_MOST) * self.segment_steps)

    @property
    def round_steps(self) -> int:
        """Steps of one full round with every seat."""
        return self.local_steps * len(self.seats)

    @property
    def predictions(self) -> dict[int, Prediction]:
        """Seconds per step by seat, as planned: the first round's speeds."""
        return {s.seat: s.prediction for s in self.seats}


class SeatRound(Frozen):
    """One seat's work in one round, as its order says it. `time_box` in seconds of training."""

    seat: int
    agent: str
    trial: int | None = None  # the training of its own that it goes on with (models/trials)
    twin: int | None = None  # the seat whose rows it trains on as well, without being counted (models/newcomer)
    again: bool = False  # the round has no work for it; it is measured again (models/again)
    max_segments: int
    segment_steps: int
    progress_from: int
    progress_to: int
    time_box: float
    prediction: Prediction

    @property
    def steps(self) -> int:
        """The most steps that can be paid."""
        return self.max_segments * self.segment_steps


class RoundPlan(Frozen):
    """One round. `seats`: those with work; `idle`: those for whom one segment would already be too long."""

    round: int
    steps: int
    seats: tuple[SeatRound, ...]
    idle: tuple[int, ...]
    shrunk: tuple[int, ...] = ()  # those that got less because they might have missed the time-box
    seconds: float  # predicted makespan of the training
    time_box: float
    predictor: str
    version: str


def segment_steps(total: int, local: int, slowest: float, kept: bool) -> int:
    """Steps a segment: at most 10; an average seat gets ten, the slowest three; rather one that divides the job. With
    kept state at most 5, and five for an average seat.

    Ten, because whole segments are dealt: with five, rounds took 12% longer than the bound, with ten 8% (simulated).
    """
    average = min(KEPT_SEGMENT, local // KEPT_SEGMENT) if kept else local // AVERAGE_SEGMENTS
    most = max(1, min(MAX_SEGMENT, total, average, int(slowest // LEAST_SEGMENTS)))
    return min(range(max(1, most // 2), most + 1), key=lambda s: (total % s, -s))


def local_steps(total: int, contributors: int, kept: bool = False, text: bool = False) -> int:
    """H for a job of `total` steps: 100, 50, or fewer so that a short job still has rounds to rebalance in. `text`: of
    a next-token model that is trained whole, which in kept rounds takes the fewest that are cheap enough
    (docs/rounds.md)."""
    if kept and text:
        return KEPT_LEAST
    if kept:
        return min(KEPT_LONG, max(KEPT_LEAST, -(-total // (contributors * KEPT_ROUNDS))))
    if total >= LONG * contributors * MANY_ROUNDS:
        return LONG
    if total >= SHORT * contributors * FEW_ROUNDS:
        return SHORT
    return min(SHORT, max(LEAST, -(-total // (contributors * FEW_ROUNDS))))


def pilot_segments(units: int, seats: int) -> int:
    """Segments of each seat in the pilot: a twentieth of the job's `units` segments in all, within bounds, and never
    over half of the job; 0 where it is too short for a pilot."""
    wanted = min(PILOT_MOST, max(PILOT_LEAST, round(PILOT_SHARE * units / seats)))
    return min(wanted, units // (2 * seats))


def plan_job(
    job: JobFacts, chosen: Sequence[Ranked], *, predictor: str, version: str, spare: Sequence[Ranked] = ()
) -> JobPlan:
    """The plan of the whole job: steps, rounds, seats and one price.

    `chosen` is `Selection.chosen` or the first few of it. `spare`: those who may race with them for the places, and do
    as long as that is worth it (`racing`), if they take the price that the chosen cleared. Raises ValueError when
    nobody is chosen.
    """
    if not chosen:
        raise ValueError("nobody is selected")
    total, k = job.steps, len(chosen)
    h = local_steps(total, k, job.kept, job.text)
    speeds = [1 / r.prediction.seconds for r in chosen]
    segment = segment_steps(total, h, min(total, h * k) * min(speeds) / sum(speeds), job.kept)
    whole = total // segment * segment
    price = cleared_price([r.ask for r in chosen])
    racers = [r for r in spare if r.ask <= price]
    if racers:
        field = [r.prediction for r in (*chosen, *racers)]
        racers = racers[: race_width(field, k, whole // segment, PILOT_LEAST) - k]
    pilot = 0
    if k > 1 or racers:
        pilot = pilot_segments(whole // segment, k + len(racers))
        if not pilot and racers:
            racers, pilot = [], pilot_segments(whole // segment, k)
    if not racers:
        pilot = 0
    in_pilot = pilot * segment * (k + len(racers))
    return JobPlan(
        total_steps=whole,
        dropped_steps=total - whole,
        batch=job.batch,
        segment_steps=segment,
        local_steps=h,
        rounds=bool(pilot) + _count_rounds(whole - in_pilot, h * k, segment),
        kept=job.kept,
        price=price,
        seats=tuple(_seat(i, r) for i, r in enumerate(chosen)),
        racers=tuple(_seat(k + i, r) for i, r in enumerate(racers)),
        pilot_segments=pilot,
        predictor=predictor,
        version=version,
    )


def _seat(number: int, ranked: Ranked) -> PlannedSeat:
    one = ranked.candidate
    return PlannedSeat(
        seat=number,
        agent=one.agent,
        wallet=one.wallet,
        device_class=one.device_class,
        ask=ranked.ask,
        prediction=ranked.prediction,
    )


def _round_size(remaining: int, full: int, segment: int) -> int:
    """Steps of the next round: a full one, or an equal part of what is left of the last two."""
    size = remaining // max(1, round(remaining / full)) if remaining * 2 < full * 5 else full
    return max(segment, size // segment * segment) if remaining >= segment else 0


def rounds_left(plan: JobPlan, remaining: int, seats: int) -> int:
    """How many rounds `remaining` steps take with so many seats."""
    return _count_rounds(remaining, plan.local_steps * max(1, seats), plan.segment_steps)


def _count_rounds(total: int, full: int, segment: int) -> int:
    rounds = 0
    while total >= segment:
        total -= _round_size(total, full, segment)
        rounds += 1
    return rounds


def plan_pilot(
    plan: JobPlan,
    round_: int,
    remaining_steps: int,
    speeds: Mapping[int, Prediction],
    *,
    most_steps: Mapping[int, int] | None = None,
) -> RoundPlan:
    """The pilot: `plan.pilot_segments` for every seat in `speeds`, whatever its predicted speed.

    The time-box is the median seat's, so that one slow contributor does not hold up the race. Parameters and errors as
    `plan_round`.
    """
    if not speeds:
        raise ValueError("no seat is left")
    segment, seats = plan.segment_steps, sorted(speeds)
    each = min(max(1, plan.pilot_segments), max(1, remaining_steps // segment // len(seats)))
    units = [min(each, (most_steps or {}).get(s, remaining_steps) // segment) for s in seats]
    left = remaining_steps // segment
    for i, n in enumerate(units):  # where there are more seats than segments
        units[i] = min(n, left)
        left -= units[i]
    middle = median(speeds[s].seconds for s in seats) * segment * each
    box = dict.fromkeys(seats, _box(middle, speeds))
    return _round(plan, round_, remaining_steps, speeds, dict(zip(seats, units, strict=True)), middle, box)


def plan_round(
    plan: JobPlan,
    round_: int,
    remaining_steps: int,
    speeds: Mapping[int, Prediction],
    *,
    most_steps: Mapping[int, int] | None = None,
    unmeasured: Collection[int] = (),
    overheads: Mapping[int, float] | None = None,
    open_seconds: Mapping[int, float] | None = None,
    again: Collection[int] = (),
) -> RoundPlan:
    """The split of one round among the seats in `speeds` (leave out a seat that is lost or rejected).

    `round_` is the chain's number (from 1). `remaining_steps` = total_steps - verified steps so far. `speeds` holds the
    seconds per step known now (`JobPlan.predictions` first, then `Correction.prediction`). `most_steps` caps seats (by
    budget, say); a seat that is not in it is not capped. `unmeasured`: seats without a shard in this job, which get at
    most `JobPlan.unmeasured_steps`. `overheads`: seconds that a seat needs before it trains (the round's bytes);
    `open_seconds`: how long it stays. `again`: seats that get one segment where they would get none (`again.Waited`),
    unless the round ends the job. The steps of all seats together are never above `remaining_steps`; they are fewer
    where caps bind. Raises ValueError when `speeds` is empty.
    """
    if not speeds:
        raise ValueError("no seat is left")
    seats, segment = sorted(speeds), plan.segment_steps
    v = [1 / speeds[s].seconds / segment for s in seats]  # segments a second
    before = [(overheads or {}).get(s, 0.0) for s in seats]
    caps = []
    for s, speed, first in zip(seats, v, before, strict=True):
        cap = (most_steps or {}).get(s, remaining_steps)
        cap = min(cap, plan.unmeasured_steps) if s in unmeasured else cap
        hours = (open_seconds or {}).get(s, inf)
        caps.append(min(cap // segment, remaining_steps if hours == inf else int(max(0.0, hours - first) * speed)))
    possible, whole = caps, remaining_steps // segment
    size = _round_size(remaining_steps, plan.local_steps * len(seats), segment) // segment
    size, caps = _bounded(min(size, sum(caps)), caps)
    units = list(integer_fill(size, v, caps, before)) if size else [0] * len(seats)
    makespan = max(f + n / speed if n else 0.0 for n, speed, f in zip(units, v, before, strict=True))
    # before the round: who would miss the time-box at the P90 of its speed gives the rest to those with room
    box = _box(makespan, speeds)
    fitting = [max(1, int((box - f) / speeds[s].high / segment)) for s, f in zip(seats, before, strict=True)]
    shrunk = [s for s, n, most in zip(seats, units, fitting, strict=True) if n > most]
    if shrunk:
        caps = [min(cap, most) for cap, most in zip(caps, fitting, strict=True)]
        size, caps = _bounded(min(size, sum(caps)), caps)
        units = list(integer_fill(size, v, caps, before)) if size else units
        makespan = max(f + n / speed if n else 0.0 for n, speed, f in zip(units, v, before, strict=True))
    box = dict.fromkeys(seats, _box(makespan, speeds))
    if size < whole and makespan > LEAST_BOX:
        bell = makespan * BELL
        box = {s: max(LEAST_BOX, bell - f) for s, f in zip(seats, before, strict=True)}
        able = [ceil((bell - f) / speeds[s].low / segment) for s, f in zip(seats, before, strict=True)]
        able = [max(int(n), min(most, int(OVER * n))) for n, most in zip(units, able, strict=True)]
        able = [int(n) if s in shrunk else most for s, n, most in zip(seats, units, able, strict=True)]
        caps = [min(cap, most) for cap, most in zip(possible, able, strict=True)]
        size, caps = _bounded(min(whole, sum(caps)), caps)
        units = list(integer_fill(size, v, caps, before))
    given = {s: int(n) for s, n in zip(seats, units, strict=True)}
    tried = [s for s, most in zip(seats, possible, strict=True) if s in again and most and not given[s]]
    tried = tried[: max(0, whole - sum(units))]
    given |= dict.fromkeys(tried, 1)
    box |= {s: max(LEAST_BOX, makespan * BELL - f) for s, f in zip(seats, before, strict=True) if s in tried}
    return _round(plan, round_, remaining_steps, speeds, given, makespan, box, tuple(shrunk), tried)


def _bounded(size: int, caps: list[int]) -> tuple[int, list[int]]:
    """(the round's segments, caps) so that nobody has over `MOST_WORK`, from four seats with work on. Where other caps
    bind too hard for that, the round shrinks until it holds; a single segment is always allowed."""
    while sum(cap > 0 for cap in caps) >= BOUND_FROM:
        most = max(1, int(size * MOST_WORK))
        within = min(size, sum(min(cap, most) for cap in caps))
        if within == size:
            return size, [min(cap, most) for cap in caps]
        size = within
    return size, caps


def _box(makespan: float, speeds: Mapping[int, Prediction]) -> float:
    slack = median(p.high / p.seconds for p in speeds.values())
    return min(86_400.0, max(LEAST_BOX, makespan * min(MOST_SLACK, max(LEAST_SLACK, slack))))


def _round(
    plan: JobPlan,
    round_: int,
    remaining: int,
    speeds: Mapping[int, Prediction],
    units: Mapping[int, int],
    makespan: float,
    box: Mapping[int, float],
    shrunk: tuple[int, ...] = (),
    again: Collection[int] = (),
) -> RoundPlan:
    """`units`: segments by seat; `makespan`: predicted seconds; `box`: the time-box by seat."""
    segment, size = plan.segment_steps, sum(units.values())
    done = plan.total_steps - remaining
    begin = done * MILLION // plan.total_steps
    end = min(MILLION, (done + size * segment) * MILLION // plan.total_steps)
    return RoundPlan(
        round=round_,
        steps=size * segment,
        seats=tuple(
            SeatRound(
                seat=s,
                agent=speeds[s].agent,
                again=s in again,
                max_segments=n,
                segment_steps=segment,
                progress_from=begin,
                progress_to=end,
                time_box=box[s],
                prediction=speeds[s],
            )
            for s, n in units.items()
            if n > 0
        ),
        idle=tuple(s for s, n in units.items() if n == 0),
        shrunk=shrunk,
        seconds=makespan,
        time_box=max(box.values()),
        predictor=plan.predictor,
        version=plan.version,
    )
