"""Contributors on machines of their own beside the session's local stack, and jobs submitted as a client does.

The contributors have another home than the stack and find it by its addresses only, like strangers' machines. They
stay up for the whole folder, because importing torch and probing costs more than a small job.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from cloudlinkup.crypto.identity import read_key
from cloudlinkup.home import Home, Settings
from cloudlinkup.jobs import JobStore
from cloudlinkup.ledger.escrow import Ledger
from tasks.state import JobState, RoundState
from tests.conftest import ROOT, LocalStack

HONEST = ("-m", "cloudlinkup", "contribute")
LAZY = ("examples/lazy_contributor.py",)
POLL = 0.02
T = TypeVar("T")
PATIENCE = 240.0  # seconds for a job of a few rounds on a machine that is busy with something else


def wait_for(what: Callable[[], T | None], why: str, seconds: float = PATIENCE) -> T:
    """The first answer that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (answer := what()) is not None and answer is not False:
            return answer
        time.sleep(POLL)
    raise AssertionError(f"waited {seconds:g} s in vain: {why}")


@dataclass
class Machine:
    """One contributor's machine: a name, a share of one core, a home, and its process."""

    name: str
    share: float
    home: Home
    stack: LocalStack
    program: tuple[str, ...] = HONEST
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.home.logs / f"{self.name}.log"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has reported so far, in all its lives."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.startswith('{"') or '"event"' in line]

    @property
    def wallet(self) -> str:
        return str(read_key(self.home.contributor(self.name) / "wallet.json").pubkey())

    def start(self) -> None:
        self.home.logs.mkdir(parents=True, exist_ok=True)
        settings = json.loads(self.stack.home.stack.read_text())
        env = {k: v for k, v in self.stack.env.items() if k != "CLOUDLINKUP_HOME"}
        env |= {f"CLOUDLINKUP_{key.upper()}": settings[key] for key in ("gateway_url", "rpc_url", "ca_file")}
        env["CLOUDLINKUP_HOME"] = str(self.home.root)
        argv = [sys.executable, *self.program, "--name", self.name, "--share", str(self.share), *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def count(self, event: str) -> int:
        return sum(line.get("event") == event for line in self.events)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)


@dataclass
class Submitted:
    """A `submit --watch --json` under way."""

    request_id: str
    process: subprocess.Popen[str]

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, the one document on standard output, and what it said meanwhile."""
        out, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, json.loads(out), said

    def receipt(self) -> dict[str, Any]:
        code, document, said = self.end()
        assert code == 0, f"{document}\n{said}"
        return document


@dataclass
class Site:
    """The stack, the contributors' machines, and a client who submits jobs."""

    stack: LocalStack
    machines: Home
    folder: Path
    all: dict[str, Machine] = field(default_factory=dict)

    @property
    def store(self) -> JobStore:
        return JobStore(self.stack.home.jobs_db)

    @property
    def settings(self) -> Settings:
        return Settings.load(self.stack.home)

    def start(self, *names: str, share: float = 0.25, options: tuple[str, ...] = ()) -> list[Machine]:
        """Machines by name, started side by side and connected. One named lazy skips one step in ten."""
        made = [
            Machine(name, share, self.machines, self.stack, LAZY if name == "lazy" else HONEST, options)
            for name in names
        ]
        before = [machine.count("connected") for machine in made]
        for machine in made:
            self.all[machine.name] = machine
            machine.start()
        for machine, count in zip(made, before, strict=True):
            wait_for(lambda m=machine, n=count: m.count("connected") > n or None, f"{machine.log}: connected", 120)
        return made

    def wallets(self, *names: str) -> list[str]:
        return [self.all[name].wallet for name in names]

    def job(self, allow: list[str], **changes: Any) -> dict[str, Any]:
        """A small job on the digits. `changes`: top-level keys, or `samples`."""
        job = json.loads((ROOT / "examples/digits/job.json").read_text())
        job["model"]["hidden"] = [16]
        job["train"] |= {"samples": changes.pop("samples", 6_400)}
        return job | {"contributors": {"max": max(1, len(allow)), "allow": allow}, "budget": "1"} | changes

    def write(self, job: dict[str, Any]) -> str:
        path = self.folder / f"{uuid.uuid4()}.json"
        path.write_text(json.dumps(job))
        return str(path)

    def submit(self, job: dict[str, Any], request_id: str | None = None, *more: str) -> Submitted:
        """`more`: words of the command line."""
        request_id = request_id or str(uuid.uuid4())
        words = ["submit", self.write(job), "--watch", "--json", "--request-id", request_id, *more]
        return Submitted(request_id, self.stack.begin(*words))

    def ledger(self) -> Any:
        """``async with site.ledger() as ledger``."""
        settings = self.settings
        return Ledger.connect(settings.rpc_url, settings.program_id)

    async def free(self) -> int:
        """What the client may still lock, in base units."""
        settings = self.settings
        async with self.ledger() as ledger:
            return await ledger.free_balance(settings.owner_key, settings.mint_key)

    # ---------------------------------------------------------------- looking at a job

    def state(self, request_id: str) -> JobState | None:
        text = self.store.state(request_id) if self.stack.home.jobs_db.exists() else None
        return JobState.model_validate_json(text) if text else None

    def rounds(self, request_id: str) -> list[RoundState]:
        return [RoundState.model_validate_json(text) for text in self.store.rounds(request_id)]

    def engine(self, request_id: str) -> psutil.Process | None:
        """The process that runs the flow of this request now."""
        view = self.store.view(request_id) if self.stack.home.jobs_db.exists() else None
        if view is None:
            return None
        for process in self.stack.processes():
            try:
                if process.environ().get("PREFECT__FLOW_RUN_ID") == view.flow_run_id:
                    return process
            except psutil.Error:
                continue
        return None
