"""Plain Dask: one future a worker and round, an equal part of the rows and an equal number of steps for each.

The driver sends the weights with each call, takes the mean of what comes back, and goes on when all four are in: what
one writes with `Client.submit` in an afternoon. As many local steps a round as ours, with the same optimizer. Dask runs
a lost worker's task elsewhere (its default). Rows are read from a file that all machines share.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.network import address
from benchmarks.peers.setup import LOCAL_STEPS, ROUNDS, SPEEDS, Setup
from benchmarks.peers.systems import System

PORT = 8_786


def train_part(part: int, weights: np.ndarray, done: int) -> tuple[int, np.ndarray]:
    """One future: (the worker that did it, new flat weights)."""
    from benchmarks.peers.local import this_machine

    worker = this_machine()
    return worker.number, worker.rounds(part, weights, LOCAL_STEPS, done)


def warm() -> bool:
    """Imports and reads before the clock runs."""
    from benchmarks.peers.local import this_machine

    this_machine().warm()
    return True


def drive(scheduler: str, go: Path) -> None:
    """The driver's whole job; waits for the file `go`."""
    import time

    from distributed import Client

    from benchmarks.peers import problem as problems
    from benchmarks.peers.record import ModelLog

    setup = Setup.load()
    weights, log, steps = problems.load(Path(setup.problem)).start, ModelLog(setup.path), dict.fromkeys(range(4), 0)
    client: Any
    with Client(scheduler) as client:
        client.wait_for_workers(len(SPEEDS))
        names = {str(one["name"]): where for where, one in client.scheduler_info(n_workers=-1)["workers"].items()}
        client.run(warm)
        print("ready", flush=True)
        while not go.exists():
            time.sleep(0.02)
        for round_ in range(ROUNDS):
            done = round_ * LOCAL_STEPS * len(SPEEDS)
            futures = [
                client.submit(
                    train_part, part, weights, done, workers=[names[f"w{part}"]], allow_other_workers=True, pure=False
                )
                for part in range(len(SPEEDS))
            ]
            results = client.gather(futures)
            weights = np.mean([one for _, one in results], axis=0)
            for worker, _ in results:
                steps[worker] += LOCAL_STEPS
            log.save(weights, steps)


class PlainDask(System):
    """Scheduler and driver on the hub, a worker of one thread on each machine."""

    name = "dask"

    def start(self) -> None:
        words = ["-m", "distributed.cli.dask_scheduler", "--host", self.hub, "--port", str(PORT), "--no-dashboard"]
        self.processes.start("scheduler", [self.python, *words])
        for worker in self.workers:
            self._worker(worker)
        self.processes.start(
            "driver", [self.python, "-m", __spec__.name, f"tcp://{self.hub}:{PORT}", str(self.setup.path / "go")]
        )
        from benchmarks.peers.systems import wait_for

        wait_for(lambda: self.processes.says("driver", "ready"), "Dask's workers")

    def _worker(self, worker: int) -> None:
        words = ["-m", "distributed.cli.dask_worker", f"tcp://{self.hub}:{PORT}", "--host", address(worker)]
        words += ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", f"w{worker}"]
        words += ["--local-directory", str(self.setup.path / f"dask-{worker}")]
        self.processes.start(f"w{worker}", [self.python, *words], worker=worker)

    def submit(self) -> None:
        (self.setup.path / "go").touch()

    def finished(self) -> bool:
        return self.driver_done()

    def rejoin(self, worker: int) -> None:
        self._worker(worker)


if __name__ == "__main__":
    drive(sys.argv[1], Path(sys.argv[2]))
