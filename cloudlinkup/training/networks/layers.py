"""The layers that a `sequential` network may be made of: each one's fields and caps, and what it makes of a shape.

A layer is checked, sized and only then, by `make`, built: one function a layer type says all of it, so that what is
counted is what is built. Shapes are of one row: (features,), (length, channels) or (channels, height, width).
Every error names the layer by its position, like ``model.layers[3].out``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from cloudlinkup.training import caps
from cloudlinkup.training.networks.kind import TensorLayout, whole

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
Fields = Mapping[str, Any]
PLACE = "model.layers"
ACTIVATIONS = ("relu", "gelu", "tanh", "silu")
_FORMS = {1: "(features)", 2: "(length, channels)", 3: "(channels, height, width)"}


@dataclass(frozen=True)
class Planned:
    """One layer in its place. `shape`: after it. `tensors`: named within the layer, in the module's order.

    `kept`: numbers that a pass keeps of it for each row, at most. `layers`: itself and those nested in it.
    """

    shape: Shape
    make: Callable[[], torch.nn.Module]
    tensors: tuple[TensorLayout, ...] = ()
    kept: int = 0
    layers: int = 1


def plan_layers(layers: object, shape: Shape, where: str = PLACE) -> list[Planned]:
    """Each layer, checked in its place. Raises ValueError. Builds nothing."""
    if not isinstance(layers, list | tuple) or len(layers) > caps.LAYERS:
        raise ValueError(f"{where} must be a list of at most {caps.LAYERS} layers")
    found: list[Planned] = []
    for number, layer in enumerate(layers):
        found.append(_plan(layer, shape, f"{where}[{number}]"))
        shape = found[-1].shape
        if sum(planned.layers for planned in found) > caps.LAYERS:
            raise ValueError(f"{where}[{number}]: more than {caps.LAYERS} layers, nested ones counted")
        if prod(shape) > caps.ACTIVATIONS or sum(planned.kept for planned in found) > caps.ACTIVATIONS:
            raise ValueError(f"{where}[{number}]: a row takes more than {caps.ACTIVATIONS} numbers of activations")
    return found


def named(planned: list[Planned]) -> tuple[TensorLayout, ...]:
    """The tensors of layers that follow each other, named by position as `torch.nn.Sequential` names them."""
    return tuple(
        replace(tensor, name=f"{number}.{tensor.name}") for number, one in enumerate(planned) for tensor in one.tensors
    )


def _plan(layer: object, shape: Shape, at: str) -> Planned:
    kind = layer.get("type") if isinstance(layer, dict) else None
    if not isinstance(layer, dict) or not isinstance(kind, str) or kind not in _LAYERS:
        raise ValueError(f"{at}.type must be one of {', '.join(_LAYERS)}")
    fields, plan = _LAYERS[kind]
    if set(layer) != {"type", *fields}:
        raise ValueError(f"{at}: a {kind} layer must have exactly {', '.join(['type', *fields])}")
    return plan(layer, shape, at)


def _needs(shape: Shape, at: str, kind: str, *dimensions: int) -> None:
    if len(shape) not in dimensions:
        forms = " or ".join(_FORMS[n] for n in dimensions)
        raise ValueError(f"{at}: {kind} takes {forms}, and gets {shape}")


def uniform(name: str, shape: Shape, fan_in: int) -> TensorLayout:
    """A tensor that starts as torch's linear and convolution layers do: uniform in +-1/sqrt(fan in)."""
    return TensorLayout(name, shape, 1.0 / sqrt(fan_in))


def normalised(name: str, size: int) -> tuple[TensorLayout, ...]:
    """A normalisation's scale and shift."""
    return TensorLayout(f"{name}weight", (size,), 0.0, 1.0), TensorLayout(f"{name}bias", (size,))


def linear_tensors(name: str, fan_in: int, fan_out: int) -> tuple[TensorLayout, ...]:
    """A linear layer's weight (out, in) and bias."""
    return uniform(f"{name}weight", (fan_out, fan_in), fan_in), uniform(f"{name}bias", (fan_out,), fan_in)


def attention_kept(width: int, heads: int, length: int) -> int:
    """Numbers an attention keeps of a row: queries, keys and values twice, scores three times, what comes of them."""
    return 10 * length * width + 3 * heads * length * length


def _make(name: str, *sizes: int, **settings: object) -> torch.nn.Module:
    import torch

    from cloudlinkup.training.networks.modules import bare

    return bare(getattr(torch.nn, name), *sizes, **settings)


def _own(name: str, *sizes: Any, **settings: Any) -> torch.nn.Module:
    from cloudlinkup.training.networks import modules

    return getattr(modules, name)(*sizes, **settings)


