"""What processes write down while a run lasts: steps and training seconds of a worker, the model after each round.

JSON lines in the run's folder, which the machines share; nothing of it crosses their network. Scores are computed
after the run, from the kept weights.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EVERY = 0.25  # seconds between two lines of a worker


class WorkerLog:
    """Steps this process did, and the seconds it trained, the pauses of its duty included."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._path = folder / f"worker-{worker}-{os.getpid()}.jsonl"
        self.steps, self.seconds = 0, 0.0
        self._written = 0.0

    def step(self, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        if time.time() - self._written > EVERY:
            self.flush()

    def flush(self) -> None:
        self._written = time.time()
        with self._path.open("a") as file:
            file.write(json.dumps({"t": self._written, "steps": self.steps, "seconds": self.seconds}) + "\n")


class ModelLog:
    """The model after each round, and the steps by worker that are said to be in it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, len(list(folder.glob("model-*.npy")))

    def save(self, weights: np.ndarray, steps: Mapping[int, int]) -> None:
        """`weights`: flat fp32. `steps`: cumulative, by worker."""
        now, name = time.time(), f"model-{self._count:04d}.npy"
        np.save(self._folder / name, weights, allow_pickle=False)
        self._count += 1
        with (self._folder / "model.jsonl").open("a") as file:
            file.write(json.dumps({"t": now, "file": name, "steps": {str(k): v for k, v in steps.items()}}) + "\n")


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file; what a kill cut off is left out."""
    found: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


@dataclass(frozen=True)
class Snapshot:
    """The model at `t`: `score` on the held-out rows, `steps` by worker that are said to be in it."""

    t: float
    score: float
    steps: dict[int, int]


@dataclass(frozen=True)
class Work:
    """By worker up to some time: steps done, seconds trained; `first`: when the first of them began."""

    steps: dict[int, int]
    seconds: dict[int, float]
    first: float | None


def work_until(folder: Path, workers: int, t: float) -> Work:
    """What the workers' logs say of the time before `t`; a worker that was started again has several."""
    steps, seconds, first = dict.fromkeys(range(workers), 0), dict.fromkeys(range(workers), 0.0), None
    for worker in range(workers):
        for path in folder.glob(f"worker-{worker}-*.jsonl"):
            known = lines(path)
            if known:
                began = known[0]["t"] - known[0]["seconds"]
                first = began if first is None else min(first, began)
            before = [one for one in known if one["t"] <= t]
            if before:
                steps[worker] += before[-1]["steps"]
                seconds[worker] += before[-1]["seconds"]
    return Work(steps, seconds, first)
