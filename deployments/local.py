"""The local stack as child processes: `python -m deployments.local --port-base N` (what `cloudlinkup up` starts).

    localnet ─┬─▶ cell (scheduler and gateway; needs the chain's genesis hash)
              └─▶ keys, mint, Config, Client, deposit, allowance, each only if missing
    Prefect server ─▶ Prefect worker (waits for the server itself; applies prefect.yaml if it changed)

All of it starts as concurrently as these arrows allow. This process is the supervisor: it starts a child that dies
again (three times in a row at most), and ends all of them on SIGTERM, SIGINT, or when it was never let go: standard
input is its lifeline, and until a line `detach` has come, the end of that input (its parent died) stops the stack. The
kernel ends the children of a supervisor that was killed. Progress goes to standard output, one JSON document a line:
{"event": "started", "name", "seconds"}, {"event": "ready", ...}, {"event": "error", "message", "exit_code"}.

Not covered: several machines, TLS for Prefect (it listens on loopback, and whoever can log in here may use it).
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudlinkup.errors import CloudLinkUpError, Unavailable
from cloudlinkup.home import PORT_BASE, PORTS, PROGRAM_ID, Home
from deployments import services
from deployments.processes import Child

MAX_RESTARTS = 3  # of a child that never lives for STEADY seconds
STEADY = 60.0
WATCH = 0.2  # seconds between two looks at the children


def log(text: str) -> None:
    """A line for logs/stack.log, where `up` has pointed standard error."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


class AlreadyUp(CloudLinkUpError):
    """Another supervisor holds this home."""


def hold(home: Home) -> None:
    """Takes the home's lock until this process has ended, and writes its number there. Raises AlreadyUp."""
    descriptor = os.open(home.make().root / "stack.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyUp(f"the local stack of {home.root} is already up") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())


def check_ports(base: int) -> None:
    """Raises Unavailable that names the first port that is taken."""
    for name, offset in PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", base + offset))
            except OSError:
                raise Unavailable(
                    f"port {base + offset} ({name}) is taken by another process. "
                    f"Fix: `cloudlinkup up --port-base {base + 100}`, or end that process"
                ) from None


def asked() -> dict[str, str]:
    """What this stack's jobs ask of contributors, where `up` was given it: the flow reads it in stack.json."""
    names = ("bond", "dispute_window")
    return {name: value for name in names if (value := os.environ.get(f"CLOUDLINKUP_{name.upper()}"))}


@dataclass
class Stack:
    """The supervisor's state. `file_roots`: folders that `file:` URIs of jobs may name."""

    home: Home
    base: int
    file_roots: tuple[Path, ...]
    children: list[Child] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)  # seconds, by name
    facts: dict[str, str] = field(default_factory=dict)  # mint, owner
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    attached: bool = True

    def say(self, event: str, **data: Any) -> None:
        """A progress line, while anybody listens."""
        if self.attached:
            with suppress(OSError):
                print(json.dumps({"event": event, **data}), flush=True)

    def end(self, why: str) -> None:
        """Asks for the end; the reason goes to the log."""
        log(f"stopping: {why}")
        self.stopping.set()

    async def _start(self, child: Child) -> None:
        self.children.append(child)
        self._done(child.name, await child.start())

    def _done(self, name: str, seconds: float) -> None:
        self.spent[name] = round(seconds, 2)
        self.say("started", name=name, seconds=self.spent[name])

    async def _chain(self) -> None:
        authority = services.make_keys(self.home)
        await self._start(services.localnet(self.home, self.base, authority))
        genesis = await services.genesis_hash(self.base)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start(services.cell(self.home, self.base, genesis)))
            group.create_task(self._money())

    async def _money(self) -> None:
        from deployments import money

        began = time.monotonic()
        self.facts = await money.prepare(self.home, services.rpc_url(self.base))
        self._done("money", time.monotonic() - began)

    async def _prefect(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start(services.prefect_server(self.home, self.base)))
            group.create_task(self._start(services.prefect_worker(self.home, self.base)))

    async def start(self) -> None:
        """Starts everything, then writes stack.json. Raises the first error."""
        check_ports(self.base)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prefect())
                group.create_task(self._chain())
        except BaseExceptionGroup as group:
            raise _first(group) from None
        self.write()

    def write(self) -> None:
        """stack.json: addresses, ids and process numbers; nothing secret."""
        document = {
            "port_base": self.base,
            "rpc_url": services.rpc_url(self.base),
            "gateway_url": services.gateway_url(self.base),
            "ca_file": str(self.home.tls / "ca.pem"),
            "program_id": PROGRAM_ID,
            "scheduler": f"tcp://127.0.0.1:{self.base + PORTS['scheduler']}",
            "dask_dashboard": services.dask_dashboard(self.base),
            "prefect_api": services.prefect_api(self.base),
            "file_roots": os.pathsep.join(str(root) for root in self.file_roots),
            **asked(),
            **self.facts,
            "start_seconds": self.spent,
            "pids": {"supervisor": os.getpid(), **{c.name: c.pid for c in self.children}},
        }
        temporary = self.home.stack.with_suffix(".tmp")
        temporary.write_text(json.dumps(document, indent=2) + "\n")
        temporary.replace(self.home.stack)

    async def watch(self) -> None:
        """Until `stopping`: starts again what died. Raises Unavailable when something keeps dying."""
        while not self.stopping.is_set():
            for child in self.children:
                if child.pid is None:
                    child.restarts = 1 if time.monotonic() - child.began > STEADY else child.restarts + 1
                    log(f"{child.name} died; start {child.restarts} of {MAX_RESTARTS}")
                    if child.restarts > MAX_RESTARTS:
                        raise Unavailable(f"{child.name} keeps dying. Fix: read {child.log}")
                    await child.start()
                    self.write()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), WATCH)

    async def stop(self) -> None:
        """Ends the children: the worker first, so that no flow sees its services disappear."""
        self.home.stack.unlink(missing_ok=True)
        await asyncio.gather(*(c.stop() for c in self.children if c.name == "prefect-worker"))
        await asyncio.gather(*(c.stop() for c in self.children))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _lifeline(stack: Stack) -> None:
    """Reads standard input: `detach` lets the stack live on alone; its end stops a stack that was not let go."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    if (await reader.readline()).strip() == b"detach":
        stack.attached = False
    else:
        stack.end("whoever started it has ended")


async def run(stack: Stack) -> None:
    """The whole life of a stack. Raises CloudLinkUpError; whatever happens, no child is left."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stack.end, number.name)
    lifeline = asyncio.create_task(_lifeline(stack))
    stopped = asyncio.create_task(stack.stopping.wait())
    starting = asyncio.create_task(stack.start())
    try:
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        await starting
        stack.say("ready", stack=json.loads(stack.home.stack.read_text()))
        await stack.watch()
    finally:
        for task in (starting, stopped, lifeline):
            task.cancel()
        await asyncio.gather(starting, stopped, lifeline, return_exceptions=True)
        await stack.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments.local", description=__doc__)
    parser.add_argument("--port-base", type=int, default=PORT_BASE)
    parser.add_argument("--file-root", type=Path, action="append", default=[])
    args = parser.parse_args()
    roots = tuple(dict.fromkeys(path.resolve() for path in (services.CHECKOUT, *args.file_root)))
    stack = Stack(Home.find(), args.port_base, roots)
    try:
        hold(stack.home)
        asyncio.run(run(stack))
    except CloudLinkUpError as error:
        stack.say("error", message=str(error), exit_code=error.exit_code, already=isinstance(error, AlreadyUp))
        log(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
