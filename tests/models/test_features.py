"""Every kind of network is sized, traced and timed for the planner before anything is locked."""

from dataclasses import replace

import numpy as np
import pytest

from cloudlinkup.training.architectures import parameter_count
from models.features import NAMES, graph_features
from models.profile import profile_reference
from tests.training.specs import SPECS, make_spec, rows_for, transformer


@pytest.mark.parametrize("name", SPECS)
def test_each_kind_is_traced_without_arithmetic(name: str):
    spec = SPECS[name]
    found = graph_features(spec)
    assert set(found) == set(NAMES) and all(np.isfinite(value) and value >= 0 for value in found.values())
    assert found["parameters"] == parameter_count(spec) and found["kernels"] > 3
    twice = graph_features(replace(spec, batch=2 * spec.batch))
    assert twice["macs"] == pytest.approx(2 * found["macs"]) and twice["kernels"] == found["kernels"]
    pieces = graph_features(replace(spec, micro_batch=spec.batch // 2))
    assert pieces["macs"] == pytest.approx(found["macs"]) and pieces["kernels"] > 1.5 * found["kernels"]


def test_the_macs_of_a_transformer_are_those_of_its_products():
    width, context, words = 16, 12, 19
    spec = make_spec(transformer(depth=1), context, words, "next_token")
    products = 12 * width**2 + 2 * context * width + words * width  # a place: linear layers, attention, head
    backward = 3 * products  # one forward, two backward
    assert graph_features(spec)["macs"] == pytest.approx(spec.batch * context * backward)


@pytest.mark.parametrize("name", ["cnn", "learned", "regression"])
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 3, "precision": "bf16"}])
def test_each_kind_is_timed(name: str, changes: dict):
    spec = replace(SPECS[name], **changes)
    found = profile_reference(spec, *rows_for(spec), probes=(), seconds=0.01)
    assert found.per_sample > 0 and found.steps >= 10
