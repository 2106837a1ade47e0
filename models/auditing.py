"""What the audit of a job is expected to take: segments replayed, seconds of the auditor's machine, bytes moved.

By the very choices that the audit makes: at the default rate (one segment of a shard at random, one more in a
contributor's first round, the last one always in a small job, a first round or a large share of the round, and every
second time otherwise), each drawn segment either replayed from the shard's start or from an opened state, whichever is
quicker (`plan_openings`). The average is over where the draw may fall. Where optimizer state is kept across rounds, a
shard's start is opened too (1.6 bytes a parameter) unless the audit of the round before reached it. Not covered: rates
raised by risk, whole replays of odd updates, and second replays after a miss.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

from cloudlinkup.training.moments import moments_size
from cloudlinkup.training.states import state_size
from cloudlinkup.verify.challenge import SMALL_JOB
from cloudlinkup.verify.rates import LARGE_SHARE
from cloudlinkup.verify.replay import ReplayCosts, goes_on, plan_openings
from models.facts import JobFacts
from models.plan import JobPlan, RoundPlan, plan_round

OPENING_LATENCY = 0.25  # seconds assumed for one opening's way here, and 100 Mbit/s for its bytes:
OPENING_BYTES_A_SECOND = 12_500_000  # a choice between two correct ways, so an assumption does
PLACES = 12  # of a draw that are averaged over: every one in short shards
LONGEST = 300.0  # seconds of training of a round whose audit runs beside the next: half of what contributors credit
ANSWER_BYTES = 700  # of a challenge and its answer without any state: seen with two contributors


@dataclass(frozen=True)
class AuditCost:
    """Averages over the draws. `seconds`: of the auditor's machine, replays only."""

    segments: float = 0.0
    seconds: float = 0.0
    bytes: float = 0.0

    def plus(self, other: AuditCost, times: float) -> AuditCost:
        return AuditCost(
            self.segments + times * other.segments,
            self.seconds + times * other.seconds,
            self.bytes + times * other.bytes,
        )


@lru_cache(maxsize=4_096)
def shard_cost(segments: int, costs: ReplayCosts, size: int, *, first: bool, small: bool) -> AuditCost:
    """One shard of so many segments; `size`: bytes of a state."""
    last = 1.0 if first or small else 0.5
    total, places = AuditCost(), _spread(1, segments)
    for number in places:
        others = _spread(1, segments - 1) if first and segments > 1 else [0]
        for other in others:
            drawn = {number, (number - 1 + other) % segments + 1}
            for chance, opened in ((last, drawn | {segments}), (1 - last, drawn)):
                total = total.plus(_replay(opened, segments, costs, size), chance / len(places) / len(others))
    return total


def _spread(first: int, last: int) -> list[int]:
    """At most `PLACES` whole numbers that stand for all from first to last."""
    count = min(PLACES, last - first + 1)
    return [first + (last - first + 1) * (2 * i + 1) // (2 * count) for i in range(count)]


def _reached(segments: int, costs: ReplayCosts, *, small: bool) -> float:
    """Of the draws of a shard, those whose replay reaches its end."""
    last = 1.0 if small else 0.5
    near = sum(goes_on([number], segments, costs) for number in range(1, segments + 1)) / segments
    return last + (1 - last) * near


def _replay(drawn: Collection[int], segments: int, costs: ReplayCosts, size: int) -> AuditCost:
    opened, at, replayed = plan_openings(drawn, costs), 0, 0
    start = costs.start_seconds > 0 and min(drawn) not in opened
    moved = len(opened) * size + start * moments_size((size - state_size(0)) // 12)
    for number in sorted(drawn):
        replayed += 1 if number in opened else number - at
        at = number
    replayed += segments - at if goes_on(drawn, segments, costs) else 0
    return AuditCost(replayed, replayed * costs.segment_seconds, ANSWER_BYTES + moved)


def replay_costs(count: int, segment_seconds: float, *, kept: bool) -> ReplayCosts:
    """Of a shard of `count` trained numbers whose start is here."""
    opening = OPENING_LATENCY + moments_size(count) / OPENING_BYTES_A_SECOND
    return ReplayCosts(
        segment_seconds=segment_seconds,
        opening_seconds=OPENING_LATENCY + state_size(count) / OPENING_BYTES_A_SECOND,
        moments_seconds=opening if kept else 0.0,
    )


def later_cost(segments: int, costs: ReplayCosts, size: int, *, small: bool) -> AuditCost:
    """One shard as `shard_cost`, of a round after a seat's first: where state is kept, its moments are here if the last
    round's audit reached its end, else they are opened."""
    later = shard_cost(segments, costs, size, first=False, small=small)
    if not costs.moments_seconds:
        return later
    reached = _reached(segments, costs, small=small)
    lacking = replace(costs, start_seconds=costs.moments_seconds)
    asked = shard_cost(segments, lacking, size, first=False, small=small)
    return AuditCost().plus(later, reached).plus(asked, 1 - reached)


def audit_cost(plan: JobPlan, job: JobFacts, first: RoundPlan | None = None) -> AuditCost:
    """All rounds of a plan, each taken to be like the `first`."""
    count = int(job.features.get("parameters", 0))
    size = state_size(count)
    costs = replay_costs(count, plan.segment_steps * job.profile.step_seconds(job.batch), kept=plan.kept)
    total, small = AuditCost(), len(plan.seats) < SMALL_JOB
    first = first or plan_round(plan, 1, plan.total_steps, plan.predictions)
    for seat in first.seats:
        total = total.plus(shard_cost(seat.max_segments, costs, size, first=True, small=small), 1)
        last = small or seat.steps > LARGE_SHARE * first.steps
        total = total.plus(later_cost(seat.max_segments, costs, size, small=last), plan.rounds - 1)
    if plan.newcomer is not None:
        total = total.plus(shard_cost(plan.newcomer_segments, costs, size, first=True, small=small), 1)
    return total


def shown_seconds(audit: float, rounds: int, training: float) -> float:
    """Seconds by which a job of `rounds` rounds takes longer for its audits, of `audit` seconds in all: those of the
    first round and of the last are waited for, the others run beside the next round and show by what exceeds its
    share of `training` (seconds in all). Where rounds are too long for that, all of them show."""
    each, beside = audit / max(1, rounds), training / max(1, rounds)
    if rounds <= 2 or beside > LONGEST:
        return audit
    return 2 * each + (rounds - 2) * max(0.0, each - beside)
