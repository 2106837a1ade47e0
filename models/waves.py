"""One wave of a search: who goes on with which training, with how much of it, and when the bell rings. Pure.

A wave is a round on chain in which every contributor does one chunk of one trial (`trials`), and every wave costs
`fixed` seconds beside training: orders, the chain, the audit. As ordinary rounds do (`plan`), a wave ends at a *bell*:
each contributor is given what it could do until then if it turns out quick, and answers at the bell with the segments
that are done. Nobody waits for a slow one, and no quick one runs out of work while its trial has any.

- How long: by rollout (Bertsekas). Each policy of a small family (a share of the time that is left, or so many equal
  waves) is played on to the end at the speeds known now, `fixed` added for every wave, and the first wave of the best
  one is taken. So few long waves are held where waves cost much, and short ones where only those even out the end.
- Who does what: by *level*, the trial with most left to the fastest and so on down both lists (Horvath, Lam and Sethi
  1977, optimal in makespan for preemptible chains on machines of different speed), or by *fit*, the trial that just
  fills the contributor's time, which ends trials along the way: a wave can end at most one trial a contributor.
- The last wave has all that is left of all trials, and no bell but a limit on waiting: what another wave would cost.
- The first wave is a pilot, a twentieth of the job: nobody's speed was observed before it.

Not covered: several chunks of one contributor in one wave. An order is of one trial, and a contributor has one leaf
under a round's root, so a search with far more trials than contributors needs at least (trials x the fastest's share
of the speed) waves; `benchmarks.plans` prints what that costs. Nor trials that are handed over inside a wave, and what
a trial's weights cost to send to another contributor than the last one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, inf
from typing import NamedTuple

from cloudlinkup.search import Halving
from models.estimate import LOST
from models.facts import Prediction
from models.plan import BELL, LEAST_BOX, MILLION, OVER, JobPlan, RoundPlan, SeatRound
from models.trials import SearchWork, Standing, after_wave, boundary

PILOT = 0.05  # of the work left, in a first wave
LEAST_SECONDS, MOST_SECONDS = LEAST_BOX, 300.0  # of a wave: a contributor may be owed two, of ten minutes in all
FIXED = 5.0  # seconds that a wave costs beside training, where none was measured
MOST_FIXED = 60.0  # of a measured one: a contributor that never answered makes its wave look costlier than waves are
LAST = 0.1  # by which a wave takes longer that has no bell: the slowest of many
NEARLY = 0.98  # of its time that a training must fill to be taken for a fit
MOST_WAVES = 400  # of a policy that is played on


class Policy(NamedTuple):
    """A wave's length: `share` of the time left, or an equal part of it where `waves` are to be held; and who does
    what. After the first wave, all that is left is done at once as soon as another wave would cost as much."""

    share: float
    waves: int
    fit: bool


POLICIES = (
    Policy(1.0, 0, False),  # all that is left now, where everything has a contributor
    *(Policy(share, 0, False) for share in (0.15, 0.25, 0.35, 0.45, 0.55, 0.7, 0.85)),
    *(Policy(0.0, waves, fit) for waves in (2, 3, 4, 5, 6, 8, 10, 13, 16, 20) for fit in (True, False)),
    *(Policy(share, 0, True) for share in (0.1, 0.15, 0.2, 0.3)),
)


@dataclass(frozen=True)
class Chunk:
    """One contributor's part of one trial in one wave: at most `segments`, in `time_box` seconds of training.

    `seconds`: predicted, until its bell or its end.
    """

    seat: int
    trial: int
    segments: int
    seconds: float
    time_box: float
    progress_from: int  # millionths of the trial's steps
    progress_to: int


@dataclass(frozen=True)
class _Lane:
    """A seat. `speed` in steps of the costliest trial a second, `slow` and `quick` at the P90 and P10 of its time,
    `first` seconds before it trains."""

    seat: int
    speed: float
    slow: float
    quick: float
    first: float


class _Part(NamedTuple):
    """What one lane does of one trial in a wave: `segments`, done after `seconds`."""

    lane: _Lane
    trial: int
    segments: int
    seconds: float


class _Wave(NamedTuple):
    """`length`: seconds until the bell; infinite where all that is left is done in it."""

    parts: list[_Part]
    length: float

    @property
    def longest(self) -> float:
        return max(part.seconds for part in self.parts)


@dataclass(frozen=True)
class _Field:
    """Lanes, the fastest first; by trial, work of a segment in steps of the costliest, and most segments a chunk."""

    lanes: tuple[_Lane, ...]
    unit: tuple[float, ...]
    most: tuple[int, ...]
    fixed: float
    whole: float  # seconds of the whole job, at the least

    def bound(self, left: Sequence[int]) -> float:
        """Seconds that `left` segments by trial take at the least: the k longest need the k fastest."""
        works = list(accumulate(sorted((n * unit for n, unit in zip(left, self.unit, strict=True) if n), reverse=True)))
        if not works:
            return 0.0
        speeds = list(accumulate(lane.speed for lane in self.lanes[: len(works)]))
        few = max((work / speed for work, speed in zip(works, speeds[:-1], strict=False)), default=0.0)
        return max(few, works[-1] / speeds[-1])

    def wave(self, left: Sequence[int], ideal: float, policy: Policy, held: int = 0) -> _Wave:
        """The next wave under `policy`, `held` waves after it was taken up. `ideal`: the bound of what is left."""
        opened = self._opened(left)
        last = self._last(left, opened)
        if last is not None and (policy.share >= 1 or (held and last.longest <= ideal + self.fixed)):
            return last
        length = ideal / max(1, policy.waves - held) if policy.waves else ideal * policy.share
        return self._belled(left, opened, length, fit=policy.fit)

    def pilot(self, left: Sequence[int]) -> _Wave:
        """The first wave, by level: all at once only where that is as short."""
        opened = self._opened(left)
        length = max(LEAST_SECONDS, PILOT * self.bound(left))
        last = self._last(left, opened)
        return last if last is not None and last.longest <= length else self._belled(left, opened, length)

    def _opened(self, left: Sequence[int]) -> list[int]:
        """The trials with something left, most first."""
        return sorted((j for j, n in enumerate(left) if n), key=lambda j: (-left[j] * self.unit[j], j))

    def _last(self, left: Sequence[int], opened: Sequence[int]) -> _Wave | None:
        """All that is left at once, where that can be."""
        if len(opened) > len(self.lanes) or any(left[j] > self.most[j] for j in opened):
            return None
        pairs = zip(self.lanes, opened, strict=False)
        found = _Wave([_Part(lane, j, left[j], self.takes(lane, j, left[j])) for lane, j in pairs], inf)
        return found if found.longest <= max(LEAST_SECONDS, MOST_SECONDS) else None

    def takes(self, lane: _Lane, trial: int, segments: int) -> float:
        return lane.first + segments * self.unit[trial] / lane.speed

    def _belled(self, left: Sequence[int], opened: Sequence[int], length: float, *, fit: bool = False) -> _Wave:
        """The wave of about `length` seconds, in which at least one segment is done."""
        widest = max(self.unit)
        shortest = min(lane.first + widest / lane.slow for lane in self.lanes[: len(opened)])
        length = max(min(MOST_SECONDS, max(LEAST_SECONDS, length)), shortest)
        pairs = self._by_fit(left, opened, length) if fit else zip(self.lanes, opened, strict=False)
        parts: list[_Part] = []
        for lane, j in pairs:
            time, unit = length - lane.first, self.unit[j]
            if time * lane.slow >= unit * (1 - 1e-9):  # else a segment might not be done by the bell
                count = min(left[j], self.most[j], max(1, int(time * lane.speed / unit)))
                parts.append(_Part(lane, j, count, self.takes(lane, j, count)))
        return _Wave(parts, length)

    def _by_fit(self, left: Sequence[int], opened: Sequence[int], length: float) -> Iterator[tuple[_Lane, int]]:
        """To each lane, the fastest first, the shortest trial that fills its time; else the longest."""
        rest = sorted((left[j] * self.unit[j], j) for j in opened)
        for lane in self.lanes:
            if not rest:
                return
            at = bisect_left(rest, (NEARLY * (length - lane.first) * lane.speed, -1))
            yield lane, rest.pop(min(at, len(rest) - 1))[1]

    def play(self, left: Sequence[int], policy: Policy, limit: float = inf) -> Iterator[tuple[_Wave, float]]:
        """The waves under `policy` until nothing is left, with the seconds of each; fewer where all of them cannot take
        less than `limit`."""
        now, seconds = list(left), 0.0
        for held in range(MOST_WAVES):
            ideal = self.bound(now)
            if not ideal or seconds + ideal + self.fixed >= limit:
                return
            wave = self.wave(now, ideal, policy, held)
            took = self.seconds(now, ideal, wave)
            yield wave, took
            seconds += took
            for part in wave.parts:
                now[part.trial] -= part.segments

    def seconds(self, left: Sequence[int], ideal: float, wave: _Wave) -> float:
        """What a wave takes in all, with what is lost on average by contributors that vanish: all do it again, and
        where too little is left to make it up meanwhile, they wait for the fastest to do it alone."""
        longest, parts = wave.longest, wave.parts
        risk = min(1.0, LOST * longest / self.whole)  # of each contributor
        rest = max(0.0, ideal - longest)
        alone = [max(0.0, left[part.trial] * self.unit[part.trial] / self.lanes[0].speed - rest) for part in parts]
        waits = (1 - (1 - risk) ** len(parts)) * sum(alone) / len(parts)
        late = LAST * (wave.length == inf and len(parts) > 1)
        return longest * (1 + risk / 2 + late) + waits + self.fixed

    def best(self, left: Sequence[int]) -> Policy:
        """The policy under which all is done first."""
        least, found = inf, POLICIES[0]
        for policy in POLICIES:
            total, done = 0.0, 0
            for wave, seconds in self.play(left, policy, least):
                total += seconds
                done += sum(part.segments for part in wave.parts)
            if total < least and done == sum(left):
                least, found = total, policy
        return found


def plan_wave(
    standings: Sequence[Standing],
    speeds: Mapping[int, Prediction],
    *,
    segment: int,
    halving: Halving | None = None,
    rung: int = 0,
    first: bool = False,
    fixed: float = FIXED,
    overheads: Mapping[int, float] | None = None,
    most_steps: Mapping[int, int] | None = None,
) -> tuple[Chunk, ...]:
    """The next wave. `speeds`: seconds a step of the costliest trial, by seat. `first`: nobody was measured yet.

    `fixed`: seconds that a wave costs beside training; `overheads`: seconds that a seat needs before it trains.
    `most_steps` caps seats, by budget say. Empty when no trial may run now, or no seat may do a segment.
    """
    caps = {seat: (most_steps or {}).get(seat, MILLION**2) // segment for seat in speeds}
    here = {seat: speed for seat, speed in speeds.items() if caps[seat] > 0}
    left = segments_left(standings, halving, rung, segment)
    if not here or not any(left):
        return ()
    field = _field(standings, here, segment, fixed, overheads or {})
    wave = field.pilot(left) if first else field.wave(left, field.bound(left), field.best(left))
    bell = wave.length * BELL
    if bell == inf:  # nobody is waited for longer than another wave would cost
        bell = wave.longest * (1 + LAST) + fixed
    chunks: list[Chunk] = []
    for lane, j, count, seconds in wave.parts:
        one, box, given = standings[j], max(LEAST_BOX, bell - lane.first), count
        if wave.length < inf:
            able = ceil(box * lane.quick / field.unit[j])
            given = min(left[j], field.most[j], max(count, min(able, ceil(OVER * count))))
        given = min(given, caps[lane.seat])
        chunks.append(
            Chunk(
                seat=lane.seat,
                trial=one.number,
                segments=given,
                seconds=seconds,
                time_box=min(86_400.0, box),
                progress_from=one.done * MILLION // one.total,
                progress_to=min(MILLION, (one.done + given * segment) * MILLION // one.total),
            )
        )
    return tuple(chunks)


def segments_left(standings: Sequence[Standing], halving: Halving | None, rung: int, segment: int) -> list[int]:
    """Of each trial, up to where it is compared with the others; 0 where it may not run now."""
    return [
        max(0, boundary(one, halving, rung, segment) - one.done) // segment if one.state == "open" else 0
        for one in standings
    ]


def _field(
    standings: Sequence[Standing],
    speeds: Mapping[int, Prediction],
    segment: int,
    fixed: float,
    overheads: Mapping[int, float],
) -> _Field:
    lanes = [_Lane(seat, 1 / p.seconds, 1 / p.high, 1 / p.low, overheads.get(seat, 0.0)) for seat, p in speeds.items()]
    return _Field(
        lanes=tuple(sorted(lanes, key=lambda lane: (-lane.speed, lane.seat))),
        unit=tuple(one.weight * segment for one in standings),
        most=tuple(one.most_segments for one in standings),
        fixed=fixed,
        whole=sum(one.total * one.weight for one in standings) / sum(lane.speed for lane in lanes),
    )


def wave_round(
    plan: JobPlan, number: int, chunks: Sequence[Chunk], beliefs: Mapping[int, Prediction], work: SearchWork
) -> RoundPlan:
    """The wave as round `number` on chain. `beliefs`: as `speeds` of `plan_wave`. Raises ValueError for no chunks."""
    if not chunks:
        raise ValueError("a round needs work")

    def scaled(seat: int, weight: float) -> Prediction:
        times = {name: getattr(beliefs[seat], name) * weight for name in ("seconds", "low", "high", "base")}
        return beliefs[seat].model_copy(update=times)

    return RoundPlan(
        round=number,
        steps=sum(chunk.segments for chunk in chunks) * work.segment,
        seats=tuple(
            SeatRound(
                seat=chunk.seat,
                agent=beliefs[chunk.seat].agent,
                trial=chunk.trial,
                max_segments=chunk.segments,
                segment_steps=work.segment,
                progress_from=chunk.progress_from,
                progress_to=chunk.progress_to,
                time_box=chunk.time_box,
                prediction=scaled(chunk.seat, work.weights[chunk.trial]),
            )
            for chunk in chunks
        ),
        idle=tuple(seat for seat in beliefs if seat not in {chunk.seat for chunk in chunks}),
        seconds=max(chunk.seconds for chunk in chunks),
        time_box=max(chunk.time_box for chunk in chunks),
        predictor=plan.predictor,
        version=plan.version,
    )


@dataclass(frozen=True)
class Forecast:
    """`waves`, `seconds` of training in all of them, the most steps that a wave gives one seat, by seat."""

    waves: int
    seconds: float
    largest: tuple[int, ...]


def forecast(
    standings: Sequence[Standing],
    speeds: Mapping[int, Prediction],
    *,
    segment: int,
    halving: Halving | None = None,
    fixed: float = FIXED,
) -> Forecast:
    """The whole job, if everybody worked exactly at `speeds`. The lower-numbered of equals survive the rungs."""
    now, rung, waves, seconds = list(standings), 0, 0, 0.0
    largest: dict[int, int] = {}
    field = _field(standings, speeds, segment, fixed, {})
    while any(left := segments_left(now, halving, rung, segment)):
        pilot = [(found := field.pilot(left), field.seconds(left, field.bound(left), found))] if not waves else []
        for wave, took in pilot or field.play(left, field.best(left)):
            waves, seconds = waves + 1, seconds + took - fixed
            for lane, j, count, _ in wave.parts:
                most = count if wave.length == inf else min(left[j], field.most[j], ceil(OVER * count))
                largest[lane.seat] = max(largest.get(lane.seat, 0), most * segment)
                left[j] -= count
                now[j] = moved(now[j], count * segment)
        gone, rung = after_wave(now, halving, rung, segment)
        now = [replace(one, state="stopped") if one.number in gone else one for one in now]
    return Forecast(waves, seconds, tuple(sorted(largest.values(), reverse=True)))


def moved(one: Standing, steps: int) -> Standing:
    """The trial after so many more steps."""
    done = one.done + steps
    return replace(one, done=done, state="done" if one.state == "open" and done >= one.total else one.state)
