"""What one run is: the work, the machines' speeds, the scenario's fault. One JSON file that every process reads."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Scenario = Literal["plain", "straggler", "killed", "free-rider"]
SCENARIOS: tuple[Scenario, ...] = ("plain", "straggler", "killed", "free-rider")
SPEEDS = (1, 2, 4, 8)
STEP = 0.096  # seconds of one optimizer step at speed 1, whatever the system, unless the command says otherwise
FAULTY = 2  # the worker of speed 4: the straggler, the one that is killed, the free-rider
SLOWER = 10  # times, the straggler than it says
KILL_AT = 0.4  # of the job's samples
AWAY = 5.0  # seconds until a killed worker is started again
ROUND_STEPS, ROUNDS = 200, 12  # local steps of all workers together between two averagings
LOCAL_STEPS = ROUND_STEPS // len(SPEEDS)  # of each, where the split is equal
TOTAL_STEPS = ROUND_STEPS * ROUNDS
ENVIRONMENT = "PEERS_RUN"  # the run's folder
WORKER = "PEERS_WORKER"  # this machine's number


@dataclass(frozen=True)
class Setup:
    """`cap`: seconds after which a run is cut off. `share`: of a core, by worker, that ours says it offers. `step`:
    seconds of an optimizer step at speed 1."""

    system: str
    scenario: Scenario
    seed: int
    folder: str
    problem: str
    cap: float
    share: tuple[float, ...]
    step: float = STEP

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def slower(self, worker: int) -> int:
        """How many times slower the machine is than it says."""
        return SLOWER if self.scenario == "straggler" and worker == FAULTY else 1

    def free(self, worker: int) -> bool:
        """Whether it claims steps that it does not do."""
        return self.scenario == "free-rider" and worker == FAULTY

    def step_seconds(self, worker: int) -> float:
        """What a step takes on this machine."""
        return self.step / self.speed(worker)

    def speed(self, worker: int) -> float:
        """The machine's true speed, in the unit of `SPEEDS`."""
        return SPEEDS[worker] / self.slower(worker)

    def save(self) -> None:
        (self.path / "run.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: str | None = None) -> Setup:
        """This process's run, by default from the environment."""
        raw = json.loads((Path(folder or os.environ[ENVIRONMENT]) / "run.json").read_text())
        return cls(**{**raw, "share": tuple(raw["share"])})


def this_worker() -> int:
    """This machine's number."""
    return int(os.environ[WORKER])
