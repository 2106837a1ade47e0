"""The rows that a run is taken up again with: whole or not there, and the same even where the source is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.prepared import DOCUMENT, Prepared
from cloudlinkup.training.schedule import whole_text
from models.facts import ReferenceProfile
from tasks.planning import job_facts, load_data
from tasks.quoted import remember_quoted, scratch
from tasks.segment import PREPARED, segment
from tests.bigram import bigram, text_job
from tests.tasks.conftest import Rig

__all__ = ["bigram"]


def aimed(rig: Rig, name: str) -> Path:
    """The job's source, below a folder that it may name; nothing prepared yet."""
    run, path = rig.run, rig.folder / name
    run.prepared, run.settings = None, replace(run.settings, file_roots=(rig.folder.resolve(),))
    run.job = run.job.model_copy(update={"data": run.job.data.model_copy(update={"uri": str(path)})})
    return path


async def test_a_killed_preparation_is_made_anew_and_a_whole_one_kept(rig: Rig):
    run, path = rig.run, aimed(rig, "rows.csv")
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 2})
    frame.to_csv(path, index=False)
    part = run.folder / f"{PREPARED}.part"
    part.mkdir()
    (part / "features.npy").write_bytes(b"torn")  # what kill -9 leaves
    await segment.fn(run)
    assert not part.exists() and run.data.hash == Prepared.load(run.folder / PREPARED).hash
    assert not run.data.features.flags.writeable and (run.folder / PREPARED / DOCUMENT).exists()
    assert {oct(p.stat().st_mode & 0o777) for p in (run.folder / PREPARED).iterdir()} == {"0o600"}
    before, run.prepared = run.data.hash, None
    path.unlink()  # the source is gone, the run goes on
    await segment.fn(run)
    assert run.data.hash == before


async def test_a_text_that_changed_since_the_quote_is_refused(rig: Rig, bigram: None):
    run = rig.run
    path = rig.folder / "notes.txt"
    run.job = text_job(str(path))
    aimed(rig, "notes.txt")
    path.write_text("To be read, and then to be forgotten. " * 40)
    quoted = await load_data(run.job, run.settings.file_roots, rig.folder / "quoted")
    remember_quoted(run.settings.home, run.job, quoted.hash)
    path.write_text("To be read, and then to be forgotten. " * 41)
    with pytest.raises(BadInput, match="not those of the quote"):
        await segment.fn(run)
    assert not (run.folder / PREPARED).exists() and not (run.folder / f"{PREPARED}.part").exists()
    path.write_text("To be read, and then to be forgotten. " * 40)
    await segment.fn(run)
    assert run.data.spec.task == "next_token" and run.data.hash == quoted.hash
    facts = job_facts(run.job, run.data, ReferenceProfile(overhead=0.001, per_sample=1e-5), run.settings.home)
    assert facts.text and facts.kept  # so the planner makes rounds as a text takes them
    assert not whole_text(replace(run.data.spec, frozen="ab" * 32))  # adapters


def test_the_rows_of_a_quote_are_gone_with_it(rig: Rig):
    home = rig.run.settings.home
    with scratch(home) as place:
        place.mkdir()
        assert (place.parent.stat().st_mode & 0o777) == 0o700
    assert not place.parent.exists()
