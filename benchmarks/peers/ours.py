"""Ours: the local stack on the hub (chain, Prefect, cell), `cloudlinkup contribute` on each machine, one submitted job.

Nothing is simulated but the machines' speed. Quote, escrow, sealing, commitments, the audit and its bytes are in every
figure, as are the contributors' questions to the chain. Contributors reach the stack through relays (`relay.py`), since
it listens on loopback. Every run starts from a copy of one state, in which this job was quoted (as a client does before
it submits) and nobody has worked yet.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.record import Snapshot, Work, lines
from benchmarks.peers.setup import SPEEDS
from benchmarks.peers.systems import Failed, System, wait_for

BASE = 27_100  # first port, in the hub's own namespace


class Ours(System):
    """The seat that a worker gets is found by its wallet."""

    name = "ours"

    @property
    def home(self) -> Path:
        return self.setup.path / "home"

    @property
    def machines(self) -> Path:
        return self.setup.path / "machines"

    # ---------------------------------------------------------------- running

    def start(self) -> None:
        template = self.problem / "template"
        if not (template / "ready").exists():
            shutil.rmtree(template, ignore_errors=True)
            template.mkdir()
            self._up()
            self._command("quote", "quote", str(self.problem / "job.json"), "--json")
            wait_for(lambda: self.driver_done("quote"), "the quote", 240)
            self._stop_stack()
            shutil.copytree(self.home, template / "home")
            shutil.copytree(self.machines, template / "machines")
            (template / "ready").touch()
            self.processes.running.clear()
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.machines, ignore_errors=True)
        shutil.copytree(template / "home", self.home)
        shutil.copytree(template / "machines", self.machines)
        self._up()

    def _up(self) -> None:
        """The stack, the relays and the contributors, connected."""
        words = ["up", "--foreground", "--port-base", str(BASE), "--file-root", str(self.problem), "--json"]
        self._command("stack", *words)
        self.processes.start("relay", [sys.executable, *self._relay(self.hub, "127.0.0.1")])
        for worker in self.workers:
            relay = [sys.executable, *self._relay("127.0.0.1", self.hub)]
            self.processes.start(f"relay-{worker}", relay, worker=worker)
        wait_for(lambda: (self.home / "stack.json").exists() or self.processes.says("stack", "never"), "the stack", 240)
        for worker in self.workers:
            self._contribute(worker)
        for worker in self.workers:
            wait_for(lambda w=worker: self.processes.says(f"w{w}", '"event": "connected"'), f"contributor {worker}")
        wait_for((self.home / "prefect/spare.sock").exists, "the process for the next flow")  # packages are imported

    def _relay(self, listen: str, to: str) -> list[str]:
        ports = (BASE, BASE + 2)  # the chain's and the gateway's
        return ["-m", "benchmarks.peers.relay", *(f"{listen}:{port}={to}:{port}" for port in ports)]

    def _command(self, name: str, *words: str) -> None:
        env = {"CLOUDLINKUP_HOME": str(self.home)}
        self.processes.start(name, [sys.executable, "-m", "cloudlinkup", *words], env=env)

    def _contribute(self, worker: int) -> None:
        env = {
            "CLOUDLINKUP_HOME": str(self.machines),
            "CLOUDLINKUP_GATEWAY_URL": f"wss://127.0.0.1:{BASE + 2}",
            "CLOUDLINKUP_RPC_URL": f"http://127.0.0.1:{BASE}",
            "CLOUDLINKUP_CA_FILE": str(self.home / "tls/ca.pem"),
        }
        words = ["-m", "benchmarks.peers.contributor", "--name", f"w{worker}"]
        words += ["--share", str(max(0.001, self.setup.share[worker]))]
        self.processes.start(f"w{worker}", [sys.executable, *words], worker=worker, env=env)

    def submit(self) -> None:
        self.request = str(uuid.uuid4())
        self._command(
            "submit", "submit", str(self.problem / "job.json"), "--watch", "--json", "--request-id", self.request
        )

    def finished(self) -> bool:
        return self.driver_done("submit")

    def progress(self) -> float:
        done = [event["steps"] / event["of"] for _, event in self._events("round")]
        return done[-1] if done else 0.0

    def kill(self, worker: int) -> None:
        self.processes.kill(f"w{worker}")  # and not its relay, which is its way to the network

    def rejoin(self, worker: int) -> None:
        self._contribute(worker)

    def _stop_stack(self) -> None:
        env = {"CLOUDLINKUP_HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        for worker in self.workers:
            self.processes.kill(f"w{worker}")
        subprocess.run(
            [sys.executable, "-m", "cloudlinkup", "down"], env=env, capture_output=True, timeout=90, check=False
        )
        self.processes.stop()

    def stop(self) -> None:
        if "stack" in self.processes.running:
            self._stop_stack()

    # ---------------------------------------------------------------- what came of it

    def _events(self, kind: str) -> list[tuple[float, dict[str, Any]]]:
        from cloudlinkup.jobs import JobStore

        place = self.home / "jobs.db"
        if not place.exists():
            return []
        return [(event.at, event.data) for event in JobStore(place).events(self.request) if event.kind == kind]

    def _rounds(self) -> list[Any]:
        from cloudlinkup.jobs import JobStore
        from tasks.state import RoundState

        return [RoundState.model_validate_json(text) for text in JobStore(self.home / "jobs.db").rounds(self.request)]

    def _state(self) -> Any:
        from cloudlinkup.jobs import JobStore
        from tasks.state import JobState

        text = JobStore(self.home / "jobs.db").state(self.request)
        if text is None:
            raise Failed("the job left no state")
        return JobState.model_validate_json(text)

    def _worker_of(self) -> dict[int, int]:
        """Seat to worker."""
        from cloudlinkup.crypto.identity import read_key

        wallets = {
            str(read_key(self.machines / "contributors" / f"w{worker}" / "wallet.json").pubkey()): worker
            for worker in self.workers
        }
        return {seat.seat: wallets[seat.wallet] for seat in self._state().seats}

    def snapshots(self, score: Callable[[Path], float]) -> list[Snapshot]:
        """The job's own score after each round, on the same held-out rows."""
        workers, step = self._worker_of(), int(self._state().plan["segment_steps"])
        totals, found = dict.fromkeys(self.workers, 0), []
        rounds = {one.round: one for one in self._rounds()}
        for at, event in self._events("round"):
            for entry in rounds[event["round"]].entries:
                if entry.outcome == "accepted":
                    totals[workers[entry.seat]] += entry.segments * step
            found.append(Snapshot(at, float(event["score"]), dict(totals)))
        return found

    def work(self, until: float) -> Work:
        """From the contributors' logs: segments by round and the seconds that a shard took."""
        step = int(self._state().plan["segment_steps"])
        steps, seconds, first = dict.fromkeys(self.workers, 0), dict.fromkeys(self.workers, 0.0), None
        for worker in self.workers:
            begun = last = None
            for one in lines(self.processes.log(f"w{worker}")):
                at = _seconds(one.get("timestamp"))
                if at is None or at > until:
                    continue
                if one["event"] == "order":
                    seconds[worker] += last - begun if begun and last else 0.0  # it was killed in the last one
                    begun, last = at, None
                    first = at if first is None else min(first, at)
                elif one["event"] == "segment":
                    last = at
                    steps[worker] += 0 if self.setup.free(worker) else step
                elif one["event"] == "trained":
                    seconds[worker] += one["seconds"]
                    begun = last = None
            seconds[worker] += last - begun if begun and last else 0.0
        return Work(steps, seconds, first)

    def notes(self) -> dict[str, object]:
        """The receipt's own account of bytes and stages, and what became of the seats."""
        state = self._state()
        partitions = sum(seat.partition.size for seat in state.seats if seat.partition is not None)
        return {
            "rows_bytes": partitions,
            "audit_bytes": state.audit_bytes,
            "stage_seconds": state.stage_seconds,
            "segment_steps": state.plan["segment_steps"],
            "local_steps": state.plan["local_steps"],
            "rounds": len(self._rounds()),
            "seats": {seat.seat: (seat.state, seat.steps) for seat in state.seats},
            "ended_early": state.ended_early,
            "speeds": len(SPEEDS),
        }


def _seconds(text: str | None) -> float | None:
    from datetime import datetime

    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
