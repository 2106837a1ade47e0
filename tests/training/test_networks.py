"""Every kind of network: what is counted is what is built, what is refused says where, and everything replays."""

import hashlib
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.training import caps
from cloudlinkup.training.architectures import (
    build,
    flat_weights,
    initial_weights,
    kind_of,
    layout,
    load_flat,
    parameter_count,
    skeleton,
)
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.gradients import make_gradient
from cloudlinkup.training.networks import KINDS
from cloudlinkup.training.networks.layers import TYPES
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from tests.training.random_specs import valid_specs
from tests.training.specs import CNN, IMAGE, SPECS, conv, make_spec, rows_for, transformer


def batch_of(spec: TrainingSpec, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = rows_for(spec, rows)
    return torch.from_numpy(x), torch.from_numpy(y)


@settings(max_examples=60, deadline=None)
@given(valid_specs)
def test_what_is_counted_is_what_is_built(spec: TrainingSpec):
    module = skeleton(spec)
    named = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    assert [(tensor.name, tensor.shape) for tensor in layout(spec)] == named
    assert parameter_count(spec) == sum(prod(shape) for _, shape in named)
    x, _ = batch_of(spec)
    load_flat(module, initial_weights(spec))
    out = module(x)
    assert out.shape == ((3, spec.inputs, spec.outputs) if spec.task == "next_token" else (3, spec.outputs))
    assert out.dtype == torch.float32 and out.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(valid_specs)
def test_no_more_is_kept_for_the_backward_pass_than_is_counted(spec: TrainingSpec):
    module = build(spec)
    mine = {p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = 5
    x, y = batch_of(spec, rows)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module(x)
        if spec.task == "regression":
            loss = torch.nn.functional.mse_loss(out, y)
        else:
            loss = torch.nn.functional.cross_entropy(out.reshape(-1, spec.outputs), y.reshape(-1).long())
    loss.backward()
    masks = 4 * spec.inputs**2  # of causal attention: one for all rows
    assert sum(kept.values()) <= 4 * rows * kind_of(spec).activations(spec) + masks + 64


@pytest.mark.parametrize("name", SPECS)
def test_the_flat_order_is_the_modules(name: str):
    spec = SPECS[name]
    module, count = skeleton(spec), parameter_count(spec)
    load_flat(module, np.arange(count, dtype=np.float32))
    start = 0
    for tensor, parameter in zip(layout(spec), module.parameters(), strict=True):
        wanted = torch.arange(start, start + tensor.size, dtype=torch.float32).view(tensor.shape)
        assert torch.equal(parameter, wanted), tensor.name
        start += tensor.size
    np.testing.assert_array_equal(flat_weights(module), np.arange(count, dtype=np.float32))


STARTS = {
    "cnn": "14196c2a6d6f2147",
    "image": "ddde5e71b4b89068",
    "sequence": "cae4b58d93e3ff54",
    "learned": "7b8b0a0b8b3c6114",
    "rotary": "f7b2b9586fe2ee5d",
}


@pytest.mark.parametrize("name", STARTS)
def test_the_start_is_these_bytes_on_every_machine(name: str):
    assert hashlib.sha256(initial_weights(SPECS[name]).tobytes()).hexdigest()[:16] == STARTS[name]


@pytest.mark.parametrize("name", SPECS)
def test_building_leaves_torchs_generator_alone(name: str):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    build(SPECS[name])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", SPECS)
def test_pieces_of_a_batch_add_up_and_bf16_is_near(name: str):
    spec = SPECS[name]
    x, y = batch_of(spec, 8)
    weights = torch.from_numpy(initial_weights(spec))

    def gradient(**changes) -> np.ndarray:
        found = torch.zeros_like(weights)
        make_gradient(replace(spec, **changes), weights, found).compute(x, y)
        return found.numpy()

    whole = gradient()
    assert np.abs(whole).max() > 0
    np.testing.assert_allclose(gradient(micro_batch=3), whole, atol=1e-5 * np.abs(whole).max() + 1e-7)
    off = np.linalg.norm(gradient(precision="bf16") - whole) / np.linalg.norm(whole)
    assert 1e-5 < off < 0.1


@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_no_place_sees_what_comes_after_it(name: str):
    spec = SPECS[name]
    module = build(replace(spec, seed=8))
    (x, _), (other, _) = batch_of(spec, 1), rows_for(spec, 1, seed=3)
    for place in range(spec.inputs):
        changed = x.clone()
        changed[0, place:] = torch.from_numpy(other)[0, place:]
        if torch.equal(changed, x):
            continue
        before, after = module(x)[0], module(changed)[0]
        assert torch.equal(before[:place], after[:place])
        assert place == 0 or not torch.equal(before[place:], after[place:])


def test_places_are_told_apart():
    for name in ("learned", "rotary"):
        module = build(replace(SPECS[name], seed=8))
        out = module(torch.tensor([[4, 7, 4, 7, 4, 7, 4, 7, 4, 7, 4, 7]]))[0]
        assert (out[3] - out[5]).abs().max() > 1e-6, name


@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_a_language_model_learns_a_rule_of_text(name: str):
    from cloudlinkup.training.segments import SegmentRunner

    spec = replace(SPECS[name], batch=16)
    start = np.arange(200) % 19
    text = ((start[:, None] + 5 * np.arange(13)) % 19).astype(np.int32)
    x, y = text[:, :-1].copy(), text[:, 1:].copy()
    runner = SegmentRunner(spec, ShardWork(b"l" * 32, 10, 15, 0, 1_000_000), initial_weights(spec), x, y)
    before = evaluate(spec, runner.weights(), x, y)
    while runner.run_segment():
        pass
    after = evaluate(spec, runner.weights(), x, y)
    assert before.value > 15 and after.value < 1.5 and after.metric == "perplexity"


def test_a_cnn_is_the_sequential_it_expands_into():
    layers = [
        *(conv("conv2d", 4), {"type": "relu"}, {"type": "max_pool", "size": 2}),
        *(conv("conv2d", 6), {"type": "relu"}, {"type": "max_pool", "size": 2}),
        *({"type": "flatten"}, {"type": "linear", "out": 9}, {"type": "relu"}),
    ]
    long = make_spec({"kind": "sequential", "input": [1, 8, 8], "layers": layers}, 64)
    assert layout(long) == layout(SPECS["cnn"])
    x, _ = batch_of(long)
    assert torch.equal(build(long)(x), build(SPECS["cnn"])(x))


def test_pools_are_torchs():
    x = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    for kind, theirs in (("max_pool", torch.nn.functional.max_pool2d), ("avg_pool", torch.nn.functional.avg_pool2d)):
        layers = [{"type": kind, "size": 2}, {"type": "flatten"}]
        module = skeleton(make_spec({"kind": "sequential", "input": [3, 7, 9], "layers": layers}, 189))
        ours = torch.nn.Sequential(*list(module)[:-1])  # type: ignore[arg-type]
        torch.testing.assert_close(ours(x), theirs(x, 2).flatten(1))


def test_attention_is_torchs():
    from cloudlinkup.training.networks.modules import Attention

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 8, generator=generator)
    for causal in (False, True):
        ours = Attention(8, 2, 5, causal=causal)
        for parameter in ours.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        q, k, v = (part.view(2, 5, 2, 4).transpose(1, 2) for part in ours.inputs(x).chunk(3, 2))
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(ours(x), ours.output(theirs.transpose(1, 2).reshape(2, 5, 8)))


def sequential(*layers: object, given: object = None, inputs: int = 64, **changes) -> TrainingSpec:
    return make_spec({"kind": "sequential", "input": given, "layers": list(layers)}, inputs, **changes)


SHAPE = [1, 8, 8]
DEEP: dict = {"type": "relu"}
for _ in range(6):
    DEEP = {"type": "residual", "layers": [DEEP]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (sequential({"type": "pickle"}), r"model\.layers\[0\]\.type must be one of linear"),
        (sequential({"type": ["linear"]}), r"model\.layers\[0\]\.type"),
        (sequential("relu"), r"model\.layers\[0\]\.type"),
        (sequential({"type": "dropout", "p": 0.5}), r"model\.layers\[0\]\.type"),
        (
            sequential({"type": "relu"}, {"type": "linear"}),
            r"model\.layers\[1\]: a linear layer must have exactly type, out",
        ),
        (sequential({"type": "linear", "out": 0}), r"model\.layers\[0\]\.out must be a whole number from 1 to 8192"),
        (sequential({"type": "linear", "out": 2, "code": 1}), r"model\.layers\[0\]: a linear layer"),
        (
            sequential(conv("conv2d", 3)),
            r"model\.layers\[0\]: conv2d takes \(channels, height, width\), and gets \(64,\)",
        ),
        (sequential(conv("conv2d", 3), given=[8, 8]), "conv2d takes"),
        (sequential(conv("conv2d", 3), given=SHAPE), r"model\.layers end in \(3, 8, 8\): add flatten or global_pool"),
        (sequential(conv("conv2d", 3, kernel=11), given=SHAPE), r"model\.layers\[0\]\.kernel: 11 is more than the 8"),
        (sequential(conv("conv2d", 3, padding=3), given=SHAPE), r"model\.layers\[0\]\.padding must be .* 0 to 2"),
        (sequential({"type": "linear", "out": 3}, given=SHAPE), "linear takes .* gets .1, 8, 8."),
        (sequential({"type": "max_pool", "size": 9}, given=SHAPE), r"model\.layers\[0\]\.size: 9 is more than the 8"),
        (sequential({"type": "adaptive_pool", "out": [3, 8]}, given=SHAPE), "3 does not divide 8"),
        (sequential({"type": "groupnorm", "groups": 2}, given=SHAPE), r"groups must be a whole number from 1 to 1"),
        (sequential({"type": "relu"}, {"type": "embedding", "words": 5, "width": 3}), "must be the first layer"),
        (sequential({"type": "attention", "heads": 3, "causal": True}, given=[8, 8]), "3 does not divide 8 channels"),
        (sequential({"type": "attention", "heads": 2, "causal": 1}, given=[8, 8]), "causal must be true or false"),
        (sequential({"type": "residual", "layers": [{"type": "linear", "out": 3}]}), r"turn \(64,\) into \(3,\)"),
        (
            sequential({"type": "residual", "layers": [{"type": "relu"}, {"type": "x"}]}),
            r"model\.layers\[0\]\.layers\[1\]\.type",
        ),
        (sequential({"type": "residual", "layers": []}), "must not be empty"),
        (sequential(DEEP), "nested more than 4 deep"),
        (sequential(*[{"type": "relu"}] * 129), "at most 128 layers"),
        (sequential(*[{"type": "residual", "layers": [{"type": "relu"}]}] * 65), r"layers\[64\]: more than 128 layers"),
        (
            sequential({"type": "linear", "out": 8192}, {"type": "tanh"}, given=[50_000, 2], inputs=100_000),
            r"model\.layers\[1\]: a row takes more than 536870912 numbers",
        ),
        (sequential(given=[1, 8, 9]), "takes 72 numbers a row, and a row has 64"),
        (sequential(given=[1, 8, 8, 1]), "model.input must be null"),
        (sequential(given="64"), "model.input must be null"),
        (sequential(task="next_token"), "does not do next_token"),
        (sequential(outputs=9_000), "outputs must be a whole number from 1 to 8192"),
        (sequential({"type": "linear", "out": 8192}, {"type": "linear", "out": 8192}), "parameters are more than"),
        (make_spec(CNN | {"kernel": 4}, 64), "model.kernel must be odd"),
        (make_spec(CNN | {"channels": [2] * 4}, 64), "model.channels must have 1 to 3 entries: each halves 8 by 8"),
        (make_spec(CNN | {"channels": []}, 64), "model.channels must have 1 to 3 entries"),
        (make_spec(CNN | {"input": None}, 64), "model.input of a cnn must be"),
        (make_spec(CNN | {"activation": "eval"}, 64), "model.activation"),
        (make_spec(transformer(), 13, 9, "next_token"), "model.context is 12, and the windows have 13 tokens"),
        (make_spec(transformer(heads=3), 12, 9, "next_token"), "model.heads: 3 does not divide the width 16"),
        (make_spec(transformer(heads=16, positions="rotary"), 12, 9, "next_token"), "even width a head"),
        (make_spec(transformer(positions="none"), 12, 9, "next_token"), "model.positions must be one of"),
        (make_spec(transformer(tied=1), 12, 9, "next_token"), "model.tied"),
        (make_spec(transformer(depth=65), 12, 9, "next_token"), "model.depth must be a whole number from 1 to 64"),
        (make_spec(transformer(context=5_000), 5_000, 9, "next_token"), "model.context must be .* 4096"),
        (make_spec(transformer(context=4_096, depth=64), 4_096, 9, "next_token"), "numbers of activations"),
        (make_spec(transformer(), 12, 9), "does not do classification"),
    ],
)
def test_what_is_refused_says_where_and_is_never_built(spec: TrainingSpec, message: str, monkeypatch):
    monkeypatch.setattr(torch.nn, "Module", None)
    with pytest.raises(ValueError, match=message):
        parameter_count(spec)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
