"""A job that begins with given weights: brought by URI and hash, checked before anything is locked, delivered on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from cloudlinkup.errors import BadInput
from cloudlinkup.sdk.delivered import write_delivery
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.types import JobSpec, parse_job
from tasks.context import Run
from tasks.initial import INITIAL
from tasks.planning import load_data
from tasks.segment import PREPARED, segment
from tests.tasks.conftest import JOB, Rig


def begins_with(run: Run, file: Path, digest: str | None = None, **more: object) -> JobSpec:
    rows = file.parent / "rows.csv"
    pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 2}).to_csv(rows, index=False)
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()
    train = {**JOB["train"], "initial": {"uri": str(file), "sha256": digest}}
    data = {"uri": str(rows), "format": "csv", "label": "y", "holdout": 0.2}
    run.prepared, run.settings = None, replace(run.settings, file_roots=(file.parent.resolve(),))
    run.job = parse_job({**JOB, "data": data, "train": train, **more})
    return run.job


def forget(path: Path) -> None:
    path.unlink()


@pytest.fixture
async def delivered(rig: Rig) -> Path:
    """weights.safetensors of a delivered folder."""
    (rig.folder / "x.safetensors").write_bytes(b"")
    job = begins_with(rig.run, rig.folder / "x.safetensors", "0" * 64)
    data = await load_data(job, rig.run.settings.file_roots, rig.folder / "first")
    flat = initial_weights(replace(data.spec, seed=99))
    write_delivery(rig.folder / "delivered", data.spec, flat, data.preprocessing, {})
    return (rig.folder / "delivered" / "weights.safetensors").rename(rig.folder / "start.safetensors")


async def test_what_a_job_delivered_is_where_the_next_begins(rig: Rig, delivered: Path):
    run = rig.run
    begins_with(run, delivered)
    await segment.fn(run)
    wanted = initial_weights(replace(run.data.spec, seed=99))
    np.testing.assert_array_equal(run.weights.published, wanted)
    forget(delivered)  # kept with the job: taken up again, it needs its source no more
    run.published = None
    await segment.fn(run)
    np.testing.assert_array_equal(run.weights.published, wanted)


async def test_every_training_of_a_search_begins_there(rig: Rig, delivered: Path):
    run = rig.run
    begins_with(run, delivered, search={"kind": "grid", "over": {"train.lr": [0.001, 0.01]}})
    await segment.fn(run)
    wanted = initial_weights(replace(run.data.spec, seed=99))
    assert len(run.trials) == 2
    for trial in run.trials:
        np.testing.assert_array_equal(trial.published.published, wanted)


@pytest.mark.parametrize("what", ["hash", "shape", "missing", "outside"])
async def test_another_file_is_refused_before_anything_is_locked(rig: Rig, delivered: Path, what: str):
    run, field = rig.run, "train.initial.uri"
    if what == "hash":
        begins_with(run, delivered, "0" * 64)
        field = "train.initial.sha256"
    elif what == "shape":
        save_file({"weights": np.zeros(3, np.float32)}, delivered)
        begins_with(run, delivered)
    elif what == "missing":
        begins_with(run, delivered)
        forget(delivered)
    else:
        begins_with(run, delivered)
        train = run.job.train.model_copy(
            update={"initial": run.job.train.initial.model_copy(update={"uri": "file:///etc/passwd"})}  # type: ignore[union-attr]
        )
        run.job = run.job.model_copy(update={"train": train})
    with pytest.raises(BadInput) as caught:
        await segment.fn(run)
    assert caught.value.field == field and run.state.stage == "segment"
    assert not (run.folder / INITIAL).exists() and (run.folder / PREPARED).exists()
