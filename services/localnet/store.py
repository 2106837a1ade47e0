"""What must survive: accounts and transactions, in one SQLite file.

One transaction's accounts, signature, logs and slot are committed together before its sender gets an answer, in WAL
mode, so a process killed at any moment loses nothing that anybody was told. (A machine that loses power may lose the
last moments: `synchronous=NORMAL`.) The file is locked while a localnet uses it.

Not covered: programs and sysvars, which are set up again at every start.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from cloudlinkup.errors import Unavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
    address BLOB PRIMARY KEY, lamports INTEGER NOT NULL, owner BLOB NOT NULL, executable INTEGER NOT NULL,
    data BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accounts_by_owner ON accounts (owner);
CREATE TABLE IF NOT EXISTS transactions (
    seq INTEGER PRIMARY KEY, signature BLOB UNIQUE NOT NULL, slot INTEGER NOT NULL, err TEXT, raw BLOB NOT NULL,
    meta TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS transactions_by_slot ON transactions (slot);
CREATE TABLE IF NOT EXISTS mentions (
    address BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (address, seq)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Landed:
    """One transaction of the chain. `err` is Solana's JSON form of the error, None when it succeeded."""

    seq: int
    signature: bytes
    slot: int
    err: Any
    raw: bytes
    meta: dict[str, Any]


class Store:
    """The database file. Raises Unavailable when it cannot be opened or another localnet has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.exists():  # block hashes follow from a secret in it
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=2.0)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"cannot use {path}: {error}. Fix: is another localnet using it?") from None

    def close(self) -> None:
        self._db.close()

    def copy_to(self, path: Path) -> None:
        """The whole database as one file, renamed into place when it is complete."""
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        copy = sqlite3.connect(part)
        try:
            self._db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, that can be opened without its log
        finally:
            copy.close()
        part.replace(path)

    def copy_from(self, path: Path) -> None:
        """Replaces everything by a copy of this same chain, in one step. Raises Unavailable for any other file."""
        if not path.exists():
            raise Unavailable(f"there is no snapshot {path.name}")
        copy = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            genesis = copy.execute("SELECT value FROM meta WHERE name = 'genesis'").fetchone()
            if genesis is None or genesis[0] != self.get("genesis"):
                raise Unavailable(f"{path.name} is a snapshot of another chain")
            copy.backup(self._db)
        except sqlite3.Error as error:
            raise Unavailable(f"{path.name} is no snapshot ({error})") from None
        finally:
            copy.close()

    # ------------------------------------------------------------ small facts

    def get(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def put(self, **facts: Any) -> None:
        """Writes facts together."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write_facts(facts)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _write_facts(self, facts: dict[str, Any]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(facts.items()))

    # ------------------------------------------------------------ transactions

    def land(
        self,
        *,
        signature: bytes,
        slot: int,
        err: Any,
        raw: bytes,
        meta: dict[str, Any],
        mentions: Iterable[bytes],
        changed: Iterable[tuple[Pubkey, Account | None]],
        facts: dict[str, Any],
    ) -> None:
        """Commits one transaction with everything it changed. None for an account means that it is gone."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            for address, account in changed:
                if account is None:
                    db.execute("DELETE FROM accounts WHERE address = ?", (bytes(address),))
                else:
                    db.execute(
                        "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?)",
                        # lamports fit: a chain's supply is far below 2**63
                        (bytes(address), account.lamports, bytes(account.owner), account.executable, account.data),
                    )
            seq = db.execute(
                "INSERT INTO transactions (signature, slot, err, raw, meta) VALUES (?, ?, ?, ?, ?)",
                (signature, slot, None if err is None else json.dumps(err), raw, json.dumps(meta)),
            ).lastrowid
            db.executemany("INSERT OR IGNORE INTO mentions VALUES (?, ?)", [(key, seq) for key in mentions])
            self._write_facts(facts)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def status(self, signature: bytes) -> tuple[int, Any] | None:
        """(slot, err) of a transaction."""
        row = self._db.execute("SELECT slot, err FROM transactions WHERE signature = ?", (signature,)).fetchone()
        return None if row is None else (row[0], None if row[1] is None else json.loads(row[1]))

    def transaction(self, signature: bytes) -> Landed | None:
        row = self._db.execute("SELECT * FROM transactions WHERE signature = ?", (signature,)).fetchone()
        return None if row is None else _landed(row)

    def in_slot(self, slot: int) -> list[Landed]:
        rows = self._db.execute("SELECT * FROM transactions WHERE slot = ? ORDER BY seq", (slot,))
        return [_landed(row) for row in rows]

    def count(self) -> int:
        return self._db.execute("SELECT count(*) FROM transactions").fetchone()[0]

    def mentioning(
        self, address: bytes, *, most: int, newest_slot: int, before: bytes | None, until: bytes | None
    ) -> list[Landed]:
        """Newest first, up to `most`; `before` and `until` are signatures, both exclusive."""

        def seq_of(signature: bytes | None, otherwise: int) -> int:
            if signature is None:
                return otherwise
            row = self._db.execute("SELECT seq FROM transactions WHERE signature = ?", (signature,)).fetchone()
            return otherwise if row is None else row[0]

        rows = self._db.execute(
            "SELECT t.* FROM mentions m JOIN transactions t ON t.seq = m.seq WHERE m.address = ? AND m.seq < ?"
            " AND m.seq > ? AND t.slot <= ? ORDER BY m.seq DESC LIMIT ?",
            (address, seq_of(before, 2**62), seq_of(until, -1), newest_slot, most),
        )
        return [_landed(row) for row in rows]

    # ------------------------------------------------------------ accounts

    def accounts(self) -> Iterator[tuple[Pubkey, Account]]:
        """Every account that a transaction ever touched and that still exists."""
        for address, lamports, owner, executable, data in self._db.execute("SELECT * FROM accounts"):
            yield Pubkey.from_bytes(address), Account(lamports, data, Pubkey.from_bytes(owner), bool(executable), 0)

    def owned_by(
        self, owner: bytes, sizes: list[int], matches: list[tuple[int, bytes]]
    ) -> list[tuple[Pubkey, Account]]:
        """Accounts of a program whose data has that length and those bytes at those offsets."""
        sql, values = "SELECT * FROM accounts WHERE owner = ?", [owner]
        for size in sizes:
            sql += " AND length(data) = ?"
            values.append(size)  # type: ignore[arg-type]
        for offset, part in matches:
            sql += " AND substr(data, ?, ?) = ?"
            values += [offset + 1, len(part), part]  # type: ignore[list-item]
        return [
            (Pubkey.from_bytes(row[0]), Account(row[1], row[4], Pubkey.from_bytes(row[2]), bool(row[3]), 0))
            for row in self._db.execute(sql, values)
        ]


def _landed(row: tuple[Any, ...]) -> Landed:
    seq, signature, slot, err, raw, meta = row
    return Landed(seq, signature, slot, None if err is None else json.loads(err), raw, json.loads(meta))