numbers = st.integers(-2, 70) | json
layer = st.deferred(
    lambda: st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES) | json},
        optional={name: numbers for name in ("out", "kernel", "stride", "padding", "size", "groups", "words", "width")}
        | {"heads": numbers, "causal": json, "layers": st.lists(layer, max_size=2)},
    )
)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(SPECS)))
def test_a_fuzzed_model_of_each_kind_is_refused_or_counts(data: st.DataObject, name: str):
    spec = SPECS[name]
    model = dict(spec.model)
    for field in data.draw(st.sets(st.sampled_from(sorted(model)), max_size=3)):
        model[field] = data.draw(st.lists(layer, max_size=3) if field == "layers" else numbers)
    if data.draw(st.booleans()):
        model[data.draw(st.text(max_size=4))] = data.draw(json)
    try:
        count = parameter_count(replace(spec, model=model))
    except ValueError:
        return
    assert 0 < count <= caps.PARAMETERS


@settings(max_examples=200, deadline=None)
@given(st.lists(layer, max_size=4))
def test_fuzzed_layers_are_refused_or_built(layers: list):
    spec = sequential(*layers, given=SHAPE)
    try:
        count = parameter_count(spec)
    except ValueError:
        return
    assert count == sum(p.numel() for p in build(spec).parameters())


def test_every_kind_is_tried_here():
    assert {spec.model["kind"] for spec in SPECS.values()} | {"huggingface"} == set(KINDS)

    def types(layers: list[dict]) -> set[str]:
        inner = [types(entry["layers"]) for entry in layers if "layers" in entry]
        return {entry["type"] for entry in layers}.union(*inner)

    assert types([*IMAGE, *SPECS["sequence"].model["layers"], {"type": "silu"}]) == set(TYPES)
