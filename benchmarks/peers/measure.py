"""One run, from its start to its result: starts the system, watches the clock and the counters, does the fault."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import problem as problems
from benchmarks.peers.network import Network
from benchmarks.peers.problem import BATCH
from benchmarks.peers.record import Snapshot, Work
from benchmarks.peers.setup import AWAY, FAULTY, KILL_AT, SPEEDS, TOTAL_STEPS, Setup
from benchmarks.peers.systems import Failed, System

LOOK = 0.25  # seconds between two looks


@dataclass(frozen=True)
class Result:
    """One run. Seconds count from the job's submission, `training_to_target` from the first step of any worker.

    `to_target` and `bytes_to_target` are None where the target was not reached before the run ended. `idle`: share of
    the machines' capacity in which nobody trained. `wasted`: samples trained that never entered the model. `false`:
    samples the model was told of and nobody trained. `cut`: stopped at the cap, before all samples were in.
    """

    system: str
    scenario: str
    seed: int
    single: float
    target: float
    to_target: float | None
    training_to_target: float | None
    bytes_to_target: int | None
    seconds: float
    score: float
    bytes: int
    idle: float
    wasted: int
    false: int
    samples: int
    cut: bool
    error: str = ""
    notes: dict[str, Any] | None = None


def reached(curve: list[Snapshot], target: float) -> float | None:
    """When the score first was at least the target."""
    return next((one.t for one in curve if one.score >= target), None)


def idle_share(work: Work, speeds: list[float], began: float, ended: float, away: dict[int, float]) -> float:
    """1 - trained / there, both in seconds times speed. `away`: seconds that a machine was dead."""
    there = sum(speed * max(0.0, ended - began - away.get(i, 0.0)) for i, speed in enumerate(speeds))
    trained = sum(speed * work.seconds[i] for i, speed in enumerate(speeds))
    return max(0.0, 1 - trained / there) if there else 0.0


def account(claimed: dict[int, int], done: dict[int, int], free: set[int]) -> tuple[int, int]:
    """(steps done that are not in the model, steps in the model that were not done).

    `claimed`: in the model, by worker (hivemind does not tell by whom: all are one's); `done` before that model;
    `free`: who does nothing."""
    false = sum(steps for worker, steps in claimed.items() if worker in free)
    if free:
        false = max(false, sum(claimed.values()) - sum(done.values()))
    wasted = sum(done.values()) - (sum(claimed.values()) - false)
    return max(0, wasted), false


def bytes_at(counted: list[tuple[float, int]], t: float) -> int:
    """The counters' sum at the first look after `t`."""
    return next((sent for at, sent in counted if at >= t), counted[-1][1] if counted else 0)


@dataclass
class Watch:
    """The clock and the counters of one run."""

    system: System
    network: Network
    setup: Setup

    def run(self) -> tuple[float, float, list[tuple[float, int]], dict[int, float], str]:
        """(began, ended, counters by time, seconds away by worker, error)."""
        setup, counted = self.setup, list[tuple[float, int]]()
        killed = back = None
        error, before = "", sum(self.network.sent().values())
        began = time.time()
        self.system.submit()
        while True:
            now = time.time()
            counted.append((now, sum(self.network.sent().values()) - before))
            try:
                over = self.system.finished()
            except Failed as failed:
                over, error = True, str(failed)
            if over or now - began > setup.cap:
                break
            if setup.scenario == "killed":
                if killed is None and self.system.progress() >= KILL_AT:
                    self.system.kill(FAULTY)
                    killed = time.time()
                elif killed is not None and back is None and now - killed >= AWAY:
                    self.system.rejoin(FAULTY)
                    back = time.time()
            time.sleep(LOOK)
        ended = time.time()
        away = {FAULTY: (back or ended) - killed} if killed is not None else {}
        return began, ended, counted, away, error


def measure(system: System, network: Network, setup: Setup, facts: dict[str, float]) -> Result:
    """The whole run. What breaks after the start is part of the result, as `error`. Raises Failed before it."""
    try:
        system.start()
        began, ended, counted, away, error = Watch(system, network, setup).run()
        late = time.time()  # what ended after the last look
    finally:
        system.stop()
    problem = problems.load(Path(setup.problem))
    curve = system.snapshots(lambda path: problem.score(np.load(path, allow_pickle=False)))
    curve = [one for one in curve if one.t <= late]
    last = curve[-1] if curve else Snapshot(ended, problem.score(problem.start), {})
    hit, whole = reached(curve, facts["target"]), system.work(ended)
    free = {worker for worker in range(len(SPEEDS)) if setup.free(worker)}
    wasted, false = account(last.steps, system.work(last.t).steps, free)
    finished = sum(last.steps.values()) >= 0.98 * TOTAL_STEPS
    end = last.t if finished else ended
    return Result(
        system=system.name,
        scenario=setup.scenario,
        seed=setup.seed,
        single=facts["score"],
        target=facts["target"],
        to_target=None if hit is None else hit - began,
        training_to_target=None if hit is None or whole.first is None else hit - whole.first,
        bytes_to_target=None if hit is None else bytes_at(counted, hit),
        seconds=end - began,
        score=last.score,
        bytes=counted[-1][1] if counted else 0,
        idle=idle_share(system.work(end), [0 if setup.free(i) else setup.speed(i) for i in system.workers],
                        whole.first or began, end, away),
        wasted=wasted * BATCH,
        false=false * BATCH,
        samples=sum(last.steps.values()) * BATCH,
        cut=not finished,
        error=error,
        notes={
            "curve": [(round(one.t - began, 2), round(one.score, 4)) for one in curve],
            "away": away,
            "load": os.getloadavg()[1],
            **system.notes(),
        },
    )  # fmt: skip


def to_json(result: Result) -> str:
    return json.dumps(asdict(result), indent=1)


def from_json(text: str) -> Result:
    return Result(**json.loads(text))
