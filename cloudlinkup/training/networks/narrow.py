"""Layers whose frozen matrices stay in 16 bits, and the network's outer face. Imported only where one is built.

A matrix is widened to the dtype of what it meets each time it is used, forward and backward, and the wide copy is
dropped again: what autograd keeps is the narrow one. Widening bf16 and fp16 to fp32 is exact.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


class LanguageModel(torch.nn.Module):
    """(rows, length) token numbers to logits (rows, length, vocabulary). `network`: the library's own."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        everywhere = torch.ones_like(tokens, dtype=torch.bool)  # said outright: the library looks at values else
        return self.network(input_ids=tokens.long(), attention_mask=everywhere, use_cache=False).logits


def _computing(x: torch.Tensor) -> torch.dtype:
    """The dtype of a product with `x`, under autocast too."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _Product(torch.autograd.Function):
    """x @ matrix, where the matrix has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(matrix)
        ctx.given = x.dtype
        dtype = _computing(x)
        with torch.autocast(x.device.type, enabled=False):
            return x.to(dtype) @ matrix.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (matrix,) = ctx.saved_tensors
        return (grads[0] @ matrix.to(grads[0].dtype).T).to(ctx.given), None


class NarrowLinear(torch.nn.Linear):
    """weight (out, in) in 16 bits, bias in fp32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        out = _Product.apply(input, self.weight.T)
        return out if self.bias is None else out + self.bias.to(out.dtype)


class NarrowEmbedding(torch.nn.Embedding):
    """weight (words, width) in 16 bits; gives fp32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(input, self.weight).float()


@cache
def NARROW() -> dict[type, type]:  # noqa: N802 (a table that needs the library)
    """Which layer takes whose place."""
    from transformers.pytorch_utils import Conv1D

    class NarrowConv1D(Conv1D):
        """GPT-2's linear layer: weight (in, out) in 16 bits, bias in fp32."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = _Product.apply(x, self.weight)
            return out + self.bias.to(out.dtype)

    return {torch.nn.Linear: NarrowLinear, torch.nn.Embedding: NarrowEmbedding, Conv1D: NarrowConv1D}
