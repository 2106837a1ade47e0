"""`up`, `down`, `doctor`: the local stack, run as a module of the checkout (`deployments.local`).

The stack is a supervisor process in a session of its own. While it starts, and for as long as it is not let go, its
standard input is held by this process: when this one ends, however it ends, the stack ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import CloudLinkUpError, JobFailed, LedgerError, Unavailable
from cloudlinkup.home import PORT_BASE, PORTS, Home, checkout

STOP_DEADLINE = 40.0  # seconds for everything to end after SIGTERM


def require_checkout() -> Path:
    """The checkout's root. Raises Unavailable where only the wheel is installed."""
    root = checkout()
    if root is None:
        raise Unavailable(
            "this command needs Prefect, XGBoost and the escrow program, which the wheel leaves out. "
            "Fix: clone the repository and run it there, after `make setup`"
        )
    return root


def read_stack(home: Home) -> dict[str, Any] | None:
    """stack.json of a stack that runs, or None."""
    if supervisor(home) is None or not home.stack.exists():
        return None
    return json.loads(home.stack.read_text())


def supervisor(home: Home) -> int | None:
    """The process that holds the home's lock, or None."""
    import fcntl

    try:
        with (home.root / "stack.lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                return int(file.read() or "0") or None
    except FileNotFoundError:
        return None


@dataclass
class Started:
    """A stack that is up. `process` is None when it was up before; `seconds`: since the start began."""

    stack: dict[str, Any]
    process: subprocess.Popen[str] | None
    seconds: float = 0.0
    alone: bool = False

    def let_go(self) -> None:
        """The stack lives on without this process."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write("detach\n")
            self.process.stdin.flush()
            self.alone = True


@contextmanager
def started(home: Home, port_base: int = PORT_BASE, file_roots: tuple[Path, ...] = ()) -> Iterator[Started]:
    """The local stack; started, and stopped again at the end unless let go. One that is up is used and left alone.

    Raises Unavailable (a taken port, a service that does not start) and LedgerError.
    """
    root = require_checkout()
    if (stack := read_stack(home)) is not None:
        yield Started(stack, None, 0.0)
        return
    home.make()
    home.logs.mkdir(mode=0o700, exist_ok=True)
    began = time.monotonic()
    argv = [sys.executable, "-m", "deployments.local", "--port-base", str(port_base)]
    for folder in file_roots:
        argv += ["--file-root", str(folder)]
    with (home.logs / "stack.log").open("a") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=root,
            env={**os.environ, "CLOUDLINKUP_HOME": str(home.root)},
            start_new_session=True,
        )
    up = Started({}, process)
    try:
        up.stack = _follow(process, home)
        up.seconds = time.monotonic() - began
        yield up
    finally:
        _let_end(process, wait=not up.alone)


def _let_end(process: subprocess.Popen[str], *, wait: bool) -> None:
    """Closes the lifeline: a stack that was let go lives on, any other ends now."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    if wait:
        try:
            process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel ends its children
            process.wait()


def _follow(process: subprocess.Popen[str], home: Home) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "started":
            terminal.note(f"  {event['name']:<16} {event['seconds']:5.1f} s")
        elif event["event"] == "ready":
            return event["stack"]
        elif event["event"] == "error":
            kinds: dict[int, type[CloudLinkUpError]] = {3: Unavailable, 4: LedgerError, 5: JobFailed}
            raise kinds.get(event["exit_code"], CloudLinkUpError)(event["message"])
    raise Unavailable(f"the stack stopped while starting. Fix: read {home.logs / 'stack.log'}")


def stop(home: Home) -> bool:
    """Stops the stack of this home. Returns whether one ran. Raises Unavailable when it does not end."""
    if (pid := supervisor(home)) is None:
        home.stack.unlink(missing_ok=True)
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_DEADLINE
    while supervisor(home) is not None:
        if time.monotonic() > deadline:
            raise Unavailable(f"the stack (process {pid}) did not end. Fix: kill -9 {pid}; its children end with it")
        time.sleep(0.05)
    return True


def up(
    *,
    port_base: int = PORT_BASE,
    file_root: Annotated[list[Path] | None, Parameter(negative=())] = None,
    foreground: bool = False,
) -> None:
    """Start the local stack: a local chain, Prefect, and a cell that contributors connect to.

    Parameters
    ----------
    port_base
        First of five ports on loopback.
    file_root
        A folder that `file:` addresses of jobs may name, besides the checkout and this folder. Repeatable.
    foreground
        Stay, and stop the stack on Ctrl-C.
    """
    home = Home.find()
    roots = tuple(path.resolve() for path in (Path.cwd(), *(file_root or [])))
    with started(home, port_base, roots) as stack:
        was_up = stack.process is None
        document = {"already_up": was_up, "seconds": round(stack.seconds, 1), **stack.stack}
        if foreground and not was_up:
            terminal.note("The stack is up. Ctrl-C stops it.")
            assert stack.process is not None
            stack.process.wait()
            return
        stack.let_go()
    terminal.result(document, lambda console: _show_up(console, home, document, was_up))


def _show_up(console: Console, home: Home, document: dict[str, Any], was_up: bool) -> None:
    console.print("The stack was already up." if was_up else f"The stack is up ({document['seconds']:.1f} s).")
    console.print(f"  Prefect  {document['prefect_api'].removesuffix('/api')}")
    if document["dask_dashboard"]:
        console.print(f"  Dask     {document['dask_dashboard']}")
    console.print(f"  gateway  {document['gateway_url']}")
    console.print(f"  chain    {document['rpc_url']}")
    console.print(f"  state    {home.root}", soft_wrap=True)
    console.print("Next: `cloudlinkup contribute`, and `cloudlinkup submit JOB.json --watch` in another terminal.")


def down() -> None:
    """Stop the local stack. Its state stays, and `up` finds it again."""
    home = Home.find()
    stopped = stop(home)
    terminal.result(
        {"stopped": stopped}, lambda console: console.print("Stopped." if stopped else "Nothing was running.")
    )


def doctor() -> None:
    """Look whether this machine and this checkout can run what the command line offers."""
    from cloudlinkup.cli.checks import examine

    home = Home.find()
    checks = examine(home, read_stack(home), PORTS)

    def show(console: Console) -> None:
        for check in checks:
            mark = "[green]ok [/]" if check.ok else "[red]no [/]"
            console.print(f"{mark} {check.what}: {check.found}" + ("" if check.ok else f". Fix: {check.fix}"))

    terminal.result([{"what": c.what, "ok": c.ok, "found": c.found, "fix": c.fix} for c in checks], show)
    if not all(check.ok for check in checks):
        raise SystemExit(3)
