"""The rows that a quote was made of: a job that was quoted here trains on those or is refused.

Kept in the home by the job's own hash, but for its goal: a job with another deadline, budget or URI is another, and one
that was never quoted is bound to nothing. The latest quote binds, so quoting again accepts rows that changed. No
Prefect in here.
"""

from __future__ import annotations

import time
from pathlib import Path

from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home
from cloudlinkup.tables.uri import printable
from cloudlinkup.types import JobSpec, canonical_json
from cloudlinkup.wire.hashes import sha256

KEEP = 30 * 86_400  # seconds


def remember_quoted(home: Home, job: JobSpec, prepared: bytes) -> None:
    """Keeps the hash of the rows that `job` was just quoted with."""
    place = _place(home, job)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in place.parent.iterdir():
        if old.stat().st_mtime < time.time() - KEEP:
            old.unlink(missing_ok=True)
    place.write_text(sha256(prepared))


def check_quoted(home: Home, job: JobSpec, prepared: bytes) -> None:
    """Raises BadInput where these are not the rows that the job was last quoted with."""
    place = _place(home, job)
    if place.exists() and place.read_text() != sha256(prepared):
        problem = "its rows are not those of the quote any more"
        raise BadInput("data.uri", printable(job.data.uri), problem, "`cloudlinkup quote` it again, or restore it")


def _place(home: Home, job: JobSpec) -> Path:
    return home.root / "quotes" / sha256(canonical_json(job.model_copy(update={"goal": None})))
