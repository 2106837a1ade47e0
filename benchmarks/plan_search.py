"""The benchmark's independent trainings: searches with more trials than contributors, and with about as many.

Each contributor does about 600 segments of ten steps. The bound is clairvoyant: all steps over the summed speed of who
is there (who leaves counts until then), but for any k the k longest trials need the k fastest at the least, as a
trial's steps follow each other; and one dispatch. Beside it, the bound where a contributor does at most one chunk in a
wave and every wave has its dispatch, as in the product. Ours runs through the product's `plan_wave` and `after_wave`
(`simulator.Search`). Baselines: each contributor does whole trials, dealt at once as if all were alike, or by rank-1
(what vanished is dealt again when the others are done); and waves that wait for each other, half of what is left in
each, as this project had them before its waves ended at a bell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from benchmarks.fields import SECONDS, STEPS_A_PLACE, Array, draw_field, entry, facts, summary
from models.facts import Prediction
from models.plan import JobPlan, RoundPlan, plan_job
from models.simulator import Machine, Search, World
from models.trials import SearchWork
from models.waves import Chunk, wave_round

SEGMENT, SEGMENTS = 10, 600  # steps of one; of an average contributor
JITTER = 0.05
EQUAL, RANK1, WAIT, BELL = "whole trials, equally", "whole trials, by rank-1", "waves that wait", "waves with a bell"
ONE = "clairvoyant, a chunk a wave"


@dataclass(frozen=True)
class Case:
    """A search: `trials` on `contributors`, about `seconds` of work, each wave costing `dispatch` seconds beside."""

    trials: int
    contributors: int
    seconds: float = SECONDS
    dispatch: float = 5.0

    @property
    def title(self) -> str:
        return f"{self.trials} on {self.contributors}, {self.seconds:g} s, {self.dispatch:g} s a wave"


CASES = (
    Case(64, 16),
    Case(32, 16),
    Case(16, 16),
    Case(64, 60),
    Case(64, 16, dispatch=1.0),
    Case(16, 16, dispatch=1.0),
    Case(64, 60, dispatch=1.0),
    Case(64, 16, seconds=3_600.0),
    Case(16, 16, seconds=3_600.0),
    Case(64, 60, seconds=3_600.0),
)


def search_table(jobs: int, seed: int, sigmas: tuple[float, ...]) -> dict[str, Any]:
    """By case, sigma and share that vanishes: seconds over the bound of every strategy."""
    result: dict[str, Any] = {}
    for case in CASES:
        plain = (case.seconds, case.dispatch) == (SECONDS, 5.0)
        for sigma in sigmas if plain else (0.3,):
            for vanish in (0.0, 0.05):
                rng = np.random.default_rng(seed)
                rows = [one_search(rng, case, sigma, vanish) for _ in range(jobs)]
                table = {name: summary([row[name] for row in rows], seed) for name in rows[0] if name != "waves"}
                table[BELL]["waves"] = float(np.mean([row["waves"] for row in rows]))
                result[f"{case.title}, sigma {sigma:g}, {vanish:.0%} vanish"] = table
    return result


def one_search(rng: np.random.Generator, case: Case, sigma: float, vanish: float) -> dict[str, float]:
    """Every strategy on one field."""
    n = case.contributors
    field = draw_field(rng, sigma, size=n, places=n, vanish=vanish)
    steps = np.full(case.trials, SEGMENTS * n // case.trials * SEGMENT)
    scale = case.seconds / SECONDS * STEPS_A_PLACE * n / steps.sum()
    true, until = field.true * scale, field.until * case.seconds / SECONDS
    least = bound(steps.astype(float), true, until, case.seconds) + case.dispatch
    found = {
        name: whole_trials(steps, true, until, guess, case.dispatch) / least
        for name, guess in ((EQUAL, np.ones(n)), (RANK1, field.guess["rank-1"]))
    }
    found[ONE] = one_chunk(float(steps[0]), case, true, until) / least
    work = SearchWork(
        steps=tuple(int(s) for s in steps),
        weights=(1.0,) * case.trials,
        most_segments=(10**6,) * case.trials,
        segment=SEGMENT,
    )
    total = int(steps.sum())
    crowd = [entry(i, float(guess)) for i, guess in enumerate(field.guess["rank-1"] * scale)]
    plan = plan_job(facts(total), crowd, predictor="p", version="0")
    for name, kind in ((WAIT, Waiting), (BELL, Search)):
        machines = {i: Machine(float(s), float(u)) for i, (s, u) in enumerate(zip(true, until, strict=True))}
        running = kind(plan, machines, rng, World(case.dispatch, JITTER), search=work)
        while running.step():
            pass
        found[name] = running.outcome().seconds / least
        found["waves"] = float(running.number)
    return found


def bound(steps: Array, seconds: Array, until: Array, horizon: float) -> float:
    """Seconds of `steps` by trial on machines that need so many seconds a step and leave at `until`, at the least."""
    speeds = np.sort(np.minimum(until, horizon) / horizon / seconds)[::-1].cumsum()
    works = np.sort(steps)[::-1].cumsum()
    few = min(len(works), len(speeds))
    return float(max((works[: few - 1] / speeds[: few - 1]).max(initial=0.0), works[-1] / speeds[few - 1]))


def one_chunk(steps: float, case: Case, seconds: Array, until: Array) -> float:
    """What remains of the bound, dispatches included, where nobody can do more than one trial's `steps` in a wave: the
    best number of waves, each of which still may be of any length and share its work as it likes."""
    speeds = np.minimum(until, case.seconds) / case.seconds / seconds
    least = case.trials * steps / speeds.sum()
    found = inf
    for waves in range(-(-case.trials // case.contributors), case.trials + 1):
        low, high = least, 100 * least
        for _ in range(50):
            middle = (low + high) / 2
            enough = np.minimum(speeds * middle, waves * steps).sum() >= case.trials * steps * (1 - 1e-9)
            low, high = (low, middle) if enough else (middle, high)
        found = min(found, high + waves * case.dispatch)
    return found


def whole_trials(steps: np.ndarray, seconds: Array, until: Array, guess: Array, dispatch: float) -> float:
    """Seconds until all trials are done by queues that are dealt at once; what was lost is dealt anew in the end."""
    left, now = [int(s) for s in steps], 0.0
    while left:
        there = np.flatnonzero(until > now)
        if not len(there):
            return inf
        ends, queues = np.zeros(len(there)), [[] for _ in there]
        for trial in sorted(left, reverse=True):
            i = int(np.argmin(ends + trial * guess[there]))
            ends[i] += trial * guess[there[i]]
            queues[i].append(trial)
        left, start = [], now + dispatch
        for i, queue in zip(there, queues, strict=True):
            clock = start
            for trial in queue:
                clock += trial * float(seconds[i])
                if clock > until[i]:
                    left.append(trial)
                else:
                    now = max(now, clock)
    return now


class Waiting(Search):
    """Half of what is left in each wave, shared by speed; everybody waits for the slowest, half as long again."""

    def _split(self, pilot: bool) -> RoundPlan:
        beliefs = {s: b.prediction for s, b in self.beliefs.items()}
        chunks = halves(self.plan, self.trials_left(), beliefs, self.search.segment, first=self.number == 1)
        return wave_round(self.plan, self.number, chunks, beliefs, self.search)

    def trials_left(self) -> list[tuple[int, int]]:
        """(trial, segments), most first."""
        left = [(one.number, (one.total - one.done) // self.search.segment) for one in self.trials]
        return sorted((pair for pair in left if pair[1]), key=lambda pair: (-pair[1], pair[0]))


def halves(
    plan: JobPlan, left: list[tuple[int, int]], beliefs: dict[int, Prediction], segment: int, *, first: bool
) -> tuple[Chunk, ...]:
    """Factoring's chunks (Hummel et al. 1992) of at most one trial a contributor, of 10 to 300 seconds."""
    seats = sorted(beliefs, key=lambda seat: (beliefs[seat].seconds, seat))
    pairs = list(zip(seats, left, strict=False))
    a_segment = {seat: beliefs[seat].seconds * segment for seat in seats}
    share = sum(n for _, n in left) / sum(1 / a_segment[seat] for seat, _ in pairs) * (0.05 if first else 0.5)
    if len(left) > len(seats):
        share = min(share, *(n * a_segment[seat] for seat, (_, n) in pairs))
    share = min(300.0, max(10.0, share))
    chunks = []
    for seat, (trial, n) in pairs:
        fitting = max(1, int(share / a_segment[seat]))
        count = n if n * 4 <= fitting * 5 else min(fitting, n)
        chunks.append(Chunk(seat, trial, count, count * a_segment[seat], 0.0, 0, 1))
    box = max(5.0, 1.5 * max(chunk.seconds for chunk in chunks))
    return tuple(replace(chunk, time_box=box) for chunk in chunks)
