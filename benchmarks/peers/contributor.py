"""`cloudlinkup contribute` on a machine of the benchmark: the real agent, at the machine's pace, with its fault.

The pace takes the place of the agent's duty; all else is what a contributor runs. Takes its options.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.peers.pace import Pace
from benchmarks.peers.setup import Setup, this_worker
from cloudlinkup.agent import handler
from cloudlinkup.cli.contribute import use_runner
from cloudlinkup.cli.main import run
from cloudlinkup.training.segments import SegmentRunner


class FreeRider(SegmentRunner):
    """Counts its steps and does none."""

    def step(self, index: int) -> None:
        self._steps += 1


if __name__ == "__main__":
    setup, worker = Setup.load(), this_worker()
    pace: Any = lambda share, **options: Pace(0.0 if setup.free(worker) else setup.step_seconds(worker))  # noqa: E731
    handler.Duty = pace
    if setup.free(worker):
        use_runner(FreeRider)
    sys.exit(run(["contribute", *sys.argv[1:]]))
