"""`sequential`: layers of the allow-list (`layers.py`), one after the other, and a linear layer to the outputs last.

`mlp` and `cnn` are shorthands: they expand into it, and everything else is the same code. The flat order is layer by
layer from the input, each layer's weight (out first) row by row, then its bias.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from cloudlinkup.training import caps
from cloudlinkup.training.networks.kind import FrozenWeights, TensorLayout, fields, whole
from cloudlinkup.training.networks.layers import ACTIVATIONS, Planned, Shape, linear, named, plan_layers
from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import torch

Layers = list[dict[str, Any]]


class Sequential:
    """model: `input`, a row's shape (null: flat), whose product is the spec's inputs, and `layers`."""

    tasks = ("classification", "regression")

    def expand(self, spec: TrainingSpec) -> tuple[object, object]:
        """(input, layers) of the same network written as `sequential`. Raises ValueError."""
        fields(spec.model, "sequential", "input", "layers")
        return spec.model["input"], spec.model["layers"]

    def check(self, spec: TrainingSpec) -> None:
        _plan(spec, *self.expand(spec))

    def layout(self, spec: TrainingSpec) -> tuple[TensorLayout, ...]:
        tensors = named(_plan(spec, *self.expand(spec))[1])
        last = max(number for number, tensor in enumerate(tensors) if len(tensor.shape) > 1)  # gives the outputs
        return (*tensors[:last], replace(tensors[last], edge=True), *tensors[last + 1 :])

    def activations(self, spec: TrainingSpec) -> int:
        planned = _plan(spec, *self.expand(spec))[1]
        return spec.inputs + 2 * spec.outputs + sum(one.kept for one in planned)  # the loss keeps two of the outputs

    def module(self, spec: TrainingSpec, frozen: FrozenWeights | None) -> torch.nn.Module:
        from cloudlinkup.training.networks.modules import Shaped

        shape, planned = _plan(spec, *self.expand(spec))
        return Shaped(shape, [one.make() for one in planned])


class Perceptron(Sequential):
    """`mlp`: `hidden`, a list of widths, and `activation`: linear layers with one activation between them.

    `training/mlp.py` has its gradient written out.
    """

    def expand(self, spec: TrainingSpec) -> tuple[object, object]:
        fields(spec.model, "mlp", "hidden", "activation")
        activation = _activation(spec)
        return None, _dense(_sizes("model.hidden", spec.model["hidden"], caps.HIDDEN), activation)


class Convolutional(Sequential):
    """`cnn`: `input`, `channels`, `kernel`, `hidden` and `activation`.

    For each of `channels` a convolution that keeps the image's size (`kernel` is odd), the activation, and the largest
    of each 2 by 2 pixels; then linear layers of `hidden` widths.
    """

    def expand(self, spec: TrainingSpec) -> tuple[object, object]:
        fields(spec.model, "cnn", "input", "channels", "kernel", "hidden", "activation")
        activation, shape = _activation(spec), _shape(spec, spec.model["input"])
        if len(shape) != 3:
            raise ValueError("model.input of a cnn must be [channels, height, width]")
        kernel = whole("model.kernel", spec.model["kernel"], 1, caps.KERNEL)
        if kernel % 2 == 0:
            raise ValueError(f"model.kernel must be odd, so that the image keeps its size, and is {kernel}")
        channels = _sizes("model.channels", spec.model["channels"], caps.HIDDEN)
        least = min(shape[1:])
        if not channels or least >> len(channels) < 1:
            most = least.bit_length() - 1
            raise ValueError(f"model.channels must have 1 to {most} entries: each halves {shape[1]} by {shape[2]}")
        layers: Layers = []
        for out in channels:
            layers.append({"type": "conv2d", "out": out, "kernel": kernel, "stride": 1, "padding": kernel // 2})
            layers += [{"type": activation}, {"type": "max_pool", "size": 2}]
        hidden = _dense(_sizes("model.hidden", spec.model["hidden"], caps.HIDDEN), activation)
        return list(shape), [*layers, {"type": "flatten"}, *hidden]


def _activation(spec: TrainingSpec) -> str:
    if spec.model["activation"] not in ACTIVATIONS:
        raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}")
    return spec.model["activation"]


def _sizes(name: str, sizes: object, most: int) -> list[int]:
    if not isinstance(sizes, list | tuple) or len(sizes) > most:
        raise ValueError(f"{name} must be a list of at most {most} widths")
    return [whole(name, size, 1, caps.WIDTH) for size in sizes]


def _dense(widths: list[int], activation: str) -> Layers:
    return [layer for width in widths for layer in ({"type": "linear", "out": width}, {"type": activation})]


def _shape(spec: TrainingSpec, given: object) -> Shape:
    """A row's shape. Raises ValueError."""
    if given is None:
        return (spec.inputs,)
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= 3:
        raise ValueError("model.input must be null, [features], [length, channels] or [channels, height, width]")
    shape = tuple(whole("model.input", side, 1, caps.INPUTS) for side in given)
    if prod(shape) != spec.inputs:
        raise ValueError(f"model.input {list(shape)} takes {prod(shape)} numbers a row, and a row has {spec.inputs}")
    return shape


def _plan(spec: TrainingSpec, given: object, layers: object) -> tuple[Shape, list[Planned]]:
    """(a row's shape, the layers with the one to the outputs). Raises ValueError."""
    shape = _shape(spec, given)
    planned = plan_layers(layers, shape)
    last = planned[-1].shape if planned else shape
    if len(last) != 1:
        raise ValueError(f"model.layers end in {last}: add flatten or global_pool last")
    whole("outputs", spec.outputs, 1, caps.WIDTH)
    return shape, [*planned, linear({"out": spec.outputs}, last, "the layer to the outputs")]
