"""One torch thread setting at a time in a process.

The number of threads is part of a device class: another number rounds sums in another order. torch's setting belongs
to the whole process, so whoever needs another one waits here until nobody computes under the present one. That takes
effect between segments; it costs microseconds when everybody asks for the same number.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_change = threading.Condition()
_users = 0
_threads = 0


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Holds torch at this many threads. Not re-entrant. Raises ValueError for fewer than 1."""
    global _users, _threads  # noqa: PLW0603 - the thing guarded is process-wide too
    if threads < 1:
        raise ValueError("at least one thread is needed")
    with _change:
        _change.wait_for(lambda: _users == 0 or _threads == threads)
        torch.set_num_threads(threads)  # also when the number stands: OpenMP keeps one for each calling thread
        _users, _threads = _users + 1, threads
    try:
        yield
    finally:
        with _change:
            _users -= 1
            if _users == 0:
                _change.notify_all()
