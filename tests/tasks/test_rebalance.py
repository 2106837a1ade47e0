"""A round is counted once, wherever the flow is killed at its end; no clock can stop it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from models.again import AFTER
from models.correction import Correction
from models.facts import Prediction
from models.telemetry import Telemetry
from tasks.context import Run
from tasks.rebalance import rebalance, training_seconds
from tasks.rounds import _assign_rows, _plan_round, _seal_partitions
from tasks.state import Entry
from tasks.train import _begin
from tests.tasks.conftest import Rig
from tests.tasks.test_ending import PLAN


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

    def killed(_: object) -> None:
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


async def test_who_was_measured_again_in_vain_has_no_fault_and_no_mark(rig: Rig) -> None:
    run = rig.run
    first, second = await rig.train()
    run.state.plan |= {"predictor": "rank-1", "version": "0"}
    run.showing = SimpleNamespace(show=_quiet, exceptional=lambda *_: None)  # type: ignore[assignment]
    for entry in (first, second):
        entry.outcome, entry.segments, entry.commit = "empty", 0, None
    first.again, first.seconds = True, 30.0
    run.state.seat(0).waited, run.state.seat(1).waited = 2, 2
    before = Correction(**run.state.seat(0).belief)
    assert run.round is not None
    run.round.stage = "awarded"
    await rebalance.fn(run)
    again, other = (run.state.seat(s) for s in (0, 1))
    assert (again.faults, other.faults) == (0, 1)
    assert (again.waited, again.tries) == (0, 1)
    assert Correction(**again.belief).mean > before.mean, "it is at least that slow"
    frame = await Telemetry(run.settings.home.telemetry_db).attempts()
    assert list(frame["wallet"]) == [other.wallet]


async def test_rounds_without_work_are_counted_until_the_seat_is_due(rig: Rig) -> None:
    run = rig.run
    run.state.plan |= {"predictor": "rank-1", "version": "0"}
    run.showing = SimpleNamespace(show=_quiet, exceptional=lambda *_: None)  # type: ignore[assignment]
    plan = PLAN.model_copy(update={"pilot_segments": 0})
    _assign_rows(run)
    await _seal_partitions(run)
    slow = run.state.seat(1)
    slow.belief |= {"mean": 10.0, "segments": 3}
    run.state.seat(0).belief |= {"segments": 3}
    given = []
    for number in range(1, AFTER + 2):
        run.plan = _plan_round(run, plan, number, 1_000, beliefs(run), None, await rig.peers())
        given.append([(s.seat, s.again) for s in run.plan.seats])
        await _begin(run, run.plan)
        assert run.round is not None
        for entry in run.round.entries:
            entry.outcome = "lost"
        run.round.stage = "awarded"
        await rebalance.fn(run)
        run.state.seat(0).faults = 0
    assert given == [[(0, False)]] * AFTER + [[(0, False), (1, True)]]


async def _quiet(*_: object) -> None:
    pass


def beliefs(run: Run) -> dict[int, Prediction]:
    return {seat.seat: Correction(**seat.belief).prediction for seat in run.state.seats}


def test_a_time_that_is_none_is_still_above_zero() -> None:
    for seconds in (0.0, -3.0):
        entry = cast(Entry, SimpleNamespace(seconds=seconds))
        assert training_seconds(entry, 0.5) > 0


async def test_what_passed_between_two_runs_of_a_job_is_no_rounds_time(rig: Rig) -> None:
    """Else a job that crashed in its pilot would take its rounds for slow, and end itself as late."""
    run = rig.run
    run.state.worked = 7.0
    await rig.begin()
    assert run.state.round_began == 7.0
    run.save()
    again = Run(run.job, run.request_id, "after a day", run.settings, run.ledger, run.cluster)
    assert again.worked() == again.state.round_began == 7.0
    with again.timed("train"):
        assert again.worked() > 7.0
    with again.timed("segment"):
        assert 7.0 <= again.worked() == again.worked() < 8.0


async def test_stages_of_two_rounds_at_once_take_their_time_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run, now = rig.run, [0.0]
    monkeypatch.setattr("tasks.context.time.monotonic", lambda: now[0])
    with run.timed("train"):
        now[0] = 2.0
        with run.timed("verify"):
            now[0] = 5.0
            assert run.worked() == 5.0
        now[0] = 6.0
    assert run.worked() == run.state.worked == 6.0
    verify = run.timed("verify")
    verify.__enter__()
    now[0] = 7.0
    with run.timed("train"):
        now[0] = 9.0
        verify.__exit__(None, None, None)
        now[0] = 10.0
        assert run.worked() == 10.0
    assert run.worked() == 10.0 and run.state.stage_seconds == {"train": 9.0, "verify": 6.0}
