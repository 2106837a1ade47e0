"""The digits example is what it says, and rounds over unequal contributors learn it."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from benchmarks.digits_quality import SPLITS, digits_job, paired, train_in_rounds, with_seed
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.tables.read import read_table
from cloudlinkup.training.evaluate import score

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def table():
    job = digits_job()
    return await read_table(job.data.model_copy(update={"uri": f"file://{ROOT}/{job.data.uri}"}), (ROOT,))


async def test_the_file_is_scikit_learns_digits(table):
    x, y = load_digits(return_X_y=True)
    assert list(table.columns) == [f"p{k:02d}" for k in range(64)] + ["digit"]
    np.testing.assert_array_equal(table.drop(columns="digit").to_numpy(), x)
    np.testing.assert_array_equal(table["digit"], y)
    content = (ROOT / "examples/digits/digits.parquet").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "534bb702b2b8b72b9f760abb59330cc3478c20455be4be4a0cc4c3755002aae2"


async def test_rounds_over_unequal_contributors_learn_it(table: pd.DataFrame):
    job = with_seed(digits_job(), 11)
    data = prepare(table, job)
    weights, rounds, sent = train_in_rounds(data, job.train.samples, SPLITS[100])
    assert rounds == 10
    assert score(data.spec, weights, data.holdout_features, data.holdout_targets)[1] > 0.94
    assert 8 * len(weights) * 4_000 / sent > 700
    again, _, _ = train_in_rounds(data, job.train.samples, SPLITS[100])
    assert again.tobytes() == weights.tobytes()


def test_paired_interval():
    gap, half = paired([0.91, 0.93, 0.95], [0.90, 0.92, 0.93])
    assert gap == pytest.approx(4 / 3) and half == pytest.approx(4.303 * 0.57735 / 3**0.5, rel=1e-3)
