"""Muon (Jordan 2024): hidden matrices move by their orthogonalised momentum; all else is AdamW's.

A matrix's step is the nearest (semi-)orthogonal matrix to its Nesterov momentum, so that every direction of it is
learnt alike, where AdamW follows the few strongest. Near is enough: five Newton-Schulz iterations of Jordan's quintic
bring the singular values to 0.7 to 1.2. Scaled by 0.2 sqrt(larger side), its entries are as large as AdamW's (Liu et
al. 2025, Muon is Scalable for LLM Training), so both go by one learning rate. A convolution's kernel is one matrix of
its outputs; embeddings and what gives the outputs stay AdamW's (`TensorLayout.edge`).

The momentum is AdamW's own first moment, so state, openings and packed moments are the same bytes as without Muon. In
fp32 throughout, by the kernels that the network's own gradient uses: the same bits under the same conditions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from cloudlinkup.training.architectures import layout
from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import torch

ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
SIZE = 0.2  # root mean square of a step's entries, over the learning rate
LEAST = 1e-7  # of a norm


@dataclass(frozen=True)
class Matrix:
    """Where it stands in the flat vector, and its sides."""

    start: int
    rows: int
    columns: int

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """(rows, columns), a view."""
        return flat[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)


def matrices(spec: TrainingSpec) -> tuple[Matrix, ...]:
    """Those that Muon moves, of a checked spec; none for another optimizer."""
    found, start = [], 0
    for tensor in layout(spec):
        if spec.optimizer == "muon" and len(tensor.shape) > 1 and not tensor.edge:
            found.append(Matrix(start, tensor.shape[0], tensor.size // tensor.shape[0]))
        start += tensor.size
    return tuple(found)


def direction(gradient: torch.Tensor, momentum: torch.Tensor, beta: float) -> torch.Tensor:
    """What to go against, (rows, columns), for one learning rate. `momentum` has the gradient in it already."""
    return orthogonal(gradient.lerp(momentum, beta)).mul_(SIZE * sqrt(max(gradient.shape)))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About the nearest semi-orthogonal matrix, a new one of the same shape; zeros of zeros."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).contiguous()
    x = x / x.norm().clamp_min(LEAST)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.T if tall else x).contiguous()
