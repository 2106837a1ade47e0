"""From a spec to the function that fills a flat gradient buffer: what a training step is made of.

Every kind of network trains through `ModuleGradient`, torch's autograd over views of the flat buffers; a perceptron
through its own gradient (`mlp.py`), which is the same function and takes half the time. The choice follows from the
spec alone, so contributor and audit compute the same bytes.

`micro_batch` splits a step's rows into pieces, in order, whose gradients add up to the batch's: less memory, and other
rounding than without, which is why it stands in the spec. In bf16 the forward pass runs under autocast; weights,
gradients and optimizer stay fp32.
"""

from __future__ import annotations

from typing import Protocol

import torch

from cloudlinkup.training.architectures import skeleton
from cloudlinkup.training.mlp import MlpGradient
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.spec import TrainingSpec


class Gradient(Protocol):
    """Bound to flat `weights` and `gradient` buffers of the spec's length."""

    def compute(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Fills the gradient buffer with the mean loss's gradient on a batch."""
        ...


def make_gradient(
    spec: TrainingSpec, weights: torch.Tensor, gradient: torch.Tensor, frozen: FrozenWeights | None = None
) -> Gradient:
    """The spec's gradient, on the buffers' device. Raises ValueError where `frozen` does not fit the spec."""
    if spec.model["kind"] == "mlp" and spec.precision == "fp32" and spec.micro_batch is None:
        return MlpGradient(spec, weights, gradient)
    return ModuleGradient(spec, weights, gradient, frozen)


class ModuleGradient:
    """Autograd's: the module's trained parameters and their gradients are views of the two flat buffers."""

    def __init__(
        self, spec: TrainingSpec, weights: torch.Tensor, gradient: torch.Tensor, frozen: FrozenWeights | None = None
    ) -> None:
        self._gradient, self._spec = gradient, spec
        self._module = skeleton(spec, frozen).to(weights.device)
        self._class_weights = None
        if spec.class_weights is not None:
            self._class_weights = torch.tensor(spec.class_weights, dtype=torch.float32, device=weights.device)
        start = 0
        for parameter in self._module.parameters():
            if parameter.requires_grad:
                end = start + parameter.numel()
                parameter.data = weights[start:end].view_as(parameter)
                parameter.grad = gradient[start:end].view_as(parameter)
                start = end
        if start != weights.numel():
            raise ValueError(f"the network trains {start} numbers, not {weights.numel()}")

    def compute(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """`y`: int64 (rows,), fp32 (rows, outputs), or int32 (rows, length) of next tokens."""
        self._gradient.zero_()
        size = self._spec.micro_batch or len(x)
        with torch.enable_grad():
            total = self._weight(y)
            for start in range(0, len(x), size):
                loss = self._loss(x[start : start + size], y[start : start + size])
                (loss / total).backward()

    def _weight(self, y: torch.Tensor) -> torch.Tensor | float:
        """What the summed loss is divided by: elements, or the sum of their class weights."""
        return float(y.numel()) if self._class_weights is None else self._class_weights[y].sum()

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The summed loss of a piece."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self._spec.precision == "bf16"):
            out = self._module(x)
        out = out.float()
        if self._spec.task == "regression":
            return torch.nn.functional.mse_loss(out, y, reduction="sum")
        if self._spec.task == "next_token":
            out, y = out.flatten(0, 1), y.reshape(-1).long()
        return torch.nn.functional.cross_entropy(out, y, weight=self._class_weights, reduction="sum")
