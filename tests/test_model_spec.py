"""A job's model: the client's form says the same as the checks of training, and errors name the field."""

import re
from json import loads
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cloudlinkup.errors import BadInput
from cloudlinkup.model_spec import ModelSpec, refused_model
from cloudlinkup.training.architectures import check_spec
from cloudlinkup.training.networks.layers import TYPES
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import parse_job
from tests.training.random_specs import valid_specs
from tests.training.specs import SPECS, transformer

FORM = TypeAdapter(ModelSpec)
JOB = {
    "version": 1,
    "data": {"uri": "rows.csv", "format": "csv", "label": "y"},
    "task": "classification",
    "train": {"samples": 100},
    "budget": "1",
    "deadline": "2035-01-01T00:00:00Z",
}


@settings(max_examples=60, deadline=None)
@given(valid_specs)
def test_every_valid_model_has_the_form_and_comes_out_as_it_went_in(spec: TrainingSpec):
    assert FORM.validate_python(spec.model).model_dump(mode="json") == spec.model


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "mlp"},
        {"kind": "cnn", "input": [3, 32, 32]},
        {"kind": "transformer"},
        {"kind": "sequential", "layers": []},
        {"kind": "sequential", "input": [2, 9, 9], "layers": [{"type": "conv2d", "out": 3}, {"type": "flatten"}]},
    ],
)
def test_the_defaults_are_valid(model: dict):
    made = FORM.validate_python(model)
    inputs = getattr(made, "inputs", 5)
    task = "next_token" if model["kind"] == "transformer" else "regression"
    check_spec(TrainingSpec(task, made.model_dump(mode="json"), inputs, 2, 8, 0.01, 0))


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted(SPECS)))
def test_what_the_form_lets_through_training_refuses_for_the_data_alone(data: st.DataObject, name: str):
    spec = SPECS[name]
    model = dict(spec.model)
    for field in data.draw(st.sets(st.sampled_from(sorted(model)), max_size=3)):
        model[field] = data.draw(st.integers(-1, 40) | json)
    try:
        made = FORM.validate_python(model)
    except ValidationError:
        return
    inputs = getattr(made, "inputs", spec.inputs)
    inputs = spec.inputs if inputs == 1 else inputs
    check_spec(TrainingSpec(spec.task, made.model_dump(mode="json"), inputs, 2, 8, 0.01, 0))


@pytest.mark.parametrize(
    ("model", "task", "shown"),
    [
        ({"kind": "rnn"}, "classification", "model.kind = 'rnn'"),
        ({"kind": "cnn", "input": [1, 8, 8], "kernel": 2}, "classification", "model.kernel = 2: must be odd"),
        ({"kind": "sequential", "layers": [{"type": "relu"}, {"type": "conv2d", "out": 3}]}, "regression", "layers[1]"),
        (
            {"kind": "sequential", "layers": [{"type": "linear", "out": 9000}]},
            "regression",
            "model.layers[0].out = 9000",
        ),
        ({"kind": "sequential", "layers": [{"type": "linear", "out": 2.0}]}, "regression", "model.layers[0].out = 2.0"),
        (
            {"kind": "sequential", "layers": [{"type": "residual", "layers": [{"type": "linear", "out": 0}]}]},
            "regression",
            "model.layers[0].layers[0].out = 0",
        ),
        (transformer(), "regression", "model.kind = 'transformer': does next_token, not regression"),
    ],
)
def test_a_job_is_refused_by_field(model: dict, task: str, shown: str):
    with pytest.raises(BadInput) as caught:
        parse_job(JOB | {"task": task, "model": model})
    assert shown in str(caught.value)


def test_what_training_refuses_names_the_field_too():
    error = refused_model(ValueError("model.input [1, 8, 9] takes 72 numbers"), {"input": [1, 8, 9]}, "64 inputs")
    assert (error.field, error.value, error.problem) == ("model.input", [1, 8, 9], "[1, 8, 9] takes 72 numbers")
    error = refused_model(ValueError("70000000 parameters are more than 50000000"), {}, "64 inputs")
    assert (error.field, error.value) == ("model", "64 inputs")
    error = refused_model(ValueError("model.layers[3]: too much"), {"kind": "cnn"}, "64 inputs")
    assert (error.field, error.problem) == ("model", "model.layers[3]: too much")


def test_pieces_are_part_of_a_batch():
    with pytest.raises(BadInput, match=r"train\.micro_batch = 9: is more than train\.batch, 8"):
        parse_job(JOB | {"model": {"kind": "mlp"}, "train": {"samples": 9, "batch": 8, "micro_batch": 9}})


def test_the_page_on_models_has_valid_examples():
    page = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text()
    shown = [FORM.validate_python(loads(block)) for block in re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)]
    assert [model.kind for model in shown] == ["mlp", "cnn", "sequential", "transformer"]
    assert all(f" {kind}" in page for kind in TYPES)
