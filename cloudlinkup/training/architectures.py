"""From a training spec to a network, and between a network and one flat fp32 vector.

A spec names an architecture and its sizes; nothing of it is code, and its caps are checked before anything is built.
The flat order is fixed: layer by layer from the input, each layer's weight (out, in) row by row, then its bias.
Initial weights come from raw Philox words and exact arithmetic alone, so every machine computes the same bytes.
Covers multi-layer perceptrons. Standardising the inputs is not a layer: it happens before training (`tables/`).
"""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np

from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.hashes import digest

if TYPE_CHECKING:
    import torch

ACTIVATIONS = ("relu", "gelu", "tanh", "silu")
MAX_LAYERS = 16
MAX_WIDTH = 8_192
MAX_INPUTS = 100_000
MAX_PARAMETERS = 50_000_000
MAX_BATCH = 65_536


def _whole(name: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}")
    return value


def _check_class_weights(spec: TrainingSpec) -> None:
    given = spec.class_weights
    fit = isinstance(given, tuple) and spec.task == "classification" and len(given) == spec.outputs
    if not fit or not all(isinstance(w, float) and isfinite(w) and 1e-6 <= w <= 1e6 for w in given or ()):
        raise ValueError("class_weights must be one number from 1e-6 to 1e6 for each class of a classification")


def check_spec(spec: TrainingSpec) -> None:
    """Raises ValueError for a spec outside the allowed architectures, types or caps. Builds nothing."""
    if spec.task not in ("classification", "regression"):
        raise ValueError("task must be classification or regression")
    if spec.precision != "fp32":
        raise ValueError("precision must be fp32")
    if not isinstance(spec.model, dict) or set(spec.model) != {"kind", "hidden", "activation"}:
        raise ValueError("model must have exactly kind, hidden and activation")
    if spec.model["kind"] != "mlp":
        raise ValueError("model.kind must be mlp")
    if spec.model["activation"] not in ACTIVATIONS:
        raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}")
    hidden = spec.model["hidden"]
    if not isinstance(hidden, list | tuple) or len(hidden) > MAX_LAYERS:
        raise ValueError(f"model.hidden must be a list of at most {MAX_LAYERS} widths")
    for width in hidden:
        _whole("model.hidden", width, 1, MAX_WIDTH)
    _whole("inputs", spec.inputs, 1, MAX_INPUTS)
    _whole("outputs", spec.outputs, 2 if spec.task == "classification" else 1, MAX_WIDTH)
    _whole("batch", spec.batch, 1, MAX_BATCH)
    _whole("seed", spec.seed, 0, 2**63 - 1)
    if spec.class_weights is not None:
        _check_class_weights(spec)
    lr = spec.lr
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not isfinite(lr) or not 0 < lr <= 1:
        raise ValueError("lr must be above 0 and at most 1")
    count = sum((fan_in + 1) * fan_out for fan_in, fan_out in _layers(spec))
    if count > MAX_PARAMETERS:
        raise ValueError(f"{count} parameters are more than {MAX_PARAMETERS}")


def _layers(spec: TrainingSpec) -> list[tuple[int, int]]:
    widths = [spec.inputs, *spec.model["hidden"], spec.outputs]
    return list(pairwise(widths))


def parameter_count(spec: TrainingSpec) -> int:
    """Number of parameters, without building anything. Raises ValueError as `check_spec`."""
    check_spec(spec)
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in _layers(spec))


def initial_weights(spec: TrainingSpec) -> np.ndarray:
    """The flat fp32 start: uniform in +-1/sqrt(fan in) for weights and biases. Raises ValueError as `check_spec`."""
    count = parameter_count(spec)
    key = np.frombuffer(digest("initial weights", spec.seed)[:16], "<u8")
    words = np.random.Philox(key=key).random_raw(count)
    unit = (words >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0  # 24 bits, exact
    flat = np.empty(count, np.float32)
    start = 0
    for fan_in, fan_out in _layers(spec):
        end = start + (fan_in + 1) * fan_out
        flat[start:end] = unit[start:end] * (1.0 / sqrt(fan_in))
        start = end
    return flat


def build(spec: TrainingSpec) -> torch.nn.Module:
    """The network, (rows, inputs) to (rows, outputs), with its initial weights. Raises ValueError as `check_spec`."""
    module = _skeleton(spec)
    load_flat(module, initial_weights(spec))
    return module


def build_with(spec: TrainingSpec, weights: np.ndarray) -> torch.nn.Module:
    """The network with these flat weights. Raises ValueError as `check_spec`, or for a wrong length."""
    module = _skeleton(spec)
    load_flat(module, weights)
    return module


def _skeleton(spec: TrainingSpec) -> torch.nn.Module:
    check_spec(spec)
    import torch

    activation = {
        "relu": torch.nn.ReLU,
        "gelu": torch.nn.GELU,
        "tanh": torch.nn.Tanh,
        "silu": torch.nn.SiLU,
    }[spec.model["activation"]]
    parts: list[torch.nn.Module] = []
    for fan_in, fan_out in _layers(spec):
        # skip_init: torch's own initialisation would draw from, and move, the process's global generator
        parts += [torch.nn.utils.skip_init(torch.nn.Linear, fan_in, fan_out, dtype=torch.float32), activation()]
    return torch.nn.Sequential(*parts[:-1])


def load_flat(module: torch.nn.Module, flat: np.ndarray) -> None:
    """Copies a flat vector into the module's parameters. Raises ValueError when its length differs."""
    import torch

    parameters = list(module.parameters())
    if flat.ndim != 1 or flat.shape[0] != sum(p.numel() for p in parameters):
        raise ValueError(f"{flat.shape} is not this network's flat shape")
    start = 0
    with torch.no_grad():
        for parameter in parameters:
            end = start + parameter.numel()
            piece = np.array(flat[start:end], np.float32)
            parameter.copy_(torch.from_numpy(piece).view_as(parameter))
            start = end


def flat_weights(module: torch.nn.Module) -> np.ndarray:
    """The module's parameters as one new flat fp32 vector."""
    return np.concatenate([p.detach().cpu().numpy().reshape(-1) for p in module.parameters()])
