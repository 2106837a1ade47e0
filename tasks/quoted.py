"""The rows that a quote was made of: a job that was quoted here trains on those or is refused.

Kept in the home by the job's own hash, but for its goal: a job with another deadline, budget or URI is another, and one
that was never quoted is bound to nothing. The latest quote binds, so quoting again accepts rows that changed. No
Prefect in here.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home
from cloudlinkup.tables.uri import printable
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import JobSpec, canonical_json
from cloudlinkup.wire.hashes import sha256
from models.facts import JobFacts

KEEP = 30 * 86_400  # seconds
FRESH = 3_600  # seconds for which the timing of a quote is used
LEFT = 86_400  # seconds after which a quote's rows are what a killed process left


def remember_quoted(home: Home, job: JobSpec, rows: str) -> None:
    """Keeps `rows`, the hash of the rows that `job` was just quoted with (`Prepared.hash`)."""
    place = _place(home, job)
    for old in place.parent.iterdir():
        if old.stat().st_mtime < time.time() - KEEP:
            old.unlink(missing_ok=True)
    for older in place.parent.glob(f"{place.name}.*"):  # what was measured with other rows
        older.unlink(missing_ok=True)
    place.write_text(rows)


def remember_facts(home: Home, job: JobSpec, spec: TrainingSpec, facts: JobFacts) -> None:
    """Keeps what the quote measured of `job`, for a run that begins soon."""
    _facts_place(home, job, spec).write_text(facts.model_dump_json())


def quoted_facts(home: Home, job: JobSpec, spec: TrainingSpec) -> JobFacts | None:
    """What a quote of the last hour measured of `job`, so that its run need not: this machine is still what it was."""
    place = _facts_place(home, job, spec)
    try:
        if place.stat().st_mtime < time.time() - FRESH:
            return None
        return JobFacts.model_validate_json(place.read_bytes())
    except (OSError, ValueError):  # none, or of another version
        return None


def check_quoted(home: Home, job: JobSpec, rows: str) -> None:
    """Raises BadInput where these are not the rows that the job was last quoted with."""
    place = _place(home, job)
    if place.exists() and place.read_text() != rows:
        problem = "its rows are not those of the quote any more"
        raise BadInput("data.uri", printable(job.data.uri), problem, "`cloudlinkup quote` it again, or restore it")


@contextmanager
def scratch(home: Home) -> Iterator[Path]:
    """A folder for the rows of one quote, deleted with it."""
    above = home.root / "scratch"
    above.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in above.iterdir():
        if old.stat().st_mtime < time.time() - LEFT:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=above) as folder:
        yield Path(folder) / "rows"


def _facts_place(home: Home, job: JobSpec, spec: TrainingSpec) -> Path:
    return _place(home, job).with_suffix(f".{spec.hash}")


def _place(home: Home, job: JobSpec) -> Path:
    folder = home.root / "quotes"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / sha256(canonical_json(job.model_copy(update={"goal": None})))
