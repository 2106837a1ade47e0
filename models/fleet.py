"""Many jobs on one fleet, as they would go: queue, quote, race, rounds, who is taken, set free, comes and leaves.

Events in the order of time, by a heap: a job arrives; a running job ends a round. Waiting jobs start by
`priority.rank` while fewer than `most_at_once` run, each with the product's own quote (`quote.quote_job`: shortlist,
prediction, selection, goodput, water-filling, race) over those contributors that are here and free. Then a
`simulator.Simulation` goes on by a round at a time. Contributors serve one job at a time; those that a race drops are
free again at once, and may be called back while nobody else has them. Records and accounts follow from what was
delivered and paid, so later quotes know more.

Not here: the chain, the audit's verdicts (everybody is honest), hours that contributors announce.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

import numpy as np

from cloudlinkup.errors import BadInput, NoContributors
from models.facts import Candidate, JobFacts, Limits, Prediction
from models.plan import JobPlan
from models.predictor import Predictor
from models.priority import Account, Settled, Waiting, account, rank
from models.quote import Quote, QuoteInputs, quote_job
from models.selection import Ranked
from models.simulator import Machine, Simulation, World

SOON = 600.0  # seconds within which somebody who will come may be seated in a job that starts now
FEE_BPS = 250


@dataclass(frozen=True)
class Asked:
    """One job: when it comes, whose it is, what it is, for how many places, by when it should be done."""

    key: str
    client: str
    at: float
    facts: JobFacts
    places: int
    within: float


@dataclass(frozen=True)
class Served:
    """How one job went. `why` it was refused, or ""; `took` seconds after having `waited`, infinite if it broke off.
    `p50`, `p90`: the quote's, less its audit, for which nobody waits here; `fixed`: of those, what is not training;
    `speeds`: what was predicted of who had a place."""

    key: str
    why: str = ""
    waited: float = 0.0
    took: float = inf
    p50: float = 0.0
    p90: float = 0.0
    fixed: float = 0.0
    speeds: tuple[Prediction, ...] = ()
    late: int = 0
    rounds: int = 0
    on_time: bool = False


@dataclass
class Fleet:
    """`seconds(job, contributor)`: a step's true time. `presence` (since, until), `lines` (bytes/s): by contributor."""

    crowd: list[Candidate]
    presence: Sequence[tuple[float, float]]
    lines: Sequence[float]
    seconds: Callable[[Asked, int], float]
    predictor: Predictor
    rng: np.random.Generator
    world: World = field(default_factory=World)
    most_at_once: int = 64
    ranked: bool = True  # by priority; else first come, first served
    busy: set[str] = field(default_factory=set)
    settled: list[Settled] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)

    def run(self, jobs: Sequence[Asked]) -> list[Served]:
        """All jobs to their end, in the order of their ends."""
        index = {c.agent: i for i, c in enumerate(self.crowd)}
        order, served, waiting, running = count(), [], {}, 0
        events: list[tuple[float, int, Asked, _Running | None]] = [(j.at, next(order), j, None) for j in jobs]
        heapq.heapify(events)
        while events:
            now, _, job, going = heapq.heappop(events)
            if going is None:
                waiting[job.key] = job
            elif self._step(going):
                heapq.heappush(events, (going.simulation.now, next(order), job, going))
            else:
                running -= 1
                served.append(self._end(job, going, index))
            while waiting and running < self.most_at_once:
                job = waiting.pop(self._next(waiting, now))
                started = self._start(job, now, index)
                if isinstance(started, Served):
                    served.append(started)
                    continue
                running += 1
                heapq.heappush(events, (now, next(order), job, started))
        return served

    def _next(self, waiting: dict[str, Asked], now: float) -> str:
        if not self.ranked:
            return min(waiting, key=lambda key: (waiting[key].at, key))
        jobs = [Waiting(j.key, j.client, j.at, j.at + j.within) for j in waiting.values()]
        return rank(jobs, self.accounts, now)[0].key

    def _start(self, job: Asked, now: float, index: dict[str, int]) -> _Running | Served:
        here, soon = [], []
        for one, (since, until) in zip(self.crowd, self.presence, strict=True):
            if one.agent in self.busy or until <= now:
                continue
            if since <= now:
                here.append(one)
            elif since <= now + SOON:
                soon.append(one)
        limits = Limits(
            budget=2**62,
            deadline_seconds=job.at + job.within - now,
            fee_bps=FEE_BPS,
            max_contributors=job.places,
            round_seconds=self.world.dispatch,
            setup_seconds=0.0,
            setup_spread=0.0,
            round_spread=0.0,
        )
        try:
            quote = quote_job(QuoteInputs(job=job.facts, candidates=tuple(here), limits=limits), self.predictor)
        except (BadInput, NoContributors) as error:
            return Served(job.key, why=getattr(error, "field", "nobody"), waited=now - job.at)
        machines = {s.seat: self._machine(job, index[s.agent]) for s in quote.plan.everybody}
        later = self._later(job, quote.plan, soon[: 2 * job.places], index)
        simulation = Simulation(quote.plan, machines, self.rng, self.world, later, now, self._free)
        started = _Running(simulation, quote, now)
        self._hold(started)
        return started

    def _machine(self, job: Asked, i: int) -> Machine:
        since, until = self.presence[i]
        return Machine(self.seconds(job, i), until, since, self.lines[i])

    def _later(
        self, job: Asked, plan: JobPlan, soon: Sequence[Candidate], index: dict[str, int]
    ) -> list[tuple[Ranked, Machine]]:
        guesses = self.predictor.predict(job.facts, soon)
        pairs = [(c, p) for c, p in zip(soon, guesses, strict=True) if p.source != "unknown"]
        return [(Ranked(c, p, plan.price, p.seconds), self._machine(job, index[c.agent])) for c, p in pairs]

    def _free(self, agent: str) -> bool:
        return agent not in self.busy

    def _hold(self, going: _Running) -> None:
        now = {going.simulation.agents[s] for s in going.simulation.beliefs}
        self.busy -= going.held
        self.busy |= now
        going.held = now

    def _step(self, going: _Running) -> bool:
        went = going.simulation.step()
        self._hold(going)
        going.took_part |= going.held
        return went

    def _end(self, job: Asked, going: _Running, index: dict[str, int]) -> Served:
        self.busy -= going.held
        done, simulation = going.simulation.outcome(), going.simulation
        for agent in going.took_part:
            one, lost = self.crowd[index[agent]], self.presence[index[agent]][1] <= simulation.now
            record = one.record.model_copy(
                update={
                    "on_time": one.record.on_time + done.rounds * (not lost),
                    "late": one.record.late + lost,
                    "valid": one.record.valid + done.rounds,
                }
            )
            self.crowd[index[agent]] = one.model_copy(update={"record": record})
        paid = (simulation.plan.total_steps - simulation.left) * simulation.plan.price
        fee = paid * FEE_BPS // 10_000
        self.settled.append(Settled(job.client, paid + fee, fee, simulation.now))
        self.accounts[job.client] = account(job.client, self.settled, now=simulation.now)
        return Served(
            key=job.key,
            waited=going.began - job.at,
            took=done.seconds,
            p50=going.quote.seconds_p50 - going.quote.audit_seconds,
            p90=going.quote.seconds_p90 - going.quote.audit_seconds,
            fixed=going.quote.plan.rounds * self.world.dispatch,
            speeds=tuple(s.prediction for s in going.quote.plan.seats),
            late=done.late,
            rounds=done.rounds,
            on_time=simulation.began + done.seconds <= job.at + job.within,
        )


@dataclass
class _Running:
    simulation: Simulation
    quote: Quote
    began: float
    held: set[str] = field(default_factory=set)
    took_part: set[str] = field(default_factory=set)
