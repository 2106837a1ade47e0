"""One child process of the local stack: start it, wait until it answers, start it again when it dies, end it.

Every child leads its own process group, logs to one file, and is told by the kernel to die with the supervisor
(`child.py`). Not covered: what a child should do; `local.py` decides that.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloudlinkup.errors import Unavailable

LAUNCHER = Path(__file__).with_name("child.py")
POLL = 0.05  # seconds between two health checks
CHECK_TIMEOUT = 2.0  # seconds for one of them
LOG_LIMIT = 20_000_000  # bytes; a longer log is set aside once, as NAME.log.old

Check = Callable[[], Awaitable[bool]]


@dataclass
class Child:
    """A service. `healthy` answers whether it serves; `deadline` is how long that may take, in seconds."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    healthy: Check
    deadline: float
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL
    restarts: int = 0
    began: float = 0.0
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    async def start(self) -> float:
        """Starts it and waits until it is healthy. Returns the seconds that took.

        Raises Unavailable when it exits, or does not answer in time.
        """
        began = self.began = time.monotonic()
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.old"))
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-S",
                str(LAUNCHER),
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=dict(self.env),
                cwd=self.cwd,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        while time.monotonic() - began < self.deadline:
            if self.process.returncode is not None:
                raise Unavailable(
                    f"{self.name} stopped while starting (exit {self.process.returncode}). Fix: read {self.log}"
                )
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(CHECK_TIMEOUT):
                    if await self.healthy():
                        return time.monotonic() - began
            await asyncio.sleep(POLL)
        raise Unavailable(f"{self.name} did not answer within {self.deadline:.0f} s. Fix: read {self.log}")

    async def stop(self) -> None:
        """Asks it to end, then makes it, and whatever is left of its process group."""
        if (process := self.process) is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.grace):
                    await process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.returncode is None else None


async def connects(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens there: a cheap look before a request. Raises OSError when nothing does."""
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    return True
