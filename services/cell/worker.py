"""A contributor as a Dask worker in the gateway's own process: it waits for its channel and computes nothing.

Not covered: transport and protocol (`channel.py`). No byte of a contributor's reaches Dask but inside a CallResult.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar
from typing import Any, Protocol

from distributed import Worker

from cloudlinkup.cluster.shard import Contributor

# A training call takes the device (a Dask resource) alone; the others are short and must not wait behind it.
CALLS_AT_ONCE = 4
HEARTBEAT = 30.0  # seconds; the scheduler's ttl is ten of them. A lost channel closes the worker long before.
LINGER = 1.0  # seconds for the scheduler to fetch results that are already here
_USELESS = ("tick", "ticks", "monitor", "find-missing", "profile", "profile-cycle")  # shards have no dependencies

current_key: ContextVar[str] = ContextVar("current_key", default="")  # Dask's key of the call being awaited


class Held(Contributor, Protocol):
    def abandon(self, key: str) -> None:
        """The flow gave up the call with this Dask key."""
        ...


class LeanWorker(Worker):
    """`device`: "CPU" or "GPU". `contributor` is what `cluster.shard.call` finds."""

    def __init__(self, scheduler: str, name: str, device: str, contributor: Held, scratch: str) -> None:
        super().__init__(
            scheduler,
            name=name,
            nthreads=CALLS_AT_ONCE,
            resources={device: 1},
            memory_limit=0,
            executor="offload",
            dashboard=False,
            extensions={},
            heartbeat_interval=f"{HEARTBEAT:g}s",
            local_directory=scratch,
        )
        self.contributor = contributor
        for callback in _USELESS:
            self.periodic_callbacks.pop(callback, None)
        free = self.stream_handlers["free-keys"]

        def free_keys(**message: Any) -> None:
            for key in message["keys"]:
                contributor.abandon(key)
            free(**message)

        self.stream_handlers["free-keys"] = free_keys

    def start_http_server(self, *args: Any, **options: Any) -> None:
        """None: a worker of ours has nothing to show that the scheduler's dashboard does not."""

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        token = current_key.set(str(key))
        try:
            return await super().execute(key, stimulus_id=stimulus_id)
        finally:
            current_key.reset(token)

    async def heartbeat(self) -> None:
        await super().heartbeat()  # the scheduler's answer sets a period of its own
        if (beat := self.periodic_callbacks.get("heartbeat")) is not None:
            beat.callback_time = HEARTBEAT * 1_000

    async def leave(self, linger: float = LINGER) -> None:
        """Closes the worker, once the results it holds were fetched or `linger` seconds have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(linger):
                while self.data or self.active_keys:  # noqa: ASYNC110 (Dask has no event for it)
                    await asyncio.sleep(0.02)
        for callback in self.periodic_callbacks.values():
            callback.stop()  # a heartbeat in the middle of closing logs a traceback
        await self.close(timeout=2, executor_wait=False, nanny=False, reason="contributor left")
