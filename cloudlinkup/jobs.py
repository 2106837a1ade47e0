"""The job store: what one home knows of its jobs, in SQLite (0600).

Every stage writes here *before* the effect that it describes, so that a run which dies at any instruction can be
submitted again and continues from here and from the chain. `state` and round `data` are JSON documents owned by the
flow (tasks/state.py); this module only keeps them. It holds round secrets and the job's sealing key: never copy it.
Not covered: several writers of one job (the job folder's lock keeps them out).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  request_id TEXT PRIMARY KEY, spec TEXT NOT NULL, stage TEXT NOT NULL, flow_run_id TEXT NOT NULL,
  job_id TEXT, round INTEGER NOT NULL DEFAULT 0, rounds INTEGER NOT NULL DEFAULT 0, state TEXT, error TEXT,
  receipt TEXT, created REAL NOT NULL, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (
  request_id TEXT NOT NULL, round INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (request_id, round));
CREATE TABLE IF NOT EXISTS signatures (
  request_id TEXT NOT NULL, stage TEXT NOT NULL, signature TEXT NOT NULL, PRIMARY KEY (request_id, signature));
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, request_id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_request ON events (request_id, id);
CREATE TABLE IF NOT EXISTS sponsored (wallet TEXT PRIMARY KEY, at REAL NOT NULL);
"""


@dataclass(frozen=True)
class JobView:
    """What a person or a client asks of a job. `stage` is done or failed at the end; times are unix seconds."""

    request_id: str
    stage: str
    flow_run_id: str
    job_id: str | None
    round: int
    rounds: int
    error: dict[str, Any] | None
    receipt: dict[str, Any] | None
    created: float
    updated: float

    @property
    def finished(self) -> bool:
        return self.stage in ("done", "failed")


@dataclass(frozen=True)
class JobEvent:
    """One line of a job's progress. `id` grows, so that a reader can go on from where it was."""

    id: int
    at: float
    kind: str
    data: dict[str, Any]


class JobStore:
    """Opens (and makes) the store. Cheap to open; each call is one short transaction."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        self._path = path
        with self._open() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=10)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = FULL")  # a promise about money outlives a power cut
            with db:
                yield db
        finally:
            db.close()

    # ---------------------------------------------------------------- the job

    def begin(self, request_id: str, spec: str, flow_run_id: str) -> str:
        """Registers the job, or takes up one that is there. Returns the spec it was first submitted with."""
        now = time.time()
        with self._open() as db:
            db.execute(
                "INSERT INTO jobs (request_id, spec, stage, flow_run_id, created, updated) "
                "VALUES (?, ?, 'segment', ?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET flow_run_id = "
                "excluded.flow_run_id, updated = excluded.updated",
                (request_id, spec, flow_run_id, now, now),
            )
            return db.execute("SELECT spec FROM jobs WHERE request_id = ?", (request_id,)).fetchone()["spec"]

    def save(self, request_id: str, *, stage: str, state: str, job_id: str | None, round_: int, rounds: int) -> None:
        with self._open() as db:
            db.execute(
                "UPDATE jobs SET stage = ?, state = ?, job_id = ?, round = ?, rounds = ?, updated = ?, error = NULL "
                "WHERE request_id = ?",
                (stage, state, job_id, round_, rounds, time.time(), request_id),
            )

    def state(self, request_id: str) -> str | None:
        with self._open() as db:
            row = db.execute("SELECT state FROM jobs WHERE request_id = ?", (request_id,)).fetchone()
        return row["state"] if row else None

    def finish(self, request_id: str, receipt: dict[str, Any]) -> None:
        with self._open() as db:
            db.execute(
                "UPDATE jobs SET stage = 'done', receipt = ?, updated = ? WHERE request_id = ?",
                (json.dumps(receipt), time.time(), request_id),
            )

    def fail(self, request_id: str, error: dict[str, Any], *, final: bool) -> None:
        """`final`: submitting the same request again would not help (bad input, or money already returned)."""
        with self._open() as db:
            db.execute(
                "UPDATE jobs SET error = ?, updated = ?, stage = CASE WHEN ? THEN 'failed' ELSE stage END "
                "WHERE request_id = ?",
                (json.dumps(error), time.time(), final, request_id),
            )

    # ---------------------------------------------------------------- rounds

    def save_round(self, request_id: str, round_: int, data: str) -> None:
        with self._open() as db:
            db.execute(
                "INSERT INTO rounds VALUES (?, ?, ?) "
                "ON CONFLICT (request_id, round) DO UPDATE SET data = excluded.data",
                (request_id, round_, data),
            )

    def rounds(self, request_id: str) -> list[str]:
        with self._open() as db:
            rows = db.execute("SELECT data FROM rounds WHERE request_id = ? ORDER BY round", (request_id,)).fetchall()
        return [row["data"] for row in rows]

    # ---------------------------------------------------------------- signatures, sponsored accounts

    def add_signatures(self, request_id: str, stage: str, signatures: list[str]) -> None:
        with self._open() as db:
            db.executemany(
                "INSERT OR IGNORE INTO signatures VALUES (?, ?, ?)", [(request_id, stage, s) for s in signatures]
            )

    def signatures(self, request_id: str) -> list[tuple[str, str]]:
        with self._open() as db:
            rows = db.execute(
                "SELECT stage, signature FROM signatures WHERE request_id = ? ORDER BY rowid", (request_id,)
            ).fetchall()
        return [(row["stage"], row["signature"]) for row in rows]

    def sponsored(self, wallet: str) -> bool:
        """Whether its token account was paid for: that is done once a wallet, or closing it would be a business."""
        with self._open() as db:
            return db.execute("SELECT 1 FROM sponsored WHERE wallet = ?", (wallet,)).fetchone() is not None

    def mark_sponsored(self, wallet: str) -> None:
        """Afterwards, so that a payment which failed is tried again."""
        with self._open() as db:
            db.execute("INSERT OR IGNORE INTO sponsored VALUES (?, ?)", (wallet, time.time()))

    # ---------------------------------------------------------------- reading

    def event(self, request_id: str, kind: str, **data: Any) -> None:
        with self._open() as db:
            db.execute(
                "INSERT INTO events (request_id, at, kind, data) VALUES (?, ?, ?, ?)",
                (request_id, time.time(), kind, json.dumps(data)),
            )

    def events(self, request_id: str, after: int = 0) -> list[JobEvent]:
        with self._open() as db:
            rows = db.execute(
                "SELECT id, at, kind, data FROM events WHERE request_id = ? AND id > ? ORDER BY id", (request_id, after)
            ).fetchall()
        return [JobEvent(row["id"], row["at"], row["kind"], json.loads(row["data"])) for row in rows]

    def view(self, request_id: str) -> JobView | None:
        with self._open() as db:
            row = db.execute("SELECT * FROM jobs WHERE request_id = ?", (request_id,)).fetchone()
        return _view(row) if row else None

    def list(self, limit: int = 100) -> list[JobView]:
        with self._open() as db:
            rows = db.execute("SELECT * FROM jobs ORDER BY created DESC LIMIT ?", (limit,)).fetchall()
        return [_view(row) for row in rows]


def _view(row: sqlite3.Row) -> JobView:
    return JobView(
        request_id=row["request_id"],
        stage=row["stage"],
        flow_run_id=row["flow_run_id"],
        job_id=row["job_id"],
        round=row["round"],
        rounds=row["rounds"],
        error=json.loads(row["error"]) if row["error"] else None,
        receipt=json.loads(row["receipt"]) if row["receipt"] else None,
        created=row["created"],
        updated=row["updated"],
    )
