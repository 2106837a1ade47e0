"""Reputation: nobody's word weighs more than a tenth, nothing is held against anybody without its evidence."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.facts import JobFacts, TrackRecord
from models.reputation import (
    HALF_STANDING,
    MOST_STANDING,
    MOST_WEIGHT,
    PRIOR,
    Seen,
    capped,
    combine,
    evidence_hash,
    standing,
)
from models.selection import reliability
from models.telemetry import Attempt, Telemetry


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), max_size=30))
def test_no_other_client_weighs_more_than_a_tenth(own: int, others: list[int]) -> None:
    weights = capped(own, others)
    whole = PRIOR + own + sum(weights)
    for count, weight in zip(others, weights, strict=True):
        assert weight <= MOST_WEIGHT * whole * (1 + 1e-9)
        assert weight <= count
        assert weight == count or weight == pytest.approx(MOST_WEIGHT * whole)  # never cut further than it must be


def test_a_client_that_praises_its_own_contributor_moves_little() -> None:
    invented = combine([Seen("liar", on_time=10**6, valid=10**6, earned=10**15)], own="me")
    assert reliability(invented) < reliability(TrackRecord(on_time=1, valid=1))  # a million invented: less than one
    assert standing(invented) < MOST_STANDING  # even so its money is only a part
    mine = [Seen("me", on_time=100, valid=100, earned=10**6)]
    slandered = combine([*mine, Seen("liar", late=10**6, rejected=10**6)], own="me")
    alone = combine(mine, own="me")
    assert slandered.valid == 100 and slandered.rejected == pytest.approx(102 / 9)
    assert reliability(slandered) > 0.6 * reliability(alone)
    assert combine([], own="me") == TrackRecord()


def test_many_clients_that_agree_do_count() -> None:
    many = combine([Seen(f"c{i}", on_time=20, valid=20) for i in range(30)], own="me")
    assert many.valid == 600 and reliability(many) > 0.98


def test_standing_is_capped_grows_with_verified_pay_and_ends_with_a_rejection() -> None:
    records = [TrackRecord(valid=9, earned=e) for e in (0, 10**6, HALF_STANDING, 10**18)]
    found = [standing(r) for r in records]
    assert found == sorted(found) and found[0] == 0 and found[2] == MOST_STANDING / 2 and found[3] <= MOST_STANDING
    assert standing(TrackRecord(valid=10**6, rejected=1, earned=10**18)) == 0
    # invented earnings: at most a tenth of what others claim counts on top of one's own
    claimed = combine([Seen("me", earned=100), Seen("liar", earned=10**18)], own="me")
    assert claimed.earned <= 100 + 10**17


def attempt_of(job: JobFacts, **change: object) -> Attempt:
    base = Attempt(
        request_id="r", job_id="j", round=1, seat=0, attempt=1, wallet="w", agent="a", device_class="cpu|x",
        predictor="p", version="0", predicted=0.1, job=job, probes=job.profile.probes, share=0.5, steps=20, segments=2,
        seconds=2.5, bytes_up=1, bytes_down=2, outcome="accepted", replayed=1, price=7, score=None,
    )  # fmt: skip
    return base.model_copy(update=change)


async def test_a_rejection_counts_only_with_its_evidence(job: JobFacts, tmp_path: Path) -> None:
    store, folder = Telemetry(tmp_path / "telemetry.db"), tmp_path / "evidence"
    assert evidence_hash(folder) == ""
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"1")
    assert evidence_hash(folder) == ""  # no result.json: nothing that could be run again
    (folder / "result.json").write_text("{}")
    proof = evidence_hash(folder)
    assert len(proof) == 64
    (folder / "weights.bin").write_bytes(b"2")
    assert evidence_hash(folder) != proof
    await store.record_attempt(attempt_of(job, outcome="rejected"))
    assert (await store.track_record("w")).rejected == 0
    await store.record_attempt(attempt_of(job, outcome="rejected", round=2, evidence=proof))
    assert (await store.track_record("w")).rejected == 1
    assert not await store.record_attempt(attempt_of(job, outcome="rejected", round=3, evidence="looks bad"))


async def test_records_are_kept_by_client(job: JobFacts, tmp_path: Path) -> None:
    store = Telemetry(tmp_path / "telemetry.db")
    for number in range(40):
        await store.record_attempt(attempt_of(job, round=number, client="mine" if number < 10 else "theirs"))
    assert (await store.track_record("w", "mine")).valid == pytest.approx(10 + 12 / 9)
    assert (await store.track_record("w", "theirs")).valid == pytest.approx(30 + 32 / 9)


async def test_a_store_of_an_earlier_version_gets_the_new_columns(job: JobFacts, tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    await Telemetry(path).record_attempt(attempt_of(job))
    old = tmp_path / "old.db"

    def cut() -> None:
        with sqlite3.connect(path) as db:
            text = db.execute("SELECT sql FROM sqlite_master WHERE name = 'attempts'").fetchone()[0]
            names = [
                row[1] for row in db.execute("PRAGMA table_info(attempts)") if row[1] not in ("client", "evidence")
            ]
            rows = db.execute(f"SELECT {', '.join(names)} FROM attempts").fetchall()
        db.close()
        lines = [line for line in text.splitlines() if not line.strip().startswith(("client", "evidence"))]
        with sqlite3.connect(old) as db:
            db.execute("\n".join(lines))
            db.executemany(f"INSERT INTO attempts VALUES ({', '.join('?' * len(names))})", rows)
        db.close()

    await asyncio.to_thread(cut)
    store = Telemetry(old)
    assert (await store.track_record("w")).valid == 1
    assert await store.record_attempt(attempt_of(job, round=2, client="c"))
    assert len(await store.attempts()) == 2