# ---------------------------------------------------------------- one function a layer


def linear(layer: Fields, shape: Shape, at: str) -> Planned:
    """Over the features, or each place's channels."""
    _needs(shape, at, "linear", 1, 2)
    out = whole(f"{at}.out", layer["out"], 1, caps.WIDTH)
    after = (*shape[:-1], out)
    make = partial(_make, "Linear", shape[-1], out)
    return Planned(after, make, linear_tensors("", shape[-1], out), prod(after))


def _window(size: int, kernel: int, stride: int, padding: int, at: str) -> int:
    out = (size + 2 * padding - kernel) // stride + 1
    if size + 2 * padding < kernel:
        raise ValueError(f"{at}.kernel: {kernel} is more than the {size} there are with {padding} of padding each side")
    return out


def _convolution(layer: Fields, at: str) -> tuple[int, int, int, int]:
    kernel = whole(f"{at}.kernel", layer["kernel"], 1, caps.KERNEL)
    return (
        whole(f"{at}.out", layer["out"], 1, caps.WIDTH),
        kernel,
        whole(f"{at}.stride", layer["stride"], 1, caps.STRIDE),
        whole(f"{at}.padding", layer["padding"], 0, kernel - 1),
    )


def _conv1d(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "conv1d", 2)
    length, channels = shape
    out, kernel, stride, padding = _convolution(layer, at)
    after = (_window(length, kernel, stride, padding, at), out)

    def make() -> torch.nn.Module:
        return _own("OverChannels", _make("Conv1d", channels, out, kernel, stride=stride, padding=padding))

    fan = channels * kernel
    tensors = (uniform("layer.weight", (out, channels, kernel), fan), uniform("layer.bias", (out,), fan))
    return Planned(after, make, tensors, 2 * prod(after) + prod(shape))  # turned round before and after


def _conv2d(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "conv2d", 3)
    channels, height, width = shape
    out, kernel, stride, padding = _convolution(layer, at)
    after = (out, *(_window(side, kernel, stride, padding, at) for side in (height, width)))
    make = partial(_make, "Conv2d", channels, out, kernel, stride=stride, padding=padding)
    fan = channels * kernel * kernel
    tensors = (uniform("weight", (out, channels, kernel, kernel), fan), uniform("bias", (out,), fan))
    return Planned(after, make, tensors, prod(after))


