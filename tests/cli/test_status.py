"""Where a job is: its place in the queue with the reason, how long it may still take, quoted against actual."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cloudlinkup.cli.jobs import planned_seconds, seconds_left
from cloudlinkup.jobs import JobEvent, JobStore
from tests.cli.test_commands import RECEIPT, REQUEST

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def test_a_waiting_job_shows_its_place_and_why_until_it_starts(cli: Cli, tmp_path: Path) -> None:
    store = JobStore(tmp_path / "home" / "jobs.db")
    store.begin(REQUEST, "{}", "run")
    assert cli("status", REQUEST, "--json").document["waiting"] is None
    store.event(REQUEST, "queued", place=3, of=5, reason="priority 0.5")
    store.event(REQUEST, "queued", place=2, of=4, reason="priority 0.612 = 0.40 x ...")
    waiting = cli("status", REQUEST, "--json").document["waiting"]
    assert waiting == {"place": 2, "of": 4, "reason": "priority 0.612 = 0.40 x ..."}
    for words in (["status"], ["status", REQUEST]):
        assert "place 2 of 4: priority 0.612" in " ".join(cli(*words).out.split())
    store.begin(REQUEST, "{}", "run")  # the run has started
    assert cli("status", REQUEST, "--json").document["waiting"] is None


def test_seconds_left_follow_the_rounds() -> None:
    def event(at: float, kind: str, **data: int) -> JobEvent:
        return JobEvent(int(at), at, kind, data)

    begun = [event(0, "allocated"), event(10, "locked")]
    assert seconds_left(begun, 11) is None
    first = [*begun, event(30, "round", steps=100, of=400)]
    assert seconds_left(first, 30) == pytest.approx(60)
    assert seconds_left([*first, event(40, "round", steps=300, of=400)], 45) == pytest.approx(5)
    assert seconds_left(first, 1) == pytest.approx(60)  # a clock that ran backwards
    assert seconds_left(first, 10**6) == 0
    assert seconds_left([*begun, event(30, "round", steps=0, of=400)], 30) is None


def test_a_running_job_shows_what_its_plan_expects_now(cli: Cli, tmp_path: Path) -> None:
    def event(at: float, kind: str, **data: float) -> JobEvent:
        return JobEvent(int(at), at, kind, data)

    quoted = [event(0, "allocated", p50_seconds=100.0, p90_seconds=140.0)]
    assert planned_seconds(quoted, 5) is None, "nothing is locked"
    begun = [*quoted, event(10, "locked")]
    assert planned_seconds(begun, 30) == (80, 120)
    search = [*begun, event(40, "round", steps=1, of=4)]
    assert planned_seconds(search, 50) is None, "its pace says more by now"
    later = [*search, event(41, "estimate", p50_seconds=50.0, p90_seconds=70.0), event(60, "round", steps=2, of=4)]
    assert planned_seconds(later, 61) == (30, 50)
    assert planned_seconds(later, 1) == (50, 70)  # a clock that ran backwards
    assert planned_seconds(later, 10**6) == (0, 0)

    store = JobStore(tmp_path / "home" / "jobs.db")
    store.begin(REQUEST, "{}", "run")
    store.event(REQUEST, "locked")
    store.event(REQUEST, "estimate", p50_seconds=1_000.0, p90_seconds=2_000.0)
    document = cli("status", REQUEST, "--json").document
    assert 0 < document["seconds_left"] <= 1_000 < document["seconds_left_p90"] <= 2_000
    assert "s at P90)" in " ".join(cli("status", REQUEST).out.split())


def test_the_receipt_compares_what_was_quoted_with_what_it_took(cli: Cli, tmp_path: Path) -> None:
    store = JobStore(tmp_path / "home" / "jobs.db")
    store.begin(REQUEST, "{}", "run")
    store.finish(REQUEST, RECEIPT)
    text = " ".join(cli("status", REQUEST).out.split())
    assert "it took 12.5 s, 1.25 times the P50 and within the P90, and cost 3.075" in text
