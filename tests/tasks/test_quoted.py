"""A source that changes between the quote and the run: refused by *segment*, before anything is locked."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cloudlinkup.errors import BadInput
from tasks.planning import load_data
from tasks.quoted import FRESH, quoted_facts, remember_facts, remember_quoted
from tasks.segment import FACTS, PREPARED, segment, stored_facts
from tests.tasks.conftest import Rig


async def test_rows_that_changed_since_the_quote_lock_nothing(rig: Rig):
    run, path = rig.run, rig.folder / "rows.csv"
    run.prepared, run.settings = None, replace(run.settings, file_roots=(rig.folder.resolve(),))
    run.job = run.job.model_copy(update={"data": run.job.data.model_copy(update={"uri": str(path)})})
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 2})
    frame.to_csv(path, index=False)
    quoted = await load_data(run.job, run.settings.file_roots, rig.folder / "quoted")
    remember_quoted(run.settings.home, run.job, quoted.hash)
    frame.assign(x=frame["x"] ** 2).to_csv(path, index=False)
    with pytest.raises(BadInput, match="not those of the quote"):
        await segment.fn(run)
    assert not (run.folder / PREPARED).exists()
    assert run.state.stage == "segment"  # which is before anything is opened on chain
    frame.to_csv(path, index=False)
    await segment.fn(run)
    assert run.state.stage == "allocate"


async def test_a_run_that_begins_soon_takes_the_quotes_timing(rig: Rig):
    run = rig.run
    path = rig.folder / "rows.csv"
    pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 2}).to_csv(path, index=False)
    run.job = run.job.model_copy(update={"data": run.job.data.model_copy(update={"uri": str(path)})})
    run.settings = replace(run.settings, file_roots=(rig.folder.resolve(),))
    (run.folder / FACTS).unlink()
    await segment.fn(run)
    measured = stored_facts(run)
    quoted = measured.model_copy(update={"samples": measured.samples + 1})  # to be told from one measured here
    remember_facts(run.settings.home, run.job, run.data.spec, quoted)
    (run.folder / FACTS).unlink()
    await segment.fn(run)
    assert stored_facts(run) == quoted
    other = replace(run.data.spec, batch=run.data.spec.batch + 1)
    assert quoted_facts(run.settings.home, run.job, other) is None, "another spec is another step"
    (place,) = (run.settings.home.root / "quotes").glob(f"*.{run.data.spec.hash}")
    os.utime(place, (time.time(), time.time() - FRESH - 1))
    assert quoted_facts(run.settings.home, run.job, run.data.spec) is None, "too old"
    place.write_text("{}")
    assert quoted_facts(run.settings.home, run.job, run.data.spec) is None, "of another version"
