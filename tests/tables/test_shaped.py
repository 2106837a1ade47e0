"""Rows for networks with a shape: every column keeps its place, and an embedding sees the numbers as they stand."""

import numpy as np
import pandas as pd
import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.tables.recipe import Preprocessing
from cloudlinkup.types import parse_job


def job(model: dict, **train):
    return parse_job(
        {
            "version": 1,
            "data": {"uri": "t.csv", "format": "csv", "label": "y", "holdout": 0.25},
            "task": "classification",
            "model": model,
            "train": {"samples": 100, **train},
            "budget": "1",
            "deadline": "2035-01-01T00:00:00Z",
        }
    )


@pytest.fixture
def images() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 16, (60, 16)).astype(np.float64)
    pixels[:, [0, 5]] = 7.0  # the corners of small images never vary
    return pd.DataFrame(pixels, columns=[f"p{k}" for k in range(16)]).assign(y=rng.integers(0, 3, 60))


CNN = {"kind": "cnn", "input": [1, 4, 4], "channels": [2], "hidden": []}


def test_a_pixel_that_does_not_vary_keeps_its_place(images: pd.DataFrame):
    found = prepare(images, job(CNN))
    assert found.spec.inputs == 16 and (found.features[:, [0, 5]] == 0).all()
    assert found.features[:, 1].std() == pytest.approx(1, abs=1e-3)
    assert prepare(images, job({"kind": "mlp"})).spec.inputs == 14
    again = images.drop(columns="y").assign(p5=9.0)  # later it does vary
    assert isinstance(found.preprocessing, Preprocessing)
    assert (found.preprocessing.features(again)[:, 5] == 2).all()


def test_an_embedding_takes_the_numbers_as_they_stand(images: pd.DataFrame):
    layers = [{"type": "embedding", "words": 16, "width": 3}, {"type": "global_pool"}]
    found = prepare(images, job({"kind": "sequential", "input": [16], "layers": layers}))
    assert set(np.unique(found.features)) <= set(range(16)) and (found.features[:, 0] == 7).all()


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (CNN | {"input": [1, 8, 8]}, "model.input"),
        ({"kind": "sequential", "input": None, "layers": [{"type": "linear", "out": 8_192}] * 2}, "model"),
    ],
)
def test_a_model_that_does_not_fit_the_table_is_refused_by_field(images: pd.DataFrame, model: dict, field: str):
    with pytest.raises(BadInput) as caught:
        prepare(images, job(model))
    assert caught.value.field == field


def test_the_precision_the_pieces_and_the_optimizer_go_into_the_spec(images: pd.DataFrame):
    spec = prepare(images, job(CNN, precision="bf16", micro_batch=4, optimizer="muon")).spec
    assert (spec.precision, spec.micro_batch, spec.optimizer) == ("bf16", 4, "muon")
    plain = prepare(images, job(CNN)).spec
    assert (plain.micro_batch, plain.optimizer) == (None, "adamw")
