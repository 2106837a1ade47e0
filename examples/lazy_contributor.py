"""A contributor that cheats: it skips one optimizer step in ten and claims the pay for all of them.

    python examples/lazy_contributor.py --name lazy        (takes every option of `cloudlinkup contribute`)

Everything else is the honest agent: it acknowledges, commits and opens as asked. The audit replays a drawn segment and
finds another end state, so the round is not paid and the seat is lost. For demonstrations and tests only.
"""

from __future__ import annotations

import sys

from cloudlinkup.cli.contribute import use_runner
from cloudlinkup.cli.main import run
from cloudlinkup.training.segments import SegmentRunner

SKIPS = 10


class LazyRunner(SegmentRunner):
    """Leaves out every tenth step, and counts it all the same so that its states look whole."""

    def step(self, index: int) -> None:
        if index % SKIPS == SKIPS - 1:
            self._steps += 1
        else:
            super().step(index)


if __name__ == "__main__":
    use_runner(LazyRunner)
    sys.exit(run(["contribute", *sys.argv[1:]]))
