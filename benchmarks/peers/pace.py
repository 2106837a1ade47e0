"""How fast a machine is: each of its optimizer steps takes a fixed time, of which it sleeps what the step did not need.

A duty in wall time, the same for every system: a share of CPU time would make the machines faster or slower with what
else runs here, and with how much CPU time a system's step costs. A step that took too long is made up for by the next
ones, up to `BEHIND`, so that the rate holds on a busy machine.
"""

from __future__ import annotations

import threading
import time

from cloudlinkup.agent.duty import Duty

BEHIND = 0.5  # seconds


class Pace(Duty):
    """Takes the place of the agent's duty. `seconds`: of one step."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1.0)
        self.seconds, self._due = seconds, 0.0

    def start(self) -> None:
        """The first step begins now."""
        self._due = time.perf_counter()

    def pause(self, stop: threading.Event | None = None) -> float:
        """After a step: sleeps until it has taken its time. Returns the seconds slept; wakes when `stop` is set."""
        now = time.perf_counter()
        self._due = max(self._due + self.seconds, now - BEHIND)
        rest = max(0.0, self._due - now)
        if stop is None:
            time.sleep(rest)
        else:
            stop.wait(rest)
        return rest
