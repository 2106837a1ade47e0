"""Flower: its deployment engine (SuperLink, SuperNodes), its message API, FedAvg weighted by samples.

As its users run it: `flwr run` hands an app to the SuperLink; a SuperNode starts a process of its own for every message
(its default isolation). That process imports torch each time, so rounds are twice as long as ours: more rounds would
spend more time on starting than on training. A round ends when all have answered, or after `TIMEOUT`. Rows lie on each
machine, as is usual there, and cost no bytes.
"""

# pyright: reportMissingImports=false, reportFunctionMemberAccess=false
# its packages are in an environment of their own
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.setup import SPEEDS, TOTAL_STEPS, Setup
from benchmarks.peers.systems import Failed, System, wait_for

PORT = 8_000
STEPS = 100  # local, a round
ROUNDS = TOTAL_STEPS // (STEPS * len(SPEEDS))
TIMEOUT = 60.0  # seconds of a round; an equal part takes the slowest machine 10
PROJECT = """
[project]
name = "peersapp"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "peersapp.server:app"
clientapp = "peersapp.client:app"
[tool.flwr.app.config]
rounds = 1
"""


def client_app() -> Any:
    """The ClientApp: trains on this machine's rows."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    from benchmarks.peers.local import this_machine

    app = ClientApp()

    @app.train()
    def train(message: Any, context: Any) -> Any:
        worker, done = this_machine(), int(message.content["config"]["server-round"] - 1) * STEPS * len(SPEEDS)
        (weights,) = message.content["arrays"].to_numpy_ndarrays()
        weights = worker.rounds(worker.number, weights, STEPS, done)
        metrics = {"num-examples": STEPS * worker.problem.spec.batch, "worker": worker.number}
        content = RecordDict({"arrays": ArrayRecord([weights]), "metrics": MetricRecord(metrics)})
        return Message(content=content, reply_to=message)

    return app


def server_app() -> Any:
    """The ServerApp: FedAvg, and the model kept after each round."""
    from flwr.app import ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    from benchmarks.peers import problem as problems
    from benchmarks.peers.record import ModelLog

    app, setup = ServerApp(), Setup.load()
    log, steps = ModelLog(setup.path), dict.fromkeys(range(len(SPEEDS)), 0)

    class Kept(FedAvg):
        """FedAvg that writes down what it made."""

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            for reply in replies:
                if not reply.has_error():
                    steps[int(reply.content["metrics"]["worker"])] += STEPS
            arrays, metrics = super().aggregate_train(server_round, replies)
            if arrays is not None:
                log.save(arrays.to_numpy_ndarrays()[0], steps)
            return arrays, metrics

    @app.main()
    def main(grid: Any, context: Any) -> None:
        strategy = Kept(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
        start = ArrayRecord([problems.load(Path(setup.problem)).start])
        strategy.start(grid=grid, initial_arrays=start, num_rounds=ROUNDS, timeout=TIMEOUT)
        (setup.path / "done").touch()

    return app


class Flower(System):
    """SuperLink on the hub, a SuperNode on each machine."""

    name = environment = "flower"

    def _env(self, where: str) -> dict[str, str]:
        home = self.setup.path / f"flwr-{where}"
        home.mkdir(exist_ok=True)
        path = f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}"
        return {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}

    def _tool(self, name: str) -> str:
        return str(Path(self.python).with_name(name))

    def start(self) -> None:
        app = self.setup.path / "app"
        (app / "peersapp").mkdir(parents=True)
        (app / "pyproject.toml").write_text(PROJECT)
        (app / "peersapp/__init__.py").touch()
        for side in ("server", "client"):
            text = f"from benchmarks.peers.flower import {side}_app\n\napp = {side}_app()\n"
            (app / f"peersapp/{side}.py").write_text(text)
        words = ["--insecure", "--host", self.hub, "--port", str(PORT), "--disable-runtime-dependency-installation"]
        self.processes.start("superlink", [self._tool("flower-superlink"), *words], env=self._env("hub"))
        wait_for(lambda: self.processes.says("superlink", "Starting Flower SuperExec") or self._listens(), "SuperLink")
        for worker in self.workers:
            self._node(worker)
        for worker in self.workers:
            wait_for(lambda w=worker: self._connected(w), f"SuperNode {worker}")
        config = self.setup.path / "flwr-hub/config.toml"
        config.write_text(
            f'[superlink]\ndefault = "hub"\n[superlink.hub]\naddress = "{self.hub}:{PORT}"\ninsecure = true\n'
        )

    def _listens(self) -> bool:
        here = ["ss", "-ltn", f"sport = :{PORT}"]
        found = subprocess.run(self.network.within(self.network.hub, here), capture_output=True, text=True, check=False)
        return str(PORT) in found.stdout

    def _connected(self, worker: int) -> bool:
        self.processes.says(f"w{worker}", "never")  # raises when it has ended
        here = ["ss", "-tnH", "state", "established", f"dport = :{PORT}"]
        where = self.network.within(self.network.worker(worker), here)
        return bool(subprocess.run(where, capture_output=True, text=True, check=False).stdout.strip())

    def _node(self, worker: int) -> None:
        words = ["--insecure", "--superlink", f"{self.hub}:{PORT}"]
        self.processes.start(
            f"w{worker}", [self._tool("flower-supernode"), *words], worker=worker, env=self._env(f"w{worker}")
        )

    def submit(self) -> None:
        app = str(self.setup.path / "app")
        self.processes.start("driver", [self._tool("flwr"), "run", app, "hub"], env=self._env("hub"))

    def finished(self) -> bool:
        if (code := self.processes.running["driver"].poll()) not in (None, 0):
            raise Failed(f"flwr run ended with {code}; see {self.processes.log('driver')}")
        return (self.setup.path / "done").exists()

    def rejoin(self, worker: int) -> None:
        self._node(worker)


if __name__ == "__main__":
    sys.exit("started by Flower")
