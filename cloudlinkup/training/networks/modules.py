"""The modules that torch does not have in the form that replays: the same bits each time, on CPU and on CUDA.

Attention is written out: torch's fused kernels add gradients in an order that changes from run to run. Pooling windows
do not overlap, so that they are reductions over a reshaped axis: torch's own pooling adds with atomics on CUDA.
Sequences are (rows, length, channels) throughout, as attention takes them.

No layer here keeps running statistics (batch normalisation): they are state outside the flat vector, and a replay
that starts from an opened state would not have them. There is no dropout: torch's generators give other masks on CUDA
than on CPU, and other ones in a replay that does not begin where training did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

ROTARY_BASE = 10_000.0  # of Su et al. 2021, RoFormer

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


def bare(kind: type[nn.Module], *sizes: int, **settings: object) -> nn.Module:
    """A torch layer with parameters of any value: its own initialisation would move torch's global generator."""
    return nn.utils.skip_init(kind, *sizes, dtype=torch.float32, **settings)


class Shaped(nn.Sequential):
    """A network whose rows come flat and are given their shape, (rows, inputs) to (rows, *shape), first."""

    def __init__(self, shape: tuple[int, ...], parts: Sequence[nn.Module]) -> None:
        super().__init__(*parts)
        self._shape = shape

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.reshape(len(input), *self._shape))


class Residual(nn.Sequential):
    """What its layers make of the input, added to it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input + super().forward(input)


class Pool(nn.Module):
    """Each window's mean or maximum, windows side by side: (rows, channels, height, width) or (rows, length, channels).

    `size`: sides of a window. What is left over at the end of an axis is dropped.
    """

    def __init__(self, size: tuple[int, ...], largest: bool) -> None:
        super().__init__()
        self._size, self._largest = size, largest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = 2 if len(self._size) == 2 else 1
        shape, over = list(x.shape[:first]), []
        for axis, side in enumerate(self._size, first):
            windows = x.shape[axis] // side
            x = x.narrow(axis, 0, windows * side)
            over.append(len(shape) + 1)
            shape += [windows, side]
        x = x.reshape(*shape, *x.shape[first + len(self._size) :])
        return x.amax(over) if self._largest else x.mean(over)


class Mean(nn.Module):
    """The mean over axes, which are dropped."""

    def __init__(self, over: list[int]) -> None:
        super().__init__()
        self._over = over

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self._over)


class OverChannels(nn.Module):
    """A layer that wants (rows, channels, length), on (rows, length, channels)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.transpose(1, 2).contiguous()).transpose(1, 2).contiguous()


class Embedding(nn.Module):
    """(rows, length) of whole numbers, given as numbers of any kind, to (rows, length, width).

    A number outside the vocabulary counts as its nearest: a table's value can never read beyond the weights.
    """

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(words, width, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(x.clamp(0, len(self.weight) - 1).long(), self.weight)


class Positions(nn.Module):
    """A trained vector added at each place: (rows, length, width)."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, width, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight[: x.shape[1]]


class Attention(nn.Module):
    """Multi-head self-attention, (rows, length, width) to the same. `causal`: a place sees itself and earlier ones.

    `rotary`: positions turn queries and keys (RoFormer), the first half of a head's numbers against the second.
    """

    def __init__(self, width: int, heads: int, length: int, *, causal: bool, rotary: bool = False) -> None:
        super().__init__()
        self.inputs, self.output = bare(nn.Linear, width, 3 * width), bare(nn.Linear, width, width)
        self._heads, self._causal, self._rotary = heads, causal, rotary
        if causal:
            ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
            self.register_buffer("_ahead", ahead, persistent=False)
        if rotary:
            cosine, sine = rotations(length, width // heads)
            self.register_buffer("_cosine", cosine, persistent=False)
            self.register_buffer("_sine", sine, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        parts = self.inputs(x).reshape(rows, length, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        if self._rotary:
            q, k = self._turned(q), self._turned(k)
        scores = torch.matmul(q * (width // self._heads) ** -0.5, k.transpose(2, 3)).float()
        if self._causal:
            scores = scores.masked_fill(self.get_buffer("_ahead")[:length, :length], -math.inf)
        mixed = torch.matmul(torch.softmax(scores, 3).to(v.dtype), v)
        return self.output(mixed.transpose(1, 2).reshape(rows, length, width))

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, heads, length, size), each place's pairs turned by its angles."""
        first, second = x.float().chunk(2, 3)
        cosine, sine = (self.get_buffer(name)[: x.shape[2]] for name in ("_cosine", "_sine"))
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], 3).to(x.dtype)


def rotations(length: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosines, sines) fp32 (length, size / 2): place p turns pair i by p / ROTARY_BASE^(2 i / size).

    In float64 by the C library and rounded once, so that machines agree.
    """
    angles = [[p * ROTARY_BASE ** (-2 * i / size) for i in range(size // 2)] for p in range(length)]
    cosine, sine = ([[f(a) for a in row] for row in angles] for f in (math.cos, math.sin))
    return torch.tensor(cosine, dtype=torch.float32), torch.tensor(sine, dtype=torch.float32)


class Decoder(nn.Module):
    """A causal language model: int (rows, length) of tokens to fp32 logits (rows, length, words)."""

    def __init__(
        self, words: int, context: int, width: int, depth: int, heads: int, *, rotary: bool, tied: bool
    ) -> None:
        super().__init__()
        self.tokens = Embedding(words, width)
        self.positions = None if rotary else Positions(context, width)
        self.blocks = nn.Sequential(*(_block(width, heads, context, rotary) for _ in range(depth)))
        self.norm = bare(nn.LayerNorm, width)
        self.head = None if tied else bare(nn.Linear, width, words, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens)
        x = self.norm(self.blocks(x if self.positions is None else self.positions(x)))
        # a tied head reads the embedding's weight, so that there is one parameter and one place in the flat order
        return (self.head(x) if self.head is not None else nn.functional.linear(x, self.tokens.weight)).float()


def _block(width: int, heads: int, context: int, rotary: bool) -> nn.Module:
    attention = Attention(width, heads, context, causal=True, rotary=rotary)
    inner, outer = bare(nn.Linear, width, 4 * width), bare(nn.Linear, 4 * width, width)
    return nn.Sequential(
        Residual(bare(nn.LayerNorm, width), attention),
        Residual(bare(nn.LayerNorm, width), inner, nn.GELU(), outer),
    )
