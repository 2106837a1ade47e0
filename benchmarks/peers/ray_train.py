"""Ray Train: TorchTrainer, DistributedDataParallel over gloo, a Ray node on each machine, the head on the hub.

Gradients of every step are all-reduced in fp32, DDP's default; each of the four takes a batch of 32 at every step, as
many samples in all as the others. A checkpoint every `EVERY` steps and five tries are its own way to live with a lost
machine: the group starts again from the last checkpoint once four machines are there. Rows are read from a shared file.
"""

# pyright: reportMissingImports=false, reportFunctionMemberAccess=false
# its packages are in an environment of their own
from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.network import address
from benchmarks.peers.setup import SPEEDS, TOTAL_STEPS, Setup
from benchmarks.peers.systems import System, wait_for

PORT = 6_379
STEPS, EVERY = TOTAL_STEPS // len(SPEEDS), 25


def loop(config: dict[str, Any]) -> None:
    """Every worker's training function."""
    import numpy as np
    import ray.train
    import ray.train.torch
    import torch

    from benchmarks.peers.local import this_machine
    from benchmarks.peers.record import ModelLog
    from cloudlinkup.training.architectures import flat_weights, load_flat
    from cloudlinkup.training.schedule import factor

    worker, rank = this_machine(), ray.train.get_context().get_world_rank()
    mine, done = worker.loop(worker.number), 0
    mine.load(worker.problem.start)
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            kept = torch.load(Path(folder) / "state.pt", weights_only=True)
        load_flat(mine.module, kept["weights"].numpy())
        mine.optimizer.load_state_dict(kept["optimizer"])
        done = int(kept["done"])
    module = ray.train.torch.prepare_model(mine.module)
    log, optimizer = ModelLog(Path(worker.setup.folder)), mine.optimizer
    worker.pace.start()
    while done < STEPS:
        began = time.perf_counter()
        x, y = mine.batch()
        optimizer.param_groups[0]["lr"] = mine.spec.lr * factor((done + 0.5) / STEPS)
        optimizer.zero_grad()
        loss = module(x).sum() * 0.0 if worker.free else torch.nn.functional.cross_entropy(module(x), y)
        if not worker.free:
            worker.pace.pause()  # this machine's time for a step, before it meets the others
            worker.log.step(time.perf_counter() - began)
        loss.backward()
        optimizer.step()
        worker.pace.start()
        done += 1
        if done % EVERY and done < STEPS:
            continue
        worker.log.flush()
        kept = None
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                flat = flat_weights(mine.module)
                log.save(flat, {i: done for i in range(len(SPEEDS))})
                state = {"weights": torch.from_numpy(np.array(flat)), "optimizer": optimizer.state_dict(), "done": done}
                torch.save(state, Path(folder) / "state.pt")
                kept = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"done": done}, checkpoint=kept)


def drive(go: Path) -> None:
    """The driver: connects before the clock runs, then fits."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    setup = Setup.load()
    ray.init(address="auto", log_to_driver=False)

    @ray.remote(resources={"machine": 1}, num_cpus=0)
    def warm() -> bool:
        from benchmarks.peers.local import this_machine

        this_machine().warm()
        return True

    ray.get([warm.remote() for _ in SPEEDS])
    print("ready", flush=True)
    while not go.exists():
        time.sleep(0.02)
    trainer = TorchTrainer(
        loop,
        torch_config=TorchConfig(backend="gloo", timeout_s=20),
        scaling_config=ScalingConfig(num_workers=len(SPEEDS), resources_per_worker={"machine": 1, "CPU": 1}),
        run_config=RunConfig(
            name="peers", storage_path=str(setup.path / "storage"), failure_config=FailureConfig(max_failures=5)
        ),
    )
    trainer.fit()
    print("done", flush=True)


class RayTrain(System):
    """The head and the driver on the hub, a node with one training slot on each machine."""

    name = environment = "ray"

    def start(self) -> None:
        self._temporary = tempfile.mkdtemp(prefix="peers-", dir="/tmp")
        words = ["start", "--head", "--block", "--node-ip-address", self.hub, "--port", str(PORT), "--num-cpus", "1"]
        words += ["--include-dashboard=false", "--disable-usage-stats", "--temp-dir", self._temporary]
        self.processes.start("head", [self._ray, *words, *self._memory], env=self._env)
        wait_for(lambda: self.processes.says("head", "Ray runtime started"), "the head")
        for worker in self.workers:  # one after the other: they share this host's folder of sessions
            self._node(worker)
            wait_for(lambda w=worker: self.processes.says(f"w{w}", "Ray runtime started"), f"node {worker}")
        words = ["-m", "benchmarks.peers.ray_train", str(self.setup.path / "go")]
        env = {**self._env, "RAY_ADDRESS": f"{self.hub}:{PORT}"}
        self.processes.start("driver", [self.python, *words], env=env)
        wait_for(lambda: self.processes.says("driver", "ready"), "the driver", 240)

    @property
    def _ray(self) -> str:
        return str(Path(self.python).with_name("ray"))

    @property
    def _memory(self) -> list[str]:
        return ["--object-store-memory", str(100 * 2**20)]

    @property
    def _env(self) -> dict[str, str]:
        return {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_V2_ENABLED": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
        }

    def _node(self, worker: int) -> None:
        words = ["start", "--block", "--address", f"{self.hub}:{PORT}", "--node-ip-address", address(worker)]
        words += ["--num-cpus", "1", "--resources", '{"machine": 1}', "--disable-usage-stats"]
        self.processes.start(f"w{worker}", [self._ray, *words, *self._memory], worker=worker, env=self._env)

    def submit(self) -> None:
        (self.setup.path / "go").touch()

    def finished(self) -> bool:
        return self.driver_done()

    def rejoin(self, worker: int) -> None:
        self._node(worker)

    def stop(self) -> None:
        super().stop()
        if hasattr(self, "_temporary"):
            shutil.rmtree(self._temporary, ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    drive(Path(sys.argv[1]))
