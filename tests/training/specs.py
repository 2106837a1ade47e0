"""Specs of every kind of network, small ones by name and random valid ones, and rows that fit them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from cloudlinkup.training.spec import TrainingSpec


def make_spec(model: dict, inputs: int, outputs: int = 3, task: str = "classification", **changes) -> TrainingSpec:
    return replace(TrainingSpec(task, model, inputs, outputs, 8, 0.01, 5), **changes)  # type: ignore[arg-type]


def transformer(**changes) -> dict:
    model = {"kind": "transformer", "width": 16, "depth": 2, "heads": 2, "context": 12}
    return model | {"positions": "learned", "tied": True} | changes


def conv(kind: str, out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> dict:
    return {"type": kind, "out": out, "kernel": kernel, "stride": stride, "padding": padding}


IMAGE = [
    conv("conv2d", 6),
    {"type": "groupnorm", "groups": 2},
    {"type": "relu"},
    {
        "type": "residual",
        "layers": [conv("conv2d", 6), {"type": "silu"}, {"type": "residual", "layers": [{"type": "tanh"}]}],
    },
    {"type": "max_pool", "size": 2},
    conv("conv2d", 8, stride=2),
    {"type": "gelu"},
    {"type": "adaptive_pool", "out": [1, 2]},
    {"type": "flatten"},
    {"type": "linear", "out": 7},
    {"type": "layernorm"},
]
SEQUENCE = [
    {"type": "embedding", "words": 11, "width": 8},
    {"type": "positions"},
    {"type": "residual", "layers": [{"type": "layernorm"}, {"type": "attention", "heads": 2, "causal": False}]},
    {"type": "residual", "layers": [{"type": "attention", "heads": 4, "causal": True}]},
    conv("conv1d", 6, 5, 2, 2),
    {"type": "groupnorm", "groups": 3},
    {"type": "avg_pool", "size": 2},
    {"type": "linear", "out": 5},
    {"type": "global_pool"},
]
CNN = {"kind": "cnn", "input": [1, 8, 8], "channels": [4, 6], "kernel": 3, "hidden": [9], "activation": "relu"}
SPECS = {
    "mlp": make_spec({"kind": "mlp", "hidden": [9, 5], "activation": "gelu"}, 64),
    "cnn": make_spec(CNN, 64),
    "image": make_spec({"kind": "sequential", "input": [1, 8, 8], "layers": IMAGE}, 64),
    "sequence": make_spec({"kind": "sequential", "input": [12], "layers": SEQUENCE}, 12),
    "regression": make_spec({"kind": "sequential", "input": None, "layers": [{"type": "silu"}]}, 6, 2, "regression"),
    "learned": make_spec(transformer(), 12, 19, "next_token"),
    "rotary": make_spec(transformer(positions="rotary", tied=False), 12, 19, "next_token"),
}


def rows_for(spec: TrainingSpec, rows: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets) of the kinds that the spec's task takes."""
    rng = np.random.default_rng(seed)
    if spec.task == "next_token":
        text = rng.integers(0, spec.outputs, (rows, spec.inputs + 1), dtype=np.int32)
        return text[:, :-1].copy(), text[:, 1:].copy()
    x = (3 * rng.standard_normal((rows, spec.inputs))).astype(np.float32)
    if spec.task == "regression":
        return x, rng.standard_normal((rows, spec.outputs)).astype(np.float32)
    return x, rng.integers(0, spec.outputs, rows)


# ---------------------------------------------------------------- random valid specs

sizes = st.integers(1, 9)
activations = st.sampled_from(["relu", "gelu", "tanh", "silu"])


@st.composite
def layers_from(draw, shape: tuple[int, ...], most: int = 6, depth: int = 0) -> tuple[list[dict], tuple[int, ...]]:
    """Layers that fit each other from `shape` on, and the shape after them."""
    layers: list[dict] = []
    for _ in range(draw(st.integers(0, most))):
        layer, shape = draw(_layer(shape, depth))
        layers.append(layer)
    return layers, shape


NAMES = {
    1: ["activation", "flatten", "linear", "layernorm"],
    2: ["activation", "flatten", "linear", "layernorm", "conv", "pool", "global_pool", "attention", "positions"],
    3: ["activation", "flatten", "conv", "pool", "global_pool", "adaptive_pool"],
}


