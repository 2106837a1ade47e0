"""Random valid specs of every kind of network."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from cloudlinkup.training.spec import TrainingSpec
from tests.training.specs import conv, make_spec, transformer

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
