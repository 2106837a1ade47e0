"""From a selection to steps: the job's rounds, and each round's split.

Rounds follow the measured default of training in rounds: H local steps per contributor between two averagings, 100
where that leaves at least 40 rounds, else 50; a short job takes fewer, so that there are at least four rounds to
rebalance in. The unit is the segment (at most 10 steps); its length is chosen so that the slowest seat gets at least
three of them (flooring to ten-step segments loses 10% of the work at H = 50), and so that segments divide the job.

Each round is split anew by the speeds known then (`correction`), so a straggler delivers less instead of making
everybody wait: simulated on real times, rounds with a time-box come within 4% of the bound, with any prediction or
none. Not here: the rule that no identity weighs more than a third of a round; aggregation holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Annotated

from pydantic import Field

from cloudlinkup.types import Frozen
from models.allocator import integer_fill
from models.facts import JobFacts, Prediction
from models.pricing import cleared_price
from models.selection import Ranked

LONG, SHORT, LEAST = 100, 50, 30  # local steps per contributor and round
MANY_ROUNDS, FEW_ROUNDS = 40, 4
AVERAGE_SEGMENTS = 10  # of an average seat in a round
LEAST_SEGMENTS = 3  # of the slowest seat in a round
MAX_SEGMENT = 10  # steps
LEAST_BOX = 5.0  # seconds: below this a time-box measures jitter
LEAST_SLACK, MOST_SLACK = 1.5, 4.0  # of the time-box over the predicted makespan
MILLION = 1_000_000


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
    price: int  # base units per verified step
    seats: tuple[PlannedSeat, ...]
    predictor: str
    version: str

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
    seconds: float  # predicted makespan of the training
    time_box: float
    predictor: str
    version: str


def _segment_steps(total: int, local: int, slowest: float) -> int:
    """Steps a segment: at most 10; an average seat gets ten, the slowest three; rather one that divides the job.

    Ten, because whole segments are dealt: with five, rounds took 12% longer than the bound, with ten 8% (simulated).
    """
    most = max(1, min(MAX_SEGMENT, total, local // AVERAGE_SEGMENTS, int(slowest // LEAST_SEGMENTS)))
    return min(range(max(1, most // 2), most + 1), key=lambda s: (total % s, -s))


def local_steps(total: int, contributors: int) -> int:
    """H for a job of `total` steps: 100, 50, or fewer so that a short job still has rounds to rebalance in."""
    if total >= LONG * contributors * MANY_ROUNDS:
        return LONG
    if total >= SHORT * contributors * FEW_ROUNDS:
        return SHORT
    return min(SHORT, max(LEAST, -(-total // (contributors * FEW_ROUNDS))))


def plan_job(job: JobFacts, chosen: Sequence[Ranked], *, predictor: str, version: str) -> JobPlan:
    """The plan of the whole job: steps, rounds, seats and one price.

    `chosen` is `Selection.chosen` or the first few of it. Raises ValueError when it is empty.
    """
    if not chosen:
        raise ValueError("nobody is selected")
    total, k = job.steps, len(chosen)
    h = local_steps(total, k)
    speeds = [1 / r.prediction.seconds for r in chosen]
    segment = _segment_steps(total, h, min(total, h * k) * min(speeds) / sum(speeds))
    whole = total // segment * segment
    return JobPlan(
        total_steps=whole,
        dropped_steps=total - whole,
        batch=job.batch,
        segment_steps=segment,
        local_steps=h,
        rounds=_count_rounds(whole, h * k, segment),
        price=cleared_price([r.ask for r in chosen]),
        seats=tuple(
            PlannedSeat(
                seat=i,
                agent=r.candidate.agent,
                wallet=r.candidate.wallet,
                device_class=r.candidate.device_class,
                ask=r.ask,
                prediction=r.prediction,
            )
            for i, r in enumerate(chosen)
        ),
        predictor=predictor,
        version=version,
    )


def _round_size(remaining: int, full: int, segment: int) -> int:
    """Steps of the next round: a full one, or all that is left when that is less than a round and a quarter."""
    size = remaining if remaining * 4 <= full * 5 else full
    return max(segment, size // segment * segment) if remaining >= segment else 0


def _count_rounds(total: int, full: int, segment: int) -> int:
    rounds = 0
    while total >= segment:
        total -= _round_size(total, full, segment)
        rounds += 1
    return rounds


def plan_round(
    plan: JobPlan,
    round_: int,
    remaining_steps: int,
    speeds: Mapping[int, Prediction],
    *,
    most_steps: Mapping[int, int] | None = None,
) -> RoundPlan:
    """The split of one round among the seats in `speeds` (leave out a seat that is lost or rejected).

    `round_` is the chain's number (from 1). `remaining_steps` = total_steps - verified steps so far. `speeds` holds the
    seconds per step known now (`JobPlan.predictions` first, then `Correction.prediction`). `most_steps` caps seats (by
    budget, say); a seat that is not in it is not capped. The steps of all seats together are never above
    `remaining_steps`; they are fewer where caps bind. Raises ValueError when `speeds` is empty.
    """
    if not speeds:
        raise ValueError("no seat is left")
    seats = sorted(speeds)
    segment = plan.segment_steps
    v = [1 / speeds[s].seconds / segment for s in seats]  # segments a second
    caps = [(most_steps or {}).get(s, remaining_steps) // segment for s in seats]
    size = _round_size(remaining_steps, plan.local_steps * len(seats), segment) // segment
    size = min(size, sum(caps))
    units = integer_fill(size, v, caps) if size else [0] * len(seats)
    makespan = max(float(n) / speed for n, speed in zip(units, v, strict=True))
    slack = median(speeds[s].high / speeds[s].seconds for s in seats)
    box = min(86_400.0, max(LEAST_BOX, makespan * min(MOST_SLACK, max(LEAST_SLACK, slack))))
    done = plan.total_steps - remaining_steps
    begin = done * MILLION // plan.total_steps
    end = min(MILLION, (done + size * segment) * MILLION // plan.total_steps)
    return RoundPlan(
        round=round_,
        steps=size * segment,
        seats=tuple(
            SeatRound(
                seat=s,
                agent=speeds[s].agent,
                max_segments=int(n),
                segment_steps=segment,
                progress_from=begin,
                progress_to=end,
                time_box=box,
                prediction=speeds[s],
            )
            for s, n in zip(seats, units, strict=True)
            if n > 0
        ),
        idle=tuple(s for s, n in zip(seats, units, strict=True) if n == 0),
        seconds=makespan,
        time_box=box,
        predictor=plan.predictor,
        version=plan.version,
    )
