"""What a training step is made of, from a trace on PyTorch's meta device: no data, no arithmetic, no device's name.

A step's forward and backward pass runs once on tensors without storage, and a dispatch mode counts what would be
launched. The figures of one step at the given batch:

    kernels            operations launched; views are free, and sums of gradients are not counted (autograd launches
                       them without leaving C++, so they cost a fraction of a layer's launch)
    macs               multiply-accumulates of matrix products and convolutions, forward and backward
    grouped_macs       those of grouped convolutions, which run far below a device's peak
    matmul_bytes       bytes that products and convolutions read and write
    elementwise_bytes  bytes that everything else reads and writes
    parameters         numbers trained
    low_share          share of the MACs at fewer than 10 MACs a byte: bound by memory, not by arithmetic

Not here: what the framework fuses or recomputes, and the optimizer's own kernels (in proportion to parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cloudlinkup.training.architectures import empty
from cloudlinkup.training.spec import TrainingSpec

NAMES = ("kernels", "macs", "grouped_macs", "matmul_bytes", "elementwise_bytes", "parameters", "low_share")
LOW_INTENSITY = 10.0  # MACs a byte
# allocation and views of storage: nothing is launched
_FREE = {"detach", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh", "alias"}


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for item in value for t in _tensors(item)]
    return []


def _product_macs(name: str, args: tuple[Any, ...], out: Any) -> tuple[float, bool] | None:
    """(MACs, grouped) of a matrix product or convolution; None for everything else."""
    if name in ("mm", "bmm"):
        return float(prod(args[0].shape)) * args[1].shape[-1], False
    if name in ("addmm", "baddbmm"):
        return float(prod(args[1].shape)) * args[2].shape[-1], False
    if name == "convolution":
        groups = args[8]
        return float(out.numel()) * prod(args[1].shape[1:]), groups > 1
    if name == "convolution_backward":
        grad, weight, groups, mask = args[0], args[2], args[9], args[10]
        return float(grad.numel()) * prod(weight.shape[1:]) * (bool(mask[0]) + bool(mask[1])), groups > 1
    return None


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.backward = False
        self.totals = dict.fromkeys(("kernels", "macs", "grouped_macs", "matmul_bytes", "elementwise_bytes"), 0.0)
        self.low = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if func.is_view or name in _FREE:
            return out
        read = args[1:] if name == "embedding" else args  # of a vocabulary, only the words that are there
        moved = sum(t.numel() * t.element_size() for t in _tensors(read) + _tensors(out))
        self.totals["kernels"] += not (self.backward and name == "add")
        product = _product_macs(name, args, out)
        if product is None:
            self.totals["elementwise_bytes"] += moved
            return out
        macs, grouped = product
        self.totals["macs"] += macs
        self.totals["grouped_macs"] += macs if grouped else 0.0
        self.totals["matmul_bytes"] += moved
        self.low += macs if macs < LOW_INTENSITY * moved else 0.0
        return out


def trace(
    module: torch.nn.Module, inputs: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, float]:
    """Features of one forward and backward pass of a module on the meta device.

    `inputs` is a meta tensor, `loss` maps the module's output to a scalar.
    """
    with _Count() as count:
        value = loss(module(inputs))
        count.backward = True
        value.backward()
    macs = count.totals["macs"]
    return {
        **count.totals,
        "parameters": float(sum(p.numel() for p in module.parameters() if p.requires_grad)),
        "low_share": count.low / macs if macs else 0.0,
    }


def graph_features(spec: TrainingSpec) -> dict[str, float]:
    """Features of one training step of this spec at its batch, by name (`NAMES`): of each piece, where it is taken in
    pieces. In fp32 whatever the spec's precision. Raises ValueError as `empty`."""
    module = empty(spec)
    rows = spec.micro_batch or spec.batch
    tokens = spec.task == "next_token"
    inputs = torch.empty(rows, spec.inputs, dtype=torch.int32 if tokens else torch.float32, device="meta")
    if spec.task == "regression":
        wanted = torch.empty(rows, spec.outputs, device="meta")
        found = trace(module, inputs, lambda out: torch.nn.functional.mse_loss(out, wanted))
    else:
        target = torch.empty(rows * spec.inputs if tokens else rows, dtype=torch.int64, device="meta")
        flat = (-1, spec.outputs)
        found = trace(module, inputs, lambda out: torch.nn.functional.cross_entropy(out.reshape(flat), target))
    of_the_network = ("parameters", "low_share")
    return {name: value * (1 if name in of_the_network else spec.batch / rows) for name, value in found.items()}
