"""A round is counted once, wherever the flow is killed at its end; no clock can stop it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from models.telemetry import Telemetry
from tasks.rebalance import rebalance, training_seconds
from tasks.state import Entry
from tests.tasks.conftest import Rig


class _Killed(BaseException):
    pass


async def test_a_kill_between_the_two_writes_counts_no_fault_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rig.run
    entries = await rig.train()
    for entry in entries:
        entry.outcome, entry.segments = "timeout", 0
    run.state.plan |= {"predictor": "rank-1", "version": "0"}
    round_ = run.round
    assert round_ is not None

    def killed() -> None:
        raise _Killed

    monkeypatch.setattr(run, "save_round", killed)
    counts = []
    for _ in range(3):  # the job's state is saved, the round's end never
        with pytest.raises(_Killed):
            await rebalance.fn(run)
        run.round, round_.stage = round_, "awarded"
        faults = [run.state.seat(entry.seat).faults for entry in entries]
        counts.append((faults, run.state.empty_rounds, run.state.bytes_up))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][:2] == ([1] * len(entries), 1)
    frame = await Telemetry(run.settings.home.telemetry_db).attempts()
    assert sorted(frame["outcome"]) == ["timeout"] * len(entries)


def test_a_time_that_is_none_is_still_above_zero() -> None:
    for seconds in (0.0, -3.0):
        entry = cast(Entry, SimpleNamespace(seconds=seconds))
        assert training_seconds(entry, 0.5) > 0
