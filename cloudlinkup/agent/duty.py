"""The duty limit: how much of one device's time is offered, held step by step.

`time.thread_time` counts the CPU time of the training thread alone, so that other programs on a busy machine do not
count against the contributor. After each step the thread sleeps until used / elapsed is at most the share. What is
owed is bounded (one slow step never stalls the shard for minutes) and nothing is saved up: time that was idle for
another reason (a download, the wait for an order) buys no burst later.

With several threads, or on a GPU, no thread's CPU time tells what the device did: without a `busy_clock`, all time
between two pauses counts as busy, so the share then is of wall time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOST_OWED = 10.0  # seconds of sleep that one step can cause
_OVERSLEPT = 0.05  # seconds: a sleep that ran over is given back, and no more than this
_WORTH_SLEEPING = 0.002  # seconds: below, the scheduler's own granularity would dominate


class Duty:
    """Called after every step, in the training thread. `share` is in (0, 1]; 1 never sleeps."""

    def __init__(
        self,
        share: float,
        *,
        busy_clock: Callable[[], float] | None = time.thread_time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError("share must be above 0 and at most 1")
        self.share = share
        self._clock, self._slept = clock, 0.0
        self._wall_only = busy_clock is None
        self._busy_clock = busy_clock or (lambda: clock() - self._slept)
        self._owed = 0.0
        self._busy = self._wall = 0.0
        self._started = False

    def start(self) -> None:
        """Begins to count, in the thread that will train. Debt of an earlier shard is not carried over."""
        self._owed, self._started = 0.0, True
        self._busy, self._wall = self._busy_clock(), self._clock()

    def also(self, seconds: float) -> None:
        """Counts CPU seconds that another thread spent on this shard. Not where the share is of wall time."""
        if not self._wall_only:
            self._owed += seconds / self.share

    def pause(self, stop: threading.Event | None = None) -> float:
        """Sleeps as long as this step's work asks for; returns the seconds slept. Wakes at once when `stop` is set."""
        if not self._started:
            self.start()
        if self.share >= 1:
            return 0.0
        owed = self.owed()
        if owed < _WORTH_SLEEPING:
            return 0.0
        begun = self._clock()
        if stop is None:
            time.sleep(owed)
        else:
            stop.wait(owed)
        slept = self._clock() - begun
        self._slept += slept
        return slept

    def owed(self) -> float:
        """Seconds of sleep due now: busy time / share less the time that passed, bounded on both sides."""
        busy, wall = self._busy_clock(), self._clock()
        self._owed += (busy - self._busy) / self.share - (wall - self._wall)
        self._owed = min(max(self._owed, -_OVERSLEPT), MOST_OWED)
        self._busy, self._wall = busy, wall
        return self._owed
