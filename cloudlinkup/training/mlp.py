"""Loss gradients of a multi-layer perceptron, written out: the same function as `architectures.build` with autograd.

A 7,000-parameter network's step is all overhead: without autograd's graph, and with the gradient landing in one flat
buffer that the optimizer reads whole, it takes about half the time, for the contributor and for the audit. The tests
hold it against autograd. Losses are means over the batch: cross entropy, or squared error over rows and outputs.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from cloudlinkup.training.spec import TrainingSpec

_aten = torch.ops.aten
_FORWARD = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "tanh": torch.tanh, "silu": torch.nn.functional.silu}


def _backward(activation: str, gradient: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    if activation == "relu":
        return _aten.threshold_backward(gradient, after, 0)
    if activation == "tanh":
        return _aten.tanh_backward(gradient, after)
    return (_aten.gelu_backward if activation == "gelu" else _aten.silu_backward)(gradient, before)


class MlpGradient:
    """Bound to flat `weights` and `gradient` buffers of the spec's length: views, no copies."""

    def __init__(self, spec: TrainingSpec, weights: torch.Tensor, gradient: torch.Tensor) -> None:
        widths = [spec.inputs, *spec.model["hidden"], spec.outputs]
        self._activation = spec.model["activation"]
        self._classes = spec.task == "classification"
        self._weights = None
        if spec.class_weights is not None:
            self._weights = torch.tensor(spec.class_weights, dtype=torch.float32, device=weights.device)
        self._numbers = torch.arange(spec.outputs, device=weights.device)
        self._layers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        start = 0
        for fan_in, fan_out in pairwise(widths):
            middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
            self._layers.append(
                (
                    weights[start:middle].view(fan_out, fan_in),
                    weights[middle:end],
                    gradient[start:middle].view(fan_out, fan_in),
                    gradient[middle:end],
                )
            )
            start = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, inputs) to logits or targets (rows, outputs)."""
        activate = _FORWARD[self._activation]
        for weight, bias, _, _ in self._layers[:-1]:
            x = activate(torch.addmm(bias, x, weight.t()))
        weight, bias, _, _ = self._layers[-1]
        return torch.addmm(bias, x, weight.t())

    @torch.no_grad()
    def compute(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Fills the gradient buffer with the mean loss's gradient on a batch. `y`: int64 (rows,) or (rows, outputs)."""
        activate = _FORWARD[self._activation]
        inputs, sums = [x], []
        for weight, bias, _, _ in self._layers[:-1]:
            sums.append(torch.addmm(bias, inputs[-1], weight.t()))
            inputs.append(activate(sums[-1]))
        weight, bias, _, _ = self._layers[-1]
        out = torch.addmm(bias, inputs[-1], weight.t())
        if self._classes:
            step = torch.softmax(out, 1)
            step.add_(self._numbers == y.unsqueeze(1), alpha=-1)  # no scatter: plain arithmetic on every device
            if self._weights is None:
                step.mul_(1.0 / len(x))
            else:  # gathered by comparing, like the targets, so that every device adds alike
                each = (self._numbers == y.unsqueeze(1)).to(torch.float32).mv(self._weights)
                step.mul_((each / each.sum()).unsqueeze(1))
        else:
            step = torch.sub(out, y).mul_(2.0 / out.numel())
        for layer in range(len(self._layers) - 1, -1, -1):
            weight, _, weight_gradient, bias_gradient = self._layers[layer]
            torch.mm(step.t(), inputs[layer], out=weight_gradient)
            torch.sum(step, 0, out=bias_gradient)
            if layer:
                step = _backward(self._activation, torch.mm(step, weight), sums[layer - 1], inputs[layer])
