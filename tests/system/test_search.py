"""A search of independent trainings, through every process there is, held against the chain and what is delivered."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from cloudlinkup.sdk.delivered import load_model
from tests.conftest import ROOT
from tests.system.test_faults import held, paid_by_the_step

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def test_a_grid_is_trained_halved_paid_and_its_best_delivered(site: Site, tmp_path: Path) -> None:
    allow = site.wallets("one", "two")
    search = {"kind": "grid", "over": {"train.lr": [1e-6, 0.003, 0.01]}, "halving": {"eta": 2, "rungs": 1}}
    job = site.job(allow, samples=6_400, search=search | {"deliver": "best"})
    before, had = asyncio.run(held(site, allow))
    receipt = site.submit(job).receipt()

    paid_by_the_step(site, receipt)
    after, have = asyncio.run(held(site, allow))
    assert before - after == int(receipt["paid"]) + int(receipt["fee"])
    for line in receipt["contributors"]:
        assert have[line["wallet"]] - had[line["wallet"]] == int(line["paid"])
    state = site.state(receipt["request_id"])
    assert state is not None
    states = [trial.state for trial in state.trials]
    assert states[0] == "stopped" and "done" in states[1:], "nothing learns at a rate of 0.000001"
    assert sum(trial.done for trial in state.trials) == sum(line["accepted"] for line in receipt["contributors"]) * int(
        state.plan["segment_steps"]
    )
    folder = tmp_path / "model"
    done = site.stack.call("download", receipt["request_id"], "--to", str(folder), "--json")
    assert {"weights.safetensors", "trials.csv", "trials.png"} <= set(json.loads(done.stdout)["files"])
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == states
    table = pd.read_parquet(ROOT / "examples/digits/digits.parquet")
    right = load_model(folder).predict(table.drop(columns="digit")) == table["digit"].to_numpy()
    assert right.mean() > 0.7
