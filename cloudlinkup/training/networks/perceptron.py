"""`mlp`: a multi-layer perceptron, linear layers with one activation between them.

Its flat order is layer by layer from the input, each layer's weight (out, in) row by row, then its bias; both start
uniform in +-1/sqrt(fan in). `training/mlp.py` has its gradient written out.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING

from cloudlinkup.training.networks.kind import FrozenWeights, TensorLayout, fields, whole
from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import torch

ACTIVATIONS = ("relu", "gelu", "tanh", "silu")
MAX_LAYERS = 16
MAX_WIDTH = 8_192


class Perceptron:
    """model: `hidden`, a list of widths, and `activation`."""

    tasks = ("classification", "regression")

    def check(self, spec: TrainingSpec) -> None:
        fields(spec.model, "mlp", "hidden", "activation")
        if spec.model["activation"] not in ACTIVATIONS:
            raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}")
        hidden = spec.model["hidden"]
        if not isinstance(hidden, list | tuple) or len(hidden) > MAX_LAYERS:
            raise ValueError(f"model.hidden must be a list of at most {MAX_LAYERS} widths")
        for width in hidden:
            whole("model.hidden", width, 1, MAX_WIDTH)
        whole("outputs", spec.outputs, 1, MAX_WIDTH)

    def layout(self, spec: TrainingSpec) -> tuple[TensorLayout, ...]:
        parts: list[TensorLayout] = []
        for k, (fan_in, fan_out) in enumerate(_layers(spec)):
            bound = 1.0 / sqrt(fan_in)
            parts.append(TensorLayout(f"{2 * k}.weight", (fan_out, fan_in), bound))
            parts.append(TensorLayout(f"{2 * k}.bias", (fan_out,), bound))
        return tuple(parts)

    def activations(self, spec: TrainingSpec) -> int:
        return sum([spec.inputs, *spec.model["hidden"], spec.outputs])

    def module(self, spec: TrainingSpec, frozen: FrozenWeights | None) -> torch.nn.Module:
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


def _layers(spec: TrainingSpec) -> list[tuple[int, int]]:
    return list(pairwise([spec.inputs, *spec.model["hidden"], spec.outputs]))
