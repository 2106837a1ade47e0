"""`demo`: the whole loop on this machine, by the same commands that a person would type.

`up`, four `contribute` processes of different speed (one of them lazy), `submit examples/digits/job.json --watch
--compare`, the receipt, and where the time went. It has no path of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudlinkup.cli.jobs import submit_job
from cloudlinkup.cli.receipt import show_receipt, show_times
from cloudlinkup.cli.stack import require_checkout, started
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import Unavailable
from cloudlinkup.home import PORT_BASE, Home, Settings

CONNECT_DEADLINE = 90.0  # seconds for all four: a first start also runs their probes
DRAIN = 10.0  # seconds a contributor gets to end


@dataclass(frozen=True)
class Helper:
    """One contributor of the demo. `share`: of one core. `lazy`: it skips one step in ten."""

    name: str
    share: float
    lazy: bool = False


HELPERS = (
    Helper("demo-sixteenth", 1 / 16),
    Helper("demo-eighth", 1 / 8),
    Helper("demo-quarter", 1 / 4, lazy=True),
    Helper("demo-half", 1 / 2),
)


def _command(root: Path, helper: Helper) -> list[str]:
    program = [str(root / "examples/lazy_contributor.py")] if helper.lazy else ["-m", "cloudlinkup", "contribute"]
    return [sys.executable, *program, "--name", helper.name, "--share", str(helper.share)]


@contextmanager
def helpers(root: Path, home: Home, *, keep: bool) -> Iterator[None]:
    """The four contributors, connected; ended at the end unless kept. Raises Unavailable."""
    launcher = [] if keep else [sys.executable, "-S", str(root / "deployments/child.py")]
    running: list[tuple[Helper, subprocess.Popen[bytes], Path, int]] = []
    done = False
    try:
        for helper in HELPERS:
            log = home.logs / f"contributor-{helper.name}.log"
            at = log.stat().st_size if log.exists() else 0
            with log.open("ab") as file:
                process = subprocess.Popen(
                    launcher + _command(root, helper),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd=root,
                    env={**os.environ, "CLOUDLINKUP_HOME": str(home.root)},
                    start_new_session=True,
                )
            running.append((helper, process, log, at))
        _wait_connected(running)
        yield
        done = True
    finally:
        if not (keep and done):
            _end([process for _, process, _, _ in running])


def _wait_connected(running: list[tuple[Helper, subprocess.Popen[bytes], Path, int]]) -> None:
    deadline = time.monotonic() + CONNECT_DEADLINE
    waiting = list(running)
    while waiting:
        for entry in list(waiting):
            helper, process, log, at = entry
            if _says_connected(log, at):
                waiting.remove(entry)
                continue
            if process.poll() is not None:
                raise Unavailable(f"contributor {helper.name} stopped (exit {process.returncode}). Fix: read {log}")
            if time.monotonic() > deadline:
                raise Unavailable(f"contributor {helper.name} did not connect. Fix: read {log}")
        time.sleep(0.1)


def _says_connected(log: Path, at: int) -> bool:
    """Whether the contributor's log (JSON lines) names the event since byte `at`."""
    with log.open("rb") as file:
        file.seek(at)
        return re.search(rb'"event": ?"connected"', file.read()) is not None


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DRAIN
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def demo(*, port_base: int = PORT_BASE, keep: bool = False) -> None:
    """Show the whole loop on this machine: four contributors, one of which cheats, a real job, and the receipt.

    Parameters
    ----------
    port_base
        First of five ports on loopback.
    keep
        Leave the stack and the contributors running at the end.
    """
    root, home = require_checkout(), Home.find()
    times: dict[str, float] = {}
    mark = began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal mark
        now = time.monotonic()
        times[name], mark = now - mark, now

    terminal.note("Starting the local stack (a chain, Prefect, a cell):")
    with started(home, port_base) as stack:
        lap("stack up")
        terminal.note("Connecting four contributors: 1/16, 1/8, 1/4 (lazy: skips one step in ten) and 1/2 of a core.")
        with helpers(root, home, keep=keep):
            lap("contributors connected")
            path, request_id = root / "examples/digits/job.json", str(uuid.uuid4())
            receipt, compared = asyncio.run(submit_job(path, Settings.load(home), request_id, watch=True, compare=True))
            lap("job")
            times["job"] -= compared
            times |= {f"  {name}": seconds for name, seconds in _stages(receipt).items()}
            times["comparison"] = compared
        if keep:
            stack.let_go()
    lap("stopping")
    times["all"] = time.monotonic() - began

    def show(console: Any) -> None:
        show_receipt(console, receipt)
        show_times(console, times)
        if keep:
            console.print("The stack is still up: `cloudlinkup down` stops it.")

    terminal.result(receipt, show)


def _stages(receipt: dict[str, Any]) -> dict[str, float]:
    """Seconds by stage of the job, as its run measured them, and what is left of it: starting the run, waiting."""
    stages = dict(receipt["quoted"].get("stage_seconds", {}))
    return {**stages, "between stages": max(0.0, receipt["seconds"] - sum(stages.values()))}