def _pooled(shape: Shape, sides: Shape, largest: bool) -> Planned:
    if len(shape) == 3:
        after = (shape[0], shape[1] // sides[0], shape[2] // sides[1])
    else:
        after = (shape[0] // sides[0], shape[1])
    return Planned(after, partial(_own, "Pool", sides, largest), (), 2 * prod(shape) + prod(after))


def _pool(layer: Fields, shape: Shape, at: str, *, largest: bool) -> Planned:
    _needs(shape, at, "a pool", 2, 3)
    size = whole(f"{at}.size", layer["size"], 1, caps.POOL)
    axes = shape[1:] if len(shape) == 3 else shape[:1]
    if min(axes) < size:
        raise ValueError(f"{at}.size: {size} is more than the {min(axes)} there are")
    return _pooled(shape, (size,) * len(axes), largest)


def _adaptive_pool(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "adaptive_pool", 2, 3)
    axes = shape[1:] if len(shape) == 3 else shape[:1]
    wanted = layer["out"]
    if not isinstance(wanted, list | tuple) or len(wanted) != len(axes):
        raise ValueError(f"{at}.out must be a list of {len(axes)} sizes")
    for side, out in zip(axes, wanted, strict=True):
        if side % whole(f"{at}.out", out, 1, side):  # windows of unequal size have no deterministic gradient on CUDA
            raise ValueError(f"{at}.out: {out} does not divide {side}")
    return _pooled(shape, tuple(side // out for side, out in zip(axes, wanted, strict=True)), False)


def _global_pool(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "global_pool", 2, 3)
    channels, over = (shape[0], [2, 3]) if len(shape) == 3 else (shape[1], [1])

    def make() -> torch.nn.Module:
        return _own("Mean", over)

    return Planned((channels,), make, (), channels)


def _flatten(layer: Fields, shape: Shape, at: str) -> Planned:
    return Planned((prod(shape),), partial(_make_plain, "Flatten"), (), prod(shape))


def _activation(layer: Fields, shape: Shape, at: str) -> Planned:
    return Planned(shape, partial(_activate, layer["type"]), (), prod(shape))


def _make_plain(name: str) -> torch.nn.Module:
    import torch

    return getattr(torch.nn, name)()


def _activate(name: str) -> torch.nn.Module:
    from cloudlinkup.training.networks.modules import ACTIVATIONS as MADE

    return MADE[name]()


def _layernorm(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "layernorm", 1, 2)
    make = partial(_make, "LayerNorm", shape[-1])
    return Planned(shape, make, normalised("", shape[-1]), prod(shape) + 2 * prod(shape[:-1]))


def _groupnorm(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "groupnorm", 2, 3)
    channels = shape[0] if len(shape) == 3 else shape[1]
    groups = whole(f"{at}.groups", layer["groups"], 1, channels)
    if channels % groups:
        raise ValueError(f"{at}.groups: {groups} does not divide {channels} channels")
    if prod(shape) // groups < 2:
        raise ValueError(f"{at}.groups: a group of one number has no spread")
    inner = partial(_make, "GroupNorm", groups, channels)
    kept = 3 * prod(shape) + 2 * groups
    if len(shape) == 3:
        return Planned(shape, inner, normalised("", channels), kept)
    return Planned(shape, lambda: _own("OverChannels", inner()), normalised("layer.", channels), kept)


def _embedding(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "embedding", 1)
    if at != f"{PLACE}[0]":
        raise ValueError(f"{at}: an embedding takes the rows' own numbers, so it must be the first layer")
    words = whole(f"{at}.words", layer["words"], 2, caps.OUTPUTS)
    width = whole(f"{at}.width", layer["width"], 1, caps.WIDTH)
    after = (shape[0], width)
    tensor = TensorLayout("weight", (words, width), sqrt(3.0 / width), edge=True)  # rows of length about 1
    return Planned(after, partial(_own, "Embedding", words, width), (tensor,), prod(after) + 4 * shape[0])


def _positions(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "positions", 2)
    tensor = TensorLayout("weight", shape, 0.02 * sqrt(3.0), edge=True)
    return Planned(shape, partial(_own, "Positions", *shape), (tensor,), prod(shape))


def _attention(layer: Fields, shape: Shape, at: str) -> Planned:
    _needs(shape, at, "attention", 2)
    length, width = shape
    heads = whole(f"{at}.heads", layer["heads"], 1, caps.HEADS)
    if width % heads:
        raise ValueError(f"{at}.heads: {heads} does not divide {width} channels")
    if not isinstance(layer["causal"], bool):
        raise ValueError(f"{at}.causal must be true or false")
    make = partial(_own, "Attention", width, heads, length, causal=layer["causal"])
    return Planned(shape, make, attention_tensors("", width), attention_kept(width, heads, length))


def attention_tensors(name: str, width: int) -> tuple[TensorLayout, ...]:
    """An attention's two linear layers."""
    into = linear_tensors(f"{name}inputs.", width, 3 * width)
    return (*into, *linear_tensors(f"{name}output.", width, width))


def _residual(layer: Fields, shape: Shape, at: str) -> Planned:
    if at.count(".layers") > caps.NESTED:  # the place says how deep it lies
        raise ValueError(f"{at}: residuals are nested more than {caps.NESTED} deep")
    inner = plan_layers(layer["layers"], shape, f"{at}.layers")
    if not inner:
        raise ValueError(f"{at}.layers must not be empty")
    if inner[-1].shape != shape:
        raise ValueError(f"{at}: its layers turn {shape} into {inner[-1].shape}, which cannot be added")

    def make() -> torch.nn.Module:
        return _own("Residual", *(planned.make() for planned in inner))

    kept = prod(shape) + sum(planned.kept for planned in inner)
    return Planned(shape, make, named(inner), kept, 1 + sum(planned.layers for planned in inner))


_Plan = Callable[[Fields, Shape, str], Planned]
_LAYERS: dict[str, tuple[tuple[str, ...], _Plan]] = {
    "linear": (("out",), linear),
    "conv1d": (("out", "kernel", "stride", "padding"), _conv1d),
    "conv2d": (("out", "kernel", "stride", "padding"), _conv2d),
    "max_pool": (("size",), partial(_pool, largest=True)),
    "avg_pool": (("size",), partial(_pool, largest=False)),
    "adaptive_pool": (("out",), _adaptive_pool),
    "global_pool": ((), _global_pool),
    "flatten": ((), _flatten),
    **{name: ((), _activation) for name in ACTIVATIONS},
    "layernorm": ((), _layernorm),
    "groupnorm": (("groups",), _groupnorm),
    "embedding": (("words", "width"), _embedding),
    "positions": ((), _positions),
    "attention": (("heads", "causal"), _attention),
    "residual": (("layers",), _residual),
}
TYPES = tuple(_LAYERS)
