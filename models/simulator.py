"""One job as it would go, by the product's own pilot, race, rounds and corrections, against simulated machines.

A machine has a true time per step (hidden from the planner), moments when it joins and vanishes, jitter, and a line
over which each round's bytes go. What a round costs beside training and transfer is `World.dispatch`. Nothing of
planning is written a second time here: `plan_pilot`, `keep`, `returning`, `latecomers`, `plan_round`, `plan_wave`,
`Correction` and `estimate` are called as the flow calls them.

A `Simulation` goes forward by one round at a time, so that many jobs can share one fleet (`fleet`); a `Search` does so
by waves. An audit is so many seconds a round (`World.audit`), beside the next one where the flow lets it run there
(`tasks/ahead`). Not here: money beyond steps, what an audit finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, inf

import numpy as np

from models.again import Waited
from models.correction import Correction
from models.estimate import Estimate, estimate, rest_of
from models.facts import Prediction, TrackRecord
from models.plan import JobPlan, RoundPlan, SeatRound, plan_pilot, plan_round
from models.race import Racer, Waiting, keep, latecomers, regressed, returning
from models.selection import Ranked
from models.trials import SearchWork, Standing, after_wave
from models.waves import moved, plan_wave, wave_round

MOST_ROUNDS = 1_000


@dataclass(frozen=True)
class Machine:
    """`seconds` a step, truly; there from `since` until `until`, seconds of the simulation; `bandwidth` in bytes/s."""

    seconds: float
    until: float = inf
    since: float = 0.0
    bandwidth: float = inf


@dataclass(frozen=True)
class World:
    """`dispatch`: seconds a round beside training and transfer. `jitter`: sigma of a shard's time in log space.

    `update`: bytes a seat and round, down and up; `rows`: bytes of a partition, when a seat gets its first work.
    `audit`: seconds of a round's replays and of the chain's finality.
    """

    dispatch: float = 5.0
    jitter: float = 0.05
    update: float = 0.0
    rows: float = 0.0
    audit: float = 0.0


@dataclass(frozen=True)
class Told:
    """What was known after a round: at which second, of which round, what of the rest."""

    at: float
    round: int
    estimate: Estimate


@dataclass(frozen=True)
class Outcome:
    """`seconds` in all, infinite where nobody was left; `work`: machine seconds of paid steps, by seat; `told` by
    round."""

    seconds: float
    work: Mapping[int, float]
    rounds: int
    kept: tuple[int, ...]
    told: tuple[Told, ...]
    late: int = 0  # seats that were taken after the race, by returning racers and latecomers

    @property
    def busy(self) -> float:
        """Machine seconds of paid steps, of all seats."""
        return sum(self.work.values())


def always(_: str) -> bool:
    return True


@dataclass
class Simulation:
    """A job under way. `machines` by seat of `plan.everybody`; `waiting` may join later, where a place is free.

    `free`: whether a contributor without work here may be called (it may have gone to another job), by agent. `tells`:
    whether an estimate is made after each round. `trusts`: whether the first split follows the predictions, as it does
    not in the flow, where everybody who is not measured gets an equal part.
    """

    plan: JobPlan
    machines: dict[int, Machine]
    rng: np.random.Generator
    world: World = World()
    waiting: Sequence[tuple[Ranked, Machine]] = ()
    now: float = 0.0
    free: Callable[[str], bool] = always
    tells: bool = True
    trusts: bool = False
    agents: dict[int, str] = field(init=False)  # by seat
    began: float = field(init=False)
    left: int = field(init=False)
    beliefs: dict[int, Correction] = field(init=False)
    dropped: dict[int, Correction] = field(default_factory=dict)
    transfer: dict[int, float] = field(default_factory=dict)
    work: dict[int, float] = field(default_factory=dict)
    waited: dict[int, Waited] = field(default_factory=dict)
    number: int = 0
    late: int = 0
    told: list[Told] = field(default_factory=list)
    raced: bool = False
    over: bool = False
    beside: float = 0.0  # seconds of an audit that runs beside the next round

    def __post_init__(self) -> None:
        self.began, self.left = self.now, self.plan.total_steps
        seats = (*self.plan.seats, *self.plan.racers)  # a newcomer's one shard is done twice and counts once
        self.agents = {s.seat: s.agent for s in seats}
        self.beliefs = {s.seat: Correction.start(s.prediction) for s in seats}
        self.waiting = list(self.waiting)

    def step(self) -> bool:
        """One round; False when the job was over before it."""
        self._refresh()
        if self.done or not self.beliefs or self.number >= MOST_ROUNDS:
            self.over = True
            return False
        self.number += 1
        pilot = self.plan.pilot_segments > 0 and not self.raced
        split = self._split(pilot)
        ordered = {seat.seat for seat in split.seats}
        self.waited = {s: self.waited.get(s, Waited()).after(worked=s in ordered) for s in self.beliefs}
        delivered = self._train(split)
        if pilot and any(delivered.values()):  # one that brought nothing is held again
            self._race(delivered)
        if self.beliefs and self.tells:
            self.told.append(Told(self.now, self.number, self._estimate()))
        return True

    @property
    def done(self) -> bool:
        return self.left < self.plan.segment_steps

    def outcome(self) -> Outcome:
        took = self.now - self.began if self.done else inf
        return Outcome(took, self.work, self.number, tuple(self.beliefs), tuple(self.told), self.late)

    def _refresh(self) -> None:
        """As between rounds in the flow: who is gone leaves; free places go to racers, then to whoever came late."""
        self.beliefs = {s: b for s, b in self.beliefs.items() if self.machines[s].until > self.now}
        free = len(self.plan.seats) - len(self.beliefs)
        if not self.number or free <= 0:
            return
        here = {s: b for s, b in self.dropped.items() if self.machines[s].until > self.now}
        here = {s: b for s, b in here.items() if self.free(self.agents[s])}
        back = returning([Waiting(s, b.mean, b.segments > 0) for s, b in here.items()], free)
        for seat in back:
            self.beliefs[seat] = self.dropped.pop(seat)
        there = {r.candidate.agent: m for r, m in self.waiting if m.since <= self.now < m.until}
        there = {agent: m for agent, m in there.items() if self.free(agent)}
        come = latecomers([r for r, _ in self.waiting if r.candidate.agent in there], self.plan.price, free - len(back))
        for ranked in come:
            seat = len(self.machines)
            self.agents[seat] = ranked.candidate.agent
            self.machines[seat] = there[ranked.candidate.agent]
            self.beliefs[seat] = Correction.start(ranked.prediction)
        taken = {r.candidate.agent for r in come}
        self.waiting = [(r, m) for r, m in self.waiting if r.candidate.agent not in taken]
        self.late += len(back) + len(come)

    def _split(self, pilot: bool) -> RoundPlan:
        speeds: Mapping[int, Prediction] = {s: b.prediction for s, b in self.beliefs.items()}
        if pilot:
            return plan_pilot(self.plan, self.number, self.left, speeds)
        unmeasured = {s for s, b in self.beliefs.items() if not b.segments and not self.trusts}
        overheads = {s: self.transfer.get(s, 0.0) for s in speeds}
        again = {s for s, waited in self.waited.items() if waited.due}
        return plan_round(
            self.plan, self.number, self.left, speeds, unmeasured=unmeasured, overheads=overheads, again=again
        )

    def _train(self, split: RoundPlan) -> dict[int, int]:
        """Segments delivered by seat; time goes on to the end of the round."""
        took, delivered = 0.0, {}
        known = all(self.beliefs[seat.seat].segments for seat in split.seats)
        for seat in split.seats:
            machine, fresh = self.machines[seat.seat], seat.seat not in self.transfer
            first = (self.world.update + fresh * self.world.rows) / machine.bandwidth
            self.transfer[seat.seat] = self.world.update / machine.bandwidth
            each = machine.seconds * self._steps(seat, 1) * exp(self.rng.normal(0, self.world.jitter))
            done = min(seat.max_segments, int(seat.time_box / each))
            mine = first + (done * each if done else seat.time_box)
            if machine.until < self.now + mine:  # what it did is lost with it, and the loss is seen at once
                took = max(took, machine.until - self.now)
                continue
            took, delivered[seat.seat] = max(took, mine), done
            belief = self.beliefs[seat.seat]
            self.beliefs[seat.seat] = (
                belief.observe(done * each, self._steps(seat, done), done)
                if done
                else belief.unfinished(seat.time_box, self._steps(seat, 1))
            )
            self.left -= done * seat.segment_steps
            self.work[seat.seat] = self.work.get(seat.seat, 0.0) + done * each
        self.now += max(took + self.world.dispatch, self.beside)
        self.beside = self.world.audit if known and self._goes_ahead() else 0.0
        if not self.beside:
            self.now += self.world.audit
        self.beliefs = {s: b for s, b in self.beliefs.items() if self.machines[s].until > self.now}
        return delivered

    def _goes_ahead(self) -> bool:
        return not self.done

    def _steps(self, seat: SeatRound, segments: int) -> int:
        """Of so many segments, in the steps that speeds are of."""
        return segments * seat.segment_steps

    def _race(self, delivered: Mapping[int, int]) -> None:
        self.beliefs = regressed(self.beliefs)
        racers = [Racer(s, b.prediction, delivered.get(s, 0), TrackRecord()) for s, b in self.beliefs.items()]
        places = len(self.plan.seats)
        rest = rest_of(self.plan, self.left, min(places, len(racers)), self.world.dispatch)
        kept = keep(racers, places, rest=rest, seconds_left=inf)
        self.raced = True
        self.dropped = {s: b for s, b in self.beliefs.items() if s not in kept.kept}
        self.beliefs = {s: self.beliefs[s] for s in kept.kept}

    def _estimate(self) -> Estimate:
        rest = rest_of(self.plan, self.left, len(self.beliefs), self.world.dispatch)
        speeds = [b.prediction for b in self.beliefs.values()]
        return estimate(rest, speeds, [b.prediction for b in self.spares().values()])

    def spares(self) -> dict[int, Correction]:
        """Who raced, was measured and not kept, and is here."""
        return {s: b for s, b in self.dropped.items() if b.segments and self.machines[s].until > self.now}


@dataclass
class Search(Simulation):
    """A job of independent trainings under way. Where `work` has halving, the lower-numbered trials score best.

    `wanted`: seconds that the planner takes a wave to cost, beside training; by default what it does cost.
    """

    search: SearchWork = field(kw_only=True)
    wanted: float | None = None
    tells: bool = False
    trials: list[Standing] = field(init=False)
    rung: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.trials = [replace(one, score=-float(one.number)) for one in self.search.standings()]

    @property
    def done(self) -> bool:
        return all(one.state != "open" for one in self.trials)

    def _split(self, pilot: bool) -> RoundPlan:
        speeds = {s: b.prediction for s, b in self.beliefs.items()}
        chunks = plan_wave(
            self.trials,
            speeds,
            segment=self.search.segment,
            halving=self.search.halving,
            rung=self.rung,
            first=self.number == 1,
            fixed=self.world.dispatch if self.wanted is None else self.wanted,
            overheads={s: self.transfer.get(s, 0.0) for s in speeds},
        )
        return wave_round(self.plan, self.number, chunks, speeds, self.search)

    def _train(self, split: RoundPlan) -> dict[int, int]:
        delivered = super()._train(split)
        segments = {seat.trial: delivered.get(seat.seat, 0) for seat in split.seats}
        self.trials = [moved(one, segments.get(one.number, 0) * self.search.segment) for one in self.trials]
        gone, self.rung = after_wave(self.trials, self.search.halving, self.rung, self.search.segment)
        self.trials = [replace(one, state="stopped") if one.number in gone else one for one in self.trials]
        return delivered

    def _goes_ahead(self) -> bool:
        return False

    def _steps(self, seat: SeatRound, segments: int) -> int:
        assert seat.trial is not None
        return max(1, round(segments * seat.segment_steps * self.search.weights[seat.trial])) if segments else 0


def simulate(
    plan: JobPlan,
    machines: Sequence[Machine],
    rng: np.random.Generator,
    world: World = World(),
    waiting: Sequence[tuple[Ranked, Machine]] = (),
) -> Outcome:
    """The whole job. `machines` by seat of `plan.everybody`."""
    running = Simulation(plan, dict(enumerate(machines)), rng, world, waiting)
    while running.step():
        pass
    return running.outcome()
