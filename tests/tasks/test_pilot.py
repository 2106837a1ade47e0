"""`train.lr: "auto"` from the job to the quote: chosen once, kept, shown, refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.model_spec import HuggingFaceSpec
from cloudlinkup.training.pilot import RATES
from cloudlinkup.types import parse_job
from tasks.pilot import settle_rate
from tasks.planning import load_data
from tests.tasks.conftest import JOB, Rig
from tests.training.tiny_language_models import document


def auto(rig: Rig):
    return parse_job({**JOB, "train": {**JOB["train"], "lr": "auto"}})


async def test_it_is_chosen_once_and_kept(rig: Rig, tmp_path: Path, monkeypatch) -> None:
    kept = tmp_path / "rate.json"
    data, found = await settle_rate(auto(rig), rig.run.data, kept)
    assert data.spec.lr in RATES and min(found.values()) == found[f"{data.spec.lr:g}"]
    np.testing.assert_array_equal(data.features, rig.run.data.features)
    again, quoted = await settle_rate(auto(rig), rig.run.data)  # as a quote does
    assert (again.spec, quoted) == (data.spec, found)
    monkeypatch.setattr("tasks.pilot.pilot_losses", lambda *_: pytest.fail("it is not done twice"))
    resumed, same = await settle_rate(auto(rig), rig.run.data, kept)
    assert (resumed.spec, same) == (data.spec, found)


async def test_a_rate_that_is_named_costs_nothing(rig: Rig, monkeypatch) -> None:
    monkeypatch.setattr("tasks.pilot.pilot_losses", lambda *_: pytest.fail("nobody asked for it"))
    data, found = await settle_rate(rig.run.job, rig.run.data)
    assert data is rig.run.data and found == {}


async def test_where_it_cannot_choose_it_says_so(rig: Rig) -> None:
    base = {"uri": "base/model.safetensors", "sha256": "ab" * 32}
    model = {"kind": "huggingface", "config": document("qwen2"), "lora": {"rank": 2}, "weights": base}
    based = auto(rig).model_copy(update={"model": HuggingFaceSpec.model_validate(model)})
    with pytest.raises(BadInput, match="those of a base"):
        await settle_rate(based, rig.run.data)
    wild = replace(rig.run.data, features=np.full_like(rig.run.data.features, 1e38))
    with pytest.raises(BadInput, match="diverges"):
        await settle_rate(auto(rig), wild)


@pytest.mark.parametrize("value", [0, -1, 1.5, "fast", None, True, float("nan"), [0.1]])
def test_another_rate_is_refused_by_name(value: object) -> None:
    with pytest.raises(BadInput, match=r"train\.lr = "):
        parse_job({**JOB, "train": {**JOB["train"], "lr": value}})


async def test_rows_are_prepared_before_the_rate_is_known(rig: Rig, tmp_path: Path) -> None:
    """So that the rows' hash, which a quote is held to, does not hang on the machine that chose."""
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,y\n" + "".join(f"{i},{i % 7},{'no' if i % 3 else 'yes'}\n" for i in range(60)))
    job = auto(rig)
    job = job.model_copy(update={"data": job.data.model_copy(update={"uri": str(rows)})})
    data = await load_data(job, (tmp_path,), tmp_path / "rows")
    assert data.spec.lr == job.train.rate == 0.01
