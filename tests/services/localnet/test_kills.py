"""kill -9 at random moments, three times; `python -m benchmarks.localnet_kill --times 50` is the long run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.localnet_kill import run


async def test_nothing_confirmed_is_lost_and_nothing_runs_twice(tmp_path: Path) -> None:
    tally = await run(3, 7, tmp_path)
    assert tally.kills == 3 and tally.answered >= 3 and tally.confirmed > 0
    assert (tally.lost, tally.twice) == (0, 0)