@st.composite
def _layer(draw, shape: tuple[int, ...], depth: int) -> tuple[dict, tuple[int, ...]]:
    name = draw(st.sampled_from(NAMES[len(shape)] + ([] if depth else ["residual"])))
    layer: dict = {"type": name}
    if name in ("conv", "pool", "adaptive_pool"):
        return draw(_window(name, shape))
    if name == "activation":
        layer["type"] = draw(activations)
    elif name == "attention":
        layer["heads"] = draw(st.sampled_from([h for h in range(1, 5) if shape[1] % h == 0]))
        layer["causal"] = draw(st.booleans())
    elif name == "residual":
        inner, after = draw(layers_from(shape, 2, depth + 1))
        layer["layers"] = inner if inner and after == shape else [{"type": draw(activations)}]
    elif name == "linear":
        layer["out"] = draw(sizes)
        shape = (*shape[:-1], layer["out"])
    elif name == "flatten":
        shape = (int(np.prod(shape)),)
    elif name == "global_pool":
        shape = (shape[0] if len(shape) == 3 else shape[1],)
    return layer, shape


@st.composite
def _window(draw, name: str, shape: tuple[int, ...]) -> tuple[dict, tuple[int, ...]]:
    """A layer that works on an image's or sequence's axes."""
    axes, channels = (shape[1:], shape[0]) if len(shape) == 3 else (shape[:1], shape[1])
    if name == "adaptive_pool":
        out = [draw(st.sampled_from([n for n in range(1, side + 1) if side % n == 0])) for side in axes]
        layer, after = {"type": name, "out": out}, tuple(out)
    elif name == "pool":
        size = draw(st.integers(1, min(axes)))
        layer = {"type": draw(st.sampled_from(["max_pool", "avg_pool"])), "size": size}
        after = tuple(side // size for side in axes)
    else:
        kernel = draw(st.integers(1, min(axes)))
        stride, padding, channels = draw(st.integers(1, 3)), draw(st.integers(0, kernel - 1)), draw(sizes)
        layer = conv("conv2d" if len(shape) == 3 else "conv1d", channels, kernel, stride, padding)
        after = tuple((side + 2 * padding - kernel) // stride + 1 for side in axes)
    return layer, (channels, *after) if len(shape) == 3 else (*after, channels)


@st.composite
def sequentials(draw) -> TrainingSpec:
    given = draw(st.none() | st.lists(st.integers(1, 8), min_size=1, max_size=3))
    shape = (draw(sizes),) if given is None else tuple(given)
    inputs, head = int(np.prod(shape)), []
    if given and len(given) == 1 and draw(st.booleans()):
        width = draw(sizes)
        head, shape = [{"type": "embedding", "words": draw(st.integers(2, 9)), "width": width}], (*shape, width)
    layers, shape = draw(layers_from(shape))
    if len(shape) > 1:
        layers = [*layers, {"type": draw(st.sampled_from(["flatten", "global_pool"]))}]
    model = {"kind": "sequential", "input": given, "layers": [*head, *layers]}
    return make_spec(model, inputs, 2, draw(st.sampled_from(["classification", "regression"])), batch=3)


@st.composite
def perceptrons(draw) -> TrainingSpec:
    model = {"kind": "mlp", "hidden": draw(st.lists(sizes, max_size=4)), "activation": draw(activations)}
    return make_spec(model, draw(sizes), draw(st.integers(2, 5)), batch=3)


@st.composite
def convolutionals(draw) -> TrainingSpec:
    image = draw(st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)))
    most = min(image[1:]).bit_length() - 1
    channels = draw(st.lists(sizes, min_size=1, max_size=most))
    model = {"kind": "cnn", "input": list(image), "channels": channels, "kernel": draw(st.sampled_from([1, 3, 5]))}
    model |= {"hidden": draw(st.lists(sizes, max_size=2)), "activation": draw(activations)}
    return make_spec(model, int(np.prod(image)), batch=3)


@st.composite
def transformers(draw) -> TrainingSpec:
    heads, size = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rotary = draw(st.booleans())
    context = draw(st.integers(1, 10))
    model = transformer(width=heads * size * 2, depth=draw(st.integers(1, 3)), heads=heads, context=context)
    model |= {"positions": "rotary" if rotary else "learned", "tied": draw(st.booleans())}
    return make_spec(model, context, draw(st.integers(2, 20)), "next_token", batch=3)


valid_specs = perceptrons() | convolutionals() | sequentials() | transformers()
