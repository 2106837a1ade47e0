"""What was planned and what happened, attempt by attempt: the record that selection and retraining learn from.

SQLAlchemy over SQLite with nothing of SQLite's own in it. A row is validated by pandera before it is stored; one that
fails goes to `quarantine` with column and rule (not the row), so that a broken writer is seen and never trained on. An
attempt is stored once: recording it again, as a flow does that was killed and started anew, changes nothing.
A store that is locked, full or broken costs a job nothing: what cannot be written is logged and left out, a record that
cannot be read is a newcomer's; who asks for whole tables gets Unavailable.
Not here: scores and money of record, which the job store and the chain hold.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import structlog
from pydantic import Field
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    case,
    cast,
    create_engine,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from cloudlinkup.errors import Unavailable
from cloudlinkup.types import Frozen
from cloudlinkup.wire.messages import Hello, Probe
from models.facts import JobFacts, TrackRecord
from models.reputation import Seen, combine

log = structlog.get_logger()

_meta = MetaData()
_id = String(200)
attempts = Table(
    "attempts",
    _meta,
    Column("job_id", _id, primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("seat", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("request_id", _id, nullable=False),
    Column("wallet", _id, nullable=False),
    Column("agent", _id, nullable=False, index=True),
    Column("device_class", Text, nullable=False),
    Column("predictor", _id, nullable=False),
    Column("version", _id, nullable=False),
    Column("predicted", Float, nullable=False),
    Column("job", Text, nullable=False),
    Column("probes", Text, nullable=False),
    Column("share", Float, nullable=False),
    Column("steps", BigInteger, nullable=False),
    Column("segments", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("bytes_up", BigInteger, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("replayed", Integer, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("score", Float),
    Column("at", Float, nullable=False, index=True),
    Column("client", _id, nullable=False, server_default=""),
    Column("evidence", String(64), nullable=False, server_default=""),
)
contributors = Table(
    "contributors",
    _meta,
    Column("agent", _id, primary_key=True),
    Column("wallet", _id, nullable=False),
    Column("device_class", Text, nullable=False),
    Column("probes", Text, nullable=False),
    Column("share", Float, nullable=False),
    Column("ask", String(20), nullable=False),
    Column("last_seen", Float, nullable=False),
)
TABLES = {table.name: table for table in (attempts, contributors)}
quarantine = Table(
    "quarantine",
    _meta,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("source", String(40), nullable=False),
    Column("row", _id, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)


class Attempt(Frozen):
    """One try at one shard. `predicted`: wall seconds per step as planned for this round; `seconds`: all of the shard,
    as the gateway saw it; `segments`, `steps`: claimed and, when accepted, verified; `price`: base units per step;
    `score`: the job's hold-out score after the round. Bounds are pandera's to check, so that a bad row is quarantined
    rather than lost in a stack trace."""

    request_id: str
    job_id: str
    round: int
    seat: int
    attempt: int
    wallet: str
    agent: str
    device_class: str
    predictor: str
    version: str
    predicted: float
    job: JobFacts
    probes: tuple[Probe, ...]
    share: float
    steps: int
    segments: int
    seconds: float
    bytes_up: int
    bytes_down: int
    outcome: str
    replayed: int = 0
    price: int = 0
    score: float | None = None
    at: Annotated[float | None, Field(description="unix seconds; None: now")] = None
    client: str = ""  # the wallet whose job it was; "": not known
    evidence: str = ""  # SHA-256 of a rejection's evidence folder: without it the rejection costs no reputation


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """The row of an attempt: job facts and probes as JSON."""
    row = attempt.model_dump(exclude={"job", "probes"})
    row["job"] = attempt.job.model_dump_json()
    row["probes"] = json.dumps([p.model_dump() for p in attempt.probes])
    row["at"] = time.time() if attempt.at is None else attempt.at
    return row


WAIT = 10.0  # seconds for another writer
_engines: dict[Path, Engine] = {}
_making = threading.Lock()


def _engine(path: Path) -> Engine:
    """One engine a file and process; connections are opened for each use, so nothing is left open."""
    path = path.resolve()
    with _making:
        if path not in _engines or not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": WAIT})
            _meta.create_all(engine)
            _add_columns(engine)
            _engines[path] = engine
        return _engines[path]


def _add_columns(engine: Engine) -> None:
    """A store that an earlier version made lacks later columns; each has a default. Does nothing where none is."""
    there = {c["name"] for c in inspect(engine).get_columns(attempts.name)}
    for column in (c for c in attempts.columns if c.name not in there):
        kind = column.type.compile(engine.dialect)
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {attempts.name} ADD COLUMN {column.name} {kind} DEFAULT '' NOT NULL"))


class Telemetry:
    """The store at one path; created when first used. Every method runs its blocking part in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def record_attempt(self, attempt: Attempt) -> bool:
        """Stores an attempt once. False when it was quarantined or the store took nothing. Again changes nothing."""
        return await asyncio.to_thread(self._store, "attempts", [attempt_row(attempt)]) == 1

    async def record_rows(self, rows: list[dict[str, Any]]) -> int:
        """Stores rows of `attempts` as they are, each validated; how many passed. For imports and tests."""
        return await asyncio.to_thread(self._store, "attempts", rows)

    async def record_contributor(self, hello: Hello, wallet: str) -> bool:
        """Remembers a connected contributor as it describes itself now."""
        row = {
            "agent": hello.agent,
            "wallet": wallet,
            "device_class": hello.hardware.device_class,
            "probes": json.dumps([p.model_dump() for p in hello.probes]),
            "share": hello.share,
            "ask": str(hello.ask),
            "last_seen": time.time(),
        }
        return await asyncio.to_thread(self._store, "contributors", [row]) == 1

    async def track_record(self, wallet: str, client: str = "") -> TrackRecord:
        """What a contributor did in all jobs, as `client` may count it (see `reputation`). It is known by its wallet:
        all its devices have one record.

        Late: lost, timed out or empty; refusals before the work cost nothing.
        """
        try:
            return combine(await asyncio.to_thread(self._seen, wallet, client), own=client)
        except Unavailable as error:
            log.warning("no record of a contributor could be read", why=str(error))
            return TrackRecord()

    async def latest(self, agent: str, most: int) -> list[dict[Hashable, Any]]:
        """The latest accepted attempts of one contributor, newest first; none where the store cannot be read."""
        accepted = (attempts.c.agent == agent) & (attempts.c.outcome == "accepted")
        query = select(attempts).where(accepted).order_by(attempts.c.at.desc()).limit(most)
        try:
            return (await asyncio.to_thread(self._frame, query)).to_dict(orient="records")
        except Unavailable as error:
            log.warning("no past work of a contributor could be read", why=str(error))
            return []

    async def longest_shards(self, job_ids: Collection[str]) -> dict[str, float]:
        """Seconds of each round's longest shard, summed over the rounds, by job; {} where the store cannot be read."""
        longest = func.max(attempts.c.seconds).label("seconds")
        rounds = select(attempts.c.job_id, longest).where(attempts.c.job_id.in_(job_ids))
        each = rounds.group_by(attempts.c.job_id, attempts.c.round).subquery()
        query = select(each.c.job_id, func.sum(each.c.seconds).label("seconds")).group_by(each.c.job_id)
        try:
            found = await asyncio.to_thread(self._frame, query)
        except Unavailable as error:
            log.warning("no past rounds could be read", why=str(error))
            return {}
        return dict(zip(found["job_id"].astype(str), found["seconds"].astype(float), strict=True))

    async def attempts(self, since: float = 0.0, most: int | None = None) -> pd.DataFrame:
        """Every attempt from `since` (unix seconds) on, or the latest `most`, oldest first. Job and probes are JSON.

        Raises Unavailable when the store cannot be read.
        """
        query = select(attempts).where(attempts.c.at >= since).order_by(attempts.c.at.desc(), attempts.c.job_id.desc())
        frame = await asyncio.to_thread(self._frame, query.limit(most))
        return frame.iloc[::-1].reset_index(drop=True)

    async def contributors(self) -> pd.DataFrame:
        """Every contributor ever seen, the latest first."""
        return await asyncio.to_thread(self._frame, select(contributors).order_by(contributors.c.last_seen.desc()))

    async def quarantined(self) -> pd.DataFrame:
        """What was refused, and why."""
        return await asyncio.to_thread(self._frame, select(quarantine).order_by(quarantine.c.id))

    # ------------------------------------------------------------ blocking halves

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        """One transaction. Raises Unavailable when the store cannot be opened, read or written."""
        try:
            with _engine(self.path).begin() as connection:
                yield connection
        except (DBAPIError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error  # without the statement and its values
            raise Unavailable(
                f"the telemetry store {self.path} cannot be used: {cause}. Fix: free its disk, or end what locks it;"
                " moved away, it is made anew"
            ) from None

    def _frame(self, query: Any) -> pd.DataFrame:
        with self._open() as connection:
            return pd.read_sql(query, connection)

    def _seen(self, wallet: str, client: str) -> list[Seen]:
        """By client. Rows without one are older than that column: this store's own jobs."""

        def count(*outcomes: str) -> Any:
            return func.sum(case((attempts.c.outcome.in_(outcomes), 1), else_=0))

        proven = case(((attempts.c.outcome == "rejected") & (attempts.c.evidence != ""), 1), else_=0)
        # in floats: a sum of integers may overflow the database's, and this is a weight, not money
        pay = case((attempts.c.outcome == "accepted", attempts.c.steps * cast(attempts.c.price, Float)), else_=0.0)
        whose = case((attempts.c.client == "", client), else_=attempts.c.client)
        query = select(
            whose,
            count("accepted", "rejected"),
            count("lost", "timeout", "empty"),
            count("accepted"),
            func.sum(proven),
            func.sum(pay),
        )
        with self._open() as connection:
            rows = connection.execute(query.where(attempts.c.wallet == wallet).group_by(whose)).all()
        return [Seen(str(row[0]), *(int(value) for value in row[1:])) for row in rows]

    def _store(self, name: str, rows: list[dict[str, Any]]) -> int:
        """How many rows passed and are stored. Those that did not pass are quarantined."""
        # pandera takes seconds to import: only who stores pays for it
        from models.schemas import ATTEMPTS, CONTRIBUTORS, bad_rows, violations

        schema = ATTEMPTS if name == "attempts" else CONTRIBUTORS
        bad = bad_rows(schema, typed(rows, name)) if rows else set()
        try:
            with self._open() as connection:
                for position, row in enumerate(rows):
                    if position not in bad:
                        _put(connection, name, row)
                        continue
                    found = violations(schema, typed([row], name))
                    reason = "; ".join(map(str, found))[:1_000] or "another row's fault"
                    key = "/".join(str(row.get(k, "")) for k in ("job_id", "round", "seat", "attempt", "agent"))[:200]
                    connection.execute(insert(quarantine).values(source=name, row=key, reason=reason, at=time.time()))
                    log.warning("telemetry row quarantined", source=name, row=key, reason=reason)
        except Unavailable as error:
            log.warning("telemetry not stored", source=name, rows=len(rows), why=str(error))
            return 0
        return len(rows) - len(bad)


def _put(connection: Connection, name: str, row: dict[str, Any]) -> None:
    """An attempt is stored once; a contributor's row is replaced."""
    try:
        with connection.begin_nested():
            connection.execute(insert(TABLES[name]), row)
    except IntegrityError:
        if name == "contributors":
            connection.execute(update(contributors).where(contributors.c.agent == row["agent"]).values(**row))


_FLOATS = {"predicted", "share", "seconds", "score", "at", "last_seen"}


def typed(rows: list[dict[str, Any]], name: str) -> pd.DataFrame:
    """Rows as a frame whose columns have the table's order; real numbers as float64."""
    frame = pd.DataFrame(rows)
    order = [c.name for c in TABLES[name].columns if c.name in rows[0]]
    frame = pd.DataFrame({c: frame[c] for c in [*order, *(c for c in rows[0] if c not in order)]})
    for real in sorted(_FLOATS & set(rows[0])):
        if all(row[real] is None or isinstance(row[real], int | float) for row in rows):
            frame[real] = np.array([np.nan if row[real] is None else row[real] for row in rows], dtype=np.float64)
    return frame
