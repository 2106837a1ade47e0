"""Hashes and stores a shard's states in a thread of its own, while the next segment trains.

A state is 12 bytes a parameter, one a segment: hashed and written in turn with the training it took 40% of a shard of
1.1 million parameters at batch 64. hashlib and the file system both let go of Python's lock. One state at a time: a
crash loses at most the segment under way and the one before it, which are trained again.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cloudlinkup.agent.files import OrderFolder
from cloudlinkup.training.states import hash_state


@dataclass(frozen=True)
class Stored:
    """The state after `at` segments, hashed and written. `seconds`: CPU time of that."""

    at: int
    hash: bytes
    seconds: float


class StateWriter:
    """A context manager; leaving it waits for what is under way. Errors of writing come out of `last`."""

    def __init__(self, folder: OrderFolder) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="states")
        self._pending: Future[Stored] | None = None

    def put(self, at: int, state: bytes) -> None:
        """Begins to store the state after `at` segments. RuntimeError where `last` was not asked for the one before."""
        if self._pending is not None:
            raise RuntimeError("a state is still being written")
        self._pending = self._pool.submit(self._store, at, state)

    def last(self) -> Stored | None:
        """Waits for the state that was put last; None where none waits."""
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def _store(self, at: int, state: bytes) -> Stored:
        began = time.thread_time()
        hashed = hash_state(state)
        self._folder.save_state(at, state)
        return Stored(at, hashed, time.thread_time() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown()
