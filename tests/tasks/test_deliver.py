"""What a job leaves for its client, whichever of its rounds was the last."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from cloudlinkup import load_model
from cloudlinkup.training.evaluate import score
from tasks.deliver import deliver
from tasks.rebalance import _advance, _learn, _tally
from tests.tasks.conftest import Rig


def raw_rows() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(rng.standard_normal((50, 6)), columns=[f"f{i}" for i in range(6)])


async def test_a_job_that_ended_early_delivers_what_its_rounds_trained(rig: Rig):
    run = rig.run
    entries = await rig.train()
    for entry in entries:
        entry.outcome = "accepted"
        _learn(run, entry, 0.0)
        _tally(run, entry)
    assert run.round is not None
    _advance(run, run.round)
    run.state.round, run.state.ended_early = 1, "the budget is spent: what was trained so far is delivered"
    await deliver.fn(run)
    folder = run.folder / "delivered"
    assert {p.name for p in folder.iterdir()} == {
        "weights.safetensors", "spec.json", "preprocessing.json", "metrics.json", "curve.png", "README.md",
    }  # fmt: skip
    model = load_model(folder)
    np.testing.assert_array_equal(model.weights, run.weights.published)
    assert set(model(raw_rows())) <= {"yes", "no"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == run.state.steps_done == sum(e.segments for e in entries) * 5
    assert metrics["rows"] == {"trained": 240, "held_out": 60}
    assert metrics["contributors"] == 2
    held = run.data.holdout_targets
    assert metrics["reference"]["score"] == max((held == 0).mean(), (held == 1).mean())
    card = (folder / "README.md").read_text()
    for fact in ("240 rows trained on, 60 held out", "ended early: the budget is spent", "2 contributors", "curve.png"):
        assert fact in card
    assert run.state.stage == "settle"


async def test_a_job_without_a_round_delivers_its_start_and_that_ones_score(rig: Rig):
    run = rig.run
    await deliver.fn(run)
    metrics = load_model(run.folder / "delivered").metrics
    data = run.data
    expected = score(data.spec, run.weights.published, data.holdout_features, data.holdout_targets)
    assert (metrics["metric"], metrics["score"]) == expected
    assert not (run.folder / "delivered" / "curve.png").exists()
