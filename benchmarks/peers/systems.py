"""What the harness asks of a system, and the processes that a system consists of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.network import HUB_ADDRESS, Network
from benchmarks.peers.record import Snapshot, Work, lines, work_until
from benchmarks.peers.setup import ENVIRONMENT, SPEEDS, TOTAL_STEPS, WORKER, Setup

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCHER = ROOT / "deployments/child.py"  # the kernel ends the child with us
READY = 120.0  # seconds


class Failed(Exception):
    """The system did not start, or ended early; the message names the log."""


def wait_for(what: Callable[[], bool], why: str, seconds: float = READY) -> None:
    """Raises Failed when it does not become true in time."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise Failed(f"waited {seconds:g} s in vain: {why}")
        time.sleep(0.1)


@dataclass
class Processes:
    """Child processes by name, each in a namespace, with a log of its own and a session of its own."""

    setup: Setup
    network: Network
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self, name: str, argv: list[str], *, worker: int | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """On the worker's machine, or on the hub."""
        where = self.network.hub if worker is None else self.network.worker(worker)
        left_out = ("CLOUDLINKUP_", "PREFECT_", "RAY_", "PYTHONDONTWRITEBYTECODE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        kept |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), ENVIRONMENT: self.setup.folder}
        kept |= {} if worker is None else {WORKER: str(worker)}
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.network.within(where, [sys.executable, "-S", str(LAUNCHER), *argv]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.setup.path,
                env=kept | dict(env or {}),
                start_new_session=True,
            )
        return self.running[name]

    def log(self, name: str) -> Path:
        return self.setup.path / f"{name}.log"

    def says(self, name: str, text: str) -> bool:
        """Whether the log has it. Raises Failed when the process has ended."""
        if text in self.log(name).read_text(errors="replace"):
            return True
        if (code := self.running[name].poll()) is not None:
            raise Failed(f"{name} ended with {code}; see {self.log(name)}")
        return False

    def kill(self, name: str) -> None:
        """kill -9, the process and the rest of its session."""
        process = self.running[name]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def stop(self) -> None:
        """Asks all to end, then makes them."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + 5
        for name, process in self.running.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            self.kill(name)
        for namespace in self.network.machines:
            for pid in self.network.running(namespace):  # what left its session
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class System:
    """One system in one run. The methods are called in this order; `kill` and `rejoin` where the scenario has them."""

    name = ""
    environment = ""  # of its own; empty: ours

    def __init__(self, setup: Setup, network: Network, python: Path, problem: Path) -> None:
        """`python`: the interpreter of its environment."""
        self.setup, self.network, self.python, self.problem = setup, network, str(python), problem
        self.processes = Processes(setup, network)
        self.hub = HUB_ADDRESS

    @property
    def workers(self) -> range:
        return range(len(SPEEDS))

    def start(self) -> None:
        """Everything up and connected. Raises Failed."""
        raise NotImplementedError

    def submit(self) -> None:
        """The job begins: the clock runs from here."""
        raise NotImplementedError

    def finished(self) -> bool:
        """Whether the job is over. Raises Failed when it broke."""
        raise NotImplementedError

    def progress(self) -> float:
        """Share of the job's samples in the model."""
        known = lines(self.setup.path / "model.jsonl")
        return sum(known[-1]["steps"].values()) / TOTAL_STEPS if known else 0.0

    def kill(self, worker: int) -> None:
        """The worker's machine dies: kill -9 for all that runs on it."""
        for pid in self.network.running(self.network.worker(worker)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def rejoin(self, worker: int) -> None:
        """It is started again."""
        raise NotImplementedError

    def snapshots(self, score: Callable[[Path], float]) -> list[Snapshot]:
        """The model after each round. `score`: of a file of flat weights."""
        folder = self.setup.path
        return [
            Snapshot(one["t"], score(folder / one["file"]), {int(k): v for k, v in one["steps"].items()})
            for one in lines(folder / "model.jsonl")
        ]

    def work(self, until: float) -> Work:
        """What the workers did before `until`."""
        return work_until(self.setup.path, len(SPEEDS), until)

    def stop(self) -> None:
        """Ends everything."""
        self.processes.stop()

    def notes(self) -> dict[str, object]:
        """What else is worth keeping of the run."""
        return {}

    def driver_done(self, name: str = "driver") -> bool:
        """Whether the process that drives the job has ended well. Raises Failed."""
        code = self.processes.running[name].poll()
        if code:
            raise Failed(f"{name} ended with {code}; see {self.processes.log(name)}")
        return code == 0
