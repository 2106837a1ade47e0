"""hivemind: its Optimizer with local updates, one peer a machine, found through a DHT whose first node is the hub.

Its setting for slow links: every peer takes optimizer steps at its own speed, and when all together have done a target
number of samples (ours a round) they average parameters, in float16 on the wire, part by part all-reduced. No equal
split, so a slow peer simply does less. Matchmaking may take `MATCH` seconds instead of the default 15, which is for the
Internet. Rows lie on each machine. A peer that comes back loads the state of another.
"""

# pyright: reportMissingImports=false, reportFunctionMemberAccess=false
# its packages are in an environment of their own
from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.peers.network import HUB_ADDRESS, address
from benchmarks.peers.setup import ROUND_STEPS, ROUNDS, SPEEDS, Setup
from benchmarks.peers.systems import System, wait_for

MATCH, AVERAGE = 1.5, 15.0  # seconds
KEEPER = len(SPEEDS) - 1  # the peer that writes the model down: no scenario touches it


def hub() -> None:
    """The first node of the DHT; prints its address."""
    import hivemind

    dht = hivemind.DHT(start=True, host_maddrs=[f"/ip4/{HUB_ADDRESS}/tcp/0"])
    address_ = next(str(one) for one in dht.get_visible_maddrs() if HUB_ADDRESS in str(one))
    (Setup.load().path / "dht").write_text(address_)
    print("ready", flush=True)
    while True:
        time.sleep(60)


def peer() -> None:
    """One peer, until the swarm has done all rounds."""
    import hivemind
    import torch
    from hivemind.compression import Float16Compression

    from benchmarks.peers.local import BETAS, this_machine
    from benchmarks.peers.record import ModelLog
    from cloudlinkup.training.architectures import flat_weights
    from cloudlinkup.training.schedule import factor

    worker = this_machine()
    worker.warm()
    setup, loop, spec = worker.setup, worker.loop(worker.number), worker.problem.spec
    first = (setup.path / "dht").read_text()
    dht = hivemind.DHT(initial_peers=[first], start=True, host_maddrs=[f"/ip4/{address(worker.number)}/tcp/0"])
    loop.load(worker.problem.start)

    def make(parameters: Any) -> Any:
        return torch.optim.AdamW(parameters, lr=spec.lr, betas=BETAS, eps=1e-8, weight_decay=0.0)

    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: factor((epoch + 0.5) / ROUNDS))

    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="peers",
        target_batch_size=ROUND_STEPS * spec.batch,
        batch_size_per_step=spec.batch,
        params=loop.module.parameters(),
        optimizer=make,
        scheduler=schedule,
        use_local_updates=True,
        delay_state_averaging=False,
        matchmaking_time=MATCH,
        averaging_timeout=AVERAGE,
        state_averaging_compression=Float16Compression(),
    )
    print("ready", flush=True)
    go = setup.path / "go"
    late = go.exists()
    while not go.exists():
        time.sleep(0.02)
    if late:
        optimizer.load_state_from_peers()
    log, epoch = ModelLog(setup.path), optimizer.local_epoch
    worker.pace.start()
    while optimizer.local_epoch < ROUNDS:
        began = time.perf_counter()
        optimizer.zero_grad()
        x, y = loop.batch()
        if not worker.free:
            torch.nn.functional.cross_entropy(loop.module(x), y).backward()
        else:
            for parameter in loop.module.parameters():
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if optimizer.local_epoch == epoch:
            worker.pace.pause()
            if not worker.free:
                worker.log.step(time.perf_counter() - began)
        else:  # this step averaged: what it took is no training
            epoch = optimizer.local_epoch
            worker.pace.start()
            worker.log.flush()
            if worker.number == KEEPER:
                log.save(flat_weights(loop.module), {KEEPER: epoch * ROUND_STEPS})
    print("done", flush=True)
    if worker.number == KEEPER:
        (setup.path / "done").touch()
    time.sleep(600)  # others may still be averaging with us; the harness ends it


class Hivemind(System):
    """The DHT's first node on the hub, a peer on each machine. Who did how much of a round is not told by it."""

    name = environment = "hivemind"

    def start(self) -> None:
        self.processes.start("hub", [self.python, "-m", "benchmarks.peers.hivemind_peers", "hub"])
        wait_for(lambda: self.processes.says("hub", "ready"), "the DHT")
        for worker in self.workers:
            self._peer(worker)
        for worker in self.workers:
            wait_for(lambda w=worker: self.processes.says(f"w{w}", "ready"), f"peer {worker}")

    def _peer(self, worker: int) -> None:
        self.processes.start(
            f"w{worker}", [self.python, "-m", "benchmarks.peers.hivemind_peers", "peer"], worker=worker
        )

    def submit(self) -> None:
        (self.setup.path / "go").touch()

    def finished(self) -> bool:
        self.processes.says(f"w{KEEPER}", "never")  # raises when it has ended
        return (self.setup.path / "done").exists()

    def rejoin(self, worker: int) -> None:
        self._peer(worker)


if __name__ == "__main__":
    hub() if sys.argv[1] == "hub" else peer()
