"""Other tables than the digits: from a file by `init`, `submit` and `download` to predictions on its raw rows.

Two data sets that scikit-learn ships (a binary classification from Parquet, a regression from CSV), and one table made
here with a text label, categories and gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

import cloudlinkup

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def cancer() -> pd.DataFrame:
    return load_breast_cancer(as_frame=True).frame  # type: ignore[union-attr]


def diabetes() -> pd.DataFrame:
    return load_diabetes(as_frame=True).frame  # type: ignore[union-attr]


def mixed() -> pd.DataFrame:
    """600 rows: the label follows a category and a number, and a tenth of either is missing."""
    dice = np.random.default_rng(3)
    colour, size = dice.choice(["red", "green", "blue"], 600), dice.normal(size=600)
    label = np.where((colour == "red") | (size > 0.5), "keep", "drop")
    frame = pd.DataFrame({"colour": colour, "size": size, "noise": dice.normal(size=600), "verdict": label})
    for column in ("colour", "size"):
        frame.loc[dice.choice(600, 60, replace=False), column] = None
    return frame


@dataclass(frozen=True)
class Table:
    """A table, how it is stored, and the score that its job has to reach on rows that it did not see."""

    make: Callable[[], pd.DataFrame]
    suffix: str
    label: str
    task: str
    samples: int
    least: float


TABLES = {
    "cancer": Table(cancer, "parquet", "target", "classification", 9_600, 0.85),
    "diabetes": Table(diabetes, "csv", "target", "regression", 12_800, 0.25),
    "mixed": Table(mixed, "csv", "verdict", "classification", 9_600, 0.7),
}


@pytest.fixture(scope="module")
def trained(site: Site) -> dict[str, dict[str, Any]]:
    """All three, submitted at once: receipts by name."""
    running = {}
    for name, table in TABLES.items():
        path, job = site.stack.rows / f"{name}.{table.suffix}", site.folder / f"{name}.json"
        frame = table.make()
        frame.to_csv(path, index=False) if table.suffix == "csv" else frame.to_parquet(path)
        done = site.stack.call("init", str(path), "--label", table.label, "--out", str(job), "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(job.read_text())
        assert (document["task"], document["data"]["format"]) == (table.task, table.suffix)
        document["train"]["samples"], document["model"]["hidden"] = table.samples, [16]
        document["contributors"] = {"max": 2, "allow": site.wallets("one", "two")}
        running[name] = site.submit(document)
    return {name: one.receipt() for name, one in running.items()}


@pytest.mark.parametrize("name", TABLES)
def test_it_is_trained_paid_and_predicts_raw_rows(
    site: Site, trained: dict[str, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    table, receipt = TABLES[name], trained[name]
    assert receipt["settled"]
    assert int(receipt["budget"]) == sum(int(receipt[key]) for key in ("paid", "fee", "refunded"))
    assert int(receipt["paid"]) > 0
    assert receipt["score"] > table.least, receipt["metric"]
    done = site.stack.call("download", receipt["request_id"], "--to", str(tmp_path / "model"), "--json")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(site.stack.rows / f"{name}.csv") if table.suffix == "csv" else table.make()
    guessed = cloudlinkup.predict(tmp_path / "model", frame.drop(columns=table.label))
    truth = frame[table.label].to_numpy()
    if table.task == "classification":
        assert set(guessed) <= set(truth), "labels come back in their own words"
        assert (guessed == truth).mean() > table.least
    else:
        assert 1 - ((guessed - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum() > table.least
    command = site.stack.call(
        "predict", str(tmp_path / "model"), str(site.stack.rows / f"{name}.{table.suffix}"), "--json"
    )
    assert len(json.loads(command.stdout)) == len(frame)
