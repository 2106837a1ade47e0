"""What is stored, what is quarantined, and what selection reads of it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from cloudlinkup.errors import Unavailable
from cloudlinkup.wire.messages import Hardware, Hello
from models import telemetry
from models.facts import JobFacts, TrackRecord
from models.predictor import Predictor
from models.seen import slower
from models.telemetry import Attempt, Telemetry, attempt_row

Rows = Callable[..., list[dict[str, Any]]]
KEY = "11111111111111111111111111111111"


@pytest.fixture
def store(tmp_path: Path) -> Telemetry:
    return Telemetry(tmp_path / "telemetry.db")


@pytest.fixture
def attempt(job: JobFacts) -> Attempt:
    return Attempt(
        request_id="r", job_id="j", round=1, seat=0, attempt=1, wallet="w", agent="a", device_class="cpu|x",
        predictor="p", version="0", predicted=0.1, job=job, probes=job.profile.probes, share=0.5, steps=20, segments=2,
        seconds=2.5, bytes_up=1, bytes_down=2, outcome="accepted", replayed=1, price=2**40, score=None,
    )  # fmt: skip


async def test_an_attempt_is_stored_once_and_comes_back_whole(store: Telemetry, attempt: Attempt) -> None:
    assert await store.record_attempt(attempt) and await store.record_attempt(attempt)
    frame = await store.attempts()
    assert len(frame) == 1 and frame["price"].tolist() == [2**40] and frame["seconds"].tolist() == [2.5]
    assert JobFacts.model_validate_json(frame.job[0]) == attempt.job
    assert abs(float(frame["at"].iloc[0]) - time.time()) < 60
    assert (store.path.stat().st_mode & 0o077) == 0
    assert len(await store.attempts(since=time.time() + 60)) == 0


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"seconds": -1.0}, "seconds"),
        ({"predicted": 0.0}, "predicted"),
        ({"share": 1.5}, "share"),
        ({"steps": -1}, "steps"),
        ({"steps": 0}, "table"),
        ({"seconds": 1e6}, "table"),
        ({"outcome": "wonderful"}, "outcome"),
        ({"agent": ""}, "agent"),
        ({"job": "not json"}, "job"),
    ],
)
async def test_a_bad_row_is_quarantined_with_its_reason(
    store: Telemetry, attempt: Attempt, change: dict[str, Any], column: str
) -> None:
    assert await store.record_rows([attempt_row(attempt) | change]) == 0
    assert len(await store.attempts()) == 0
    kept = await store.quarantined()
    assert len(kept) == 1 and kept.reason[0].startswith(column) and kept.row[0].startswith("j/1/0/1")


async def test_the_track_record_counts_outcomes(store: Telemetry, attempt: Attempt) -> None:
    outcomes = ["accepted"] * 3 + ["rejected"] + ["lost", "timeout", "empty"] + ["refused"]
    for number, outcome in enumerate(outcomes):
        evidence = "e" * 64 if outcome == "rejected" else ""
        await store.record_attempt(
            attempt.model_copy(update={"round": number, "outcome": outcome, "evidence": evidence})
        )
    record = await store.track_record("w")
    assert (record.on_time, record.late, record.valid, record.rejected) == (4, 3, 3, 1)
    assert record.earned == 3 * 20 * 2**40
    assert (await store.track_record("nobody")).on_time == 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "WAIT", 0.05)


async def _nothing_is_stored_and_nothing_raised(store: Telemetry, attempt: Attempt, words: str) -> None:
    assert not await store.record_attempt(attempt.model_copy(update={"round": 2}))
    with capture_logs() as logs:
        assert (
            await store.record_rows([attempt_row(attempt) | {"round": 3}, attempt_row(attempt) | {"seconds": -1.0}])
            == 0
        )
    said = [line for line in logs if line["event"] == "telemetry not stored"]
    assert len(said) == 1 and words in said[0]["why"] and "Fix: " in said[0]["why"]
    assert "INSERT" not in said[0]["why"] and attempt.device_class not in said[0]["why"]  # no value of a row


async def test_a_locked_store_costs_a_flow_nothing(impatient: None, store: Telemetry, attempt: Attempt) -> None:
    assert await store.record_attempt(attempt)
    other = sqlite3.connect(store.path, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        await _nothing_is_stored_and_nothing_raised(store, attempt, "locked")
        assert await store.track_record("w") == TrackRecord() and await store.latest("a", 3) == []
        with pytest.raises(Unavailable, match="locked"):
            await store.attempts()
    finally:
        other.close()
    assert len(await store.attempts()) == 1 and (await store.track_record("w")).valid == 1


async def test_a_full_store_costs_a_flow_nothing(store: Telemetry, attempt: Attempt) -> None:
    assert await store.record_attempt(attempt)
    engine = telemetry._engine(store.path)

    @event.listens_for(engine, "connect")
    def full(connection: Any, _: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await _nothing_is_stored_and_nothing_raised(
        store, attempt.model_copy(update={"device_class": "x" * 60_000}), "full"
    )
    assert len(await store.attempts()) == 1  # it still reads


async def test_a_store_that_is_none_costs_a_flow_nothing(store: Telemetry, attempt: Attempt) -> None:
    store.path.write_bytes(b"not a database, but long enough to look like a file" * 10)
    await _nothing_is_stored_and_nothing_raised(store, attempt, "not a database")
    with pytest.raises(Unavailable, match="made anew"):
        await store.quarantined()


# ---------------------------------------------------------------- claims


def _past(rows: list[dict[str, Any]], agent: str) -> list[dict[Hashable, Any]]:
    return [{**row} for row in reversed(rows) if row["agent"] == agent]


def test_probes_that_past_shards_contradict_threefold_are_told_from_jitter(make_telemetry: Rows) -> None:
    rows = make_telemetry(lambda _, agent: (1.0, 2.5, 4.0, 0.2)[agent], jobs=4, rounds=1)
    found = [slower(Predictor.rank1(), _past(rows, f"agent-{n}")) for n in range(4)]
    assert found[:2] == [1.0, 1.0] and found[2] == pytest.approx(4.0, rel=0.1) and found[3] == 1.0
    liar = _past(rows, "agent-2")
    assert slower(Predictor.rank1(), liar[:2]) == 1.0  # too few to say
    broken = [row | {"job": "{}"} for row in liar[:2]] + [row | {"steps": 0} for row in liar[2:]]
    assert slower(Predictor.rank1(), broken) == 1.0


async def test_many_flows_write_at_once(store: Telemetry, attempt: Attempt) -> None:
    many = [attempt.model_copy(update={"seat": n}) for n in range(20)]
    assert all(await asyncio.gather(*(Telemetry(store.path).record_attempt(a) for a in many)))
    assert len(await store.attempts()) == 20


async def test_a_contributor_is_remembered_as_last_seen(store: Telemetry, attempt: Attempt) -> None:
    def hello(ask: int) -> Hello:
        hardware = Hardware(kind="cpu", name="a cpu", memory=1, threads=1, torch="2", capability="AVX2")
        return Hello(
            genesis=KEY, program=KEY, nonce="0" * 64, gateway="g", agent=KEY, sealing_key="0" * 64, sealing_expires=1,
            hardware=hardware, probes=attempt.probes, share=0.5, ask=ask, version="1",
        )  # fmt: skip

    await store.record_contributor(hello(1), "w")
    assert await store.record_contributor(hello(2**63), "w")
    frame = await store.contributors()
    assert len(frame) == 1 and frame.ask[0] == str(2**63)
