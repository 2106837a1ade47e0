"""A worker's training in torch, at its machine's pace: what the four peers run.

Torch's own modules, autograd and AdamW (the betas of ours), one thread, our learning-rate schedule over the whole job.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers import problem as problems
from benchmarks.peers.pace import Pace
from benchmarks.peers.record import WorkerLog
from benchmarks.peers.setup import SPEEDS, TOTAL_STEPS, Setup, this_worker
from cloudlinkup.training.architectures import build, flat_weights, load_flat
from cloudlinkup.training.schedule import factor
from cloudlinkup.training.spec import TrainingSpec

BETAS = (0.9, 0.99)


class Loop:
    """Optimizer steps on a part of the rows, epoch after epoch in random order."""

    def __init__(self, spec: TrainingSpec, features: np.ndarray, targets: np.ndarray, seed: int) -> None:
        self.spec, self.module = spec, build(spec)
        self._x, self._y = torch.from_numpy(np.array(features)), torch.from_numpy(np.array(targets))
        self._generator, self._order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
        self.fresh()

    def fresh(self) -> None:
        """A new optimizer."""
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=self.spec.lr, betas=BETAS, eps=1e-8, weight_decay=0.0
        )

    def load(self, weights: np.ndarray) -> None:
        """Flat weights, and a new optimizer."""
        load_flat(self.module, weights)
        self.fresh()

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next rows and their targets."""
        while len(self._order) < self.spec.batch:
            more = torch.randperm(len(self._x), generator=self._generator)
            self._order = torch.cat([self._order, more])
        rows, self._order = self._order[: self.spec.batch], self._order[self.spec.batch :]
        return self._x[rows], self._y[rows]

    def step(self, progress: float) -> None:
        """One step at the job's `progress` (0 to 1)."""
        x, y = self.batch()
        self.optimizer.param_groups[0]["lr"] = self.spec.lr * factor(progress)
        self.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(self.module(x), y).backward()
        self.optimizer.step()


class Worker:
    """This machine: its speed, its log, its loops by part of the rows."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.setup, self.number = Setup.load(), this_worker()
        self.problem = problems.load(Path(self.setup.problem))
        self.log = WorkerLog(self.setup.path, self.number)
        self.pace = Pace(self.setup.step_seconds(self.number))
        self.free = self.setup.free(self.number)
        self._loops: dict[int, Loop] = {}

    def loop(self, part: int) -> Loop:
        """The loop on one of the equal parts of the rows."""
        if part not in self._loops:
            rows = self.problem.part(part, len(SPEEDS))
            seed = 1_000 * self.setup.seed + 10 * part + self.number
            self._loops[part] = Loop(self.problem.spec, *rows, seed=seed)
        return self._loops[part]

    def warm(self) -> None:
        """What a first step loads (torch's optimizers take seconds to import), before the clock runs."""
        Loop(self.problem.spec, *self.problem.part(0, len(SPEEDS)), seed=0).step(0.0)

    def rounds(self, part: int, weights: np.ndarray, steps: int, done: int) -> np.ndarray:
        """`steps` local steps from `weights` with a fresh optimizer, when `done` of the job's steps are done by all.

        A free-rider gives back what it got."""
        if self.free:
            return weights
        loop, ahead = self.loop(part), len(SPEEDS)
        loop.load(weights)
        self.pace.start()
        for index in range(steps):
            began = time.perf_counter()
            loop.step((done + ahead * (index + 0.5)) / TOTAL_STEPS)
            self.pace.pause()
            self.log.step(time.perf_counter() - began)
        self.log.flush()
        return flat_weights(loop.module)


_worker: Worker | None = None


def this_machine() -> Worker:
    """The one Worker of this process."""
    global _worker  # noqa: PLW0603
    if _worker is None:
        _worker = Worker()
    return _worker
