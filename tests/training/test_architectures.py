import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.training import architectures
from cloudlinkup.training.architectures import build, flat_weights, initial_weights, load_flat, parameter_count
from cloudlinkup.training.spec import TrainingSpec


def mlp(**changes):
    model = {"kind": "mlp", "hidden": changes.pop("hidden", [5]), "activation": changes.pop("activation", "relu")}
    return replace(TrainingSpec("classification", model, 4, 3, 8, 0.01, 0), **changes)


def test_the_count_is_the_built_networks():
    spec = mlp(hidden=[5, 7])
    module = build(spec)
    assert parameter_count(spec) == sum(p.numel() for p in module.parameters()) == 5 * 5 + 6 * 7 + 8 * 3


def test_flat_order_is_weight_then_bias_layer_by_layer():
    spec = mlp(hidden=[2], inputs=3)
    module = build(spec)
    load_flat(module, np.arange(parameter_count(spec), dtype=np.float32))
    state = module.state_dict()
    assert state["0.weight"].tolist() == [[0, 1, 2], [3, 4, 5]] and state["0.bias"].tolist() == [6, 7]
    assert state["2.weight"].tolist() == [[8, 9], [10, 11], [12, 13]] and state["2.bias"].tolist() == [14, 15, 16]
    np.testing.assert_array_equal(flat_weights(module), np.arange(17, dtype=np.float32))
    with pytest.raises(ValueError):
        load_flat(module, np.zeros(16, np.float32))


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one = initial_weights(mlp(seed=5))
    np.testing.assert_array_equal(one, flat_weights(build(mlp(seed=5))))
    assert (one != initial_weights(mlp(seed=6))).any()
    assert (torch.random.get_rng_state() == before).all()
    big = initial_weights(mlp(inputs=400, hidden=[300]))
    first = big[: 400 * 300]
    assert np.abs(first).max() <= 0.05 and first.std() == pytest.approx(0.05 / 3**0.5, rel=0.02)


def test_initial_weights_are_these_bytes_on_every_machine():
    # pinned: a contributor elsewhere computes the start from the spec alone
    weights = initial_weights(mlp())
    assert [float(w).hex() for w in weights[:2]] == ["-0x1.fbfb2c0000000p-2", "-0x1.bbe8480000000p-2"]
    digest = hashlib.sha256(weights.tobytes()).hexdigest()
    assert digest == "b64dff903c2591e196839491a15e0a6f9706938910d9f742a043737240af9da7"


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": [8193]},
        {"hidden": [1] * 17},
        {"hidden": [0]},
        {"hidden": [True]},
        {"hidden": ["5"]},
        {"hidden": "55"},
        {"hidden": [8192] * 4},
        {"activation": "exec"},
        {"inputs": 100_001},
        {"inputs": 0},
        {"outputs": 1},
        {"outputs": 9000},
        {"batch": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"seed": -1},
        {"task": "ranking"},
        {"precision": "fp16"},
        {"micro_batch": 0},
        {"micro_batch": 9},
        {"model": {"kind": "mlp", "hidden": []}},
        {"model": {"kind": "pickle", "hidden": [], "activation": "relu"}},
        {"model": {"kind": "mlp", "hidden": [], "activation": "relu", "extra": 1}},
    ],
)
def test_what_is_outside_the_allow_list_is_refused_before_it_is_built(changes, monkeypatch):
    monkeypatch.setattr(architectures.np.random, "Philox", None)  # nothing of the network's size may be made
    with pytest.raises(ValueError):
        initial_weights(mlp(**changes))


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={"kind": json | st.just("mlp"), "hidden": json, "activation": json}) | json)
def test_a_fuzzed_model_is_refused_or_counts(model):
    try:
        count = parameter_count(mlp(model=model))  # type: ignore[arg-type]
    except ValueError:
        return
    assert 0 < count <= architectures.MAX_PARAMETERS


@given(st.binary(max_size=60))
def test_fuzzed_spec_bytes_are_refused(data):
    with pytest.raises((ValueError, TypeError)):
        TrainingSpec.from_bytes(data)


def test_a_spec_has_one_byte_form():
    spec = mlp()
    assert TrainingSpec.from_bytes(spec.to_bytes()) == spec
    with pytest.raises(ValueError):
        TrainingSpec.from_bytes(spec.to_bytes() + b" ")


def test_a_batch_is_taken_in_as_few_pieces_as_memory_needs(monkeypatch):
    from cloudlinkup.training import caps
    from cloudlinkup.training.architectures import memory_of_step, with_micro_batch

    spec = mlp()
    assert with_micro_batch(spec, "auto").micro_batch is None and with_micro_batch(spec, 3).micro_batch == 3
    whole = memory_of_step(spec)
    for pieces, size in ((2, 4), (3, 2), (8, 1), (99, 1)):
        monkeypatch.setattr(caps, "PASS", whole // pieces)
        found = with_micro_batch(spec, "auto")
        assert found.micro_batch == size and (size == 1 or memory_of_step(found) <= whole // pieces)
    with pytest.raises(ValueError, match="micro_batch"):
        with_micro_batch(spec, 9)
