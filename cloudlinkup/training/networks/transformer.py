"""`transformer`: a decoder that gives, at each place of a window of tokens, the logits of the token that follows.

Token embedding (and trained positions, unless they are rotary), blocks, a last layer norm, the head. A block adds
attention over the places so far to its input, then a two-layer network of four times the width with GELU, each after
its own layer norm (pre-norm, as in GPT-2). The flat order is that, block by block; a tied head is the embedding's
own tensor and adds none. Weights start uniform with the standard deviation 0.02, the two that add to a block's input
divided by sqrt(2 depth), as GPT-2's; biases at 0.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from cloudlinkup.training import caps
from cloudlinkup.training.networks.kind import FrozenWeights, TensorLayout, fields, whole
from cloudlinkup.training.networks.layers import attention_kept, normalised
from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import torch

POSITIONS = ("learned", "rotary")
_BOUND = 0.02 * sqrt(3.0)  # a uniform distribution's standard deviation is its bound over sqrt(3)


class Transformer:
    """model: `width`, `depth`, `heads`, `context` (which is the spec's inputs), `positions` and `tied`.

    The vocabulary is the spec's outputs. `context` stands in the model too, because a client's job has no other place
    that says it.
    """

    tasks = ("next_token",)

    def check(self, spec: TrainingSpec) -> None:
        model = spec.model
        fields(model, "transformer", "width", "depth", "heads", "context", "positions", "tied")
        width = whole("model.width", model["width"], 1, caps.WIDTH)
        whole("model.depth", model["depth"], 1, caps.BLOCKS)
        heads = whole("model.heads", model["heads"], 1, caps.HEADS)
        context = whole("model.context", model["context"], 1, caps.CONTEXT)
        if context != spec.inputs:
            raise ValueError(f"model.context is {context}, and the windows have {spec.inputs} tokens")
        if width % heads:
            raise ValueError(f"model.heads: {heads} does not divide the width {width}")
        if model["positions"] not in POSITIONS:
            raise ValueError(f"model.positions must be one of {', '.join(POSITIONS)}")
        if model["positions"] == "rotary" and width // heads % 2:
            raise ValueError(f"model.positions: rotary needs an even width a head, and it is {width // heads}")
        if not isinstance(model["tied"], bool):
            raise ValueError("model.tied must be true or false")
        if (kept := self.activations(spec)) > caps.ACTIVATIONS:
            raise ValueError(f"model.context: a window takes {kept} numbers of activations, over {caps.ACTIVATIONS}")

    def layout(self, spec: TrainingSpec) -> tuple[TensorLayout, ...]:
        model = spec.model
        width, depth = model["width"], model["depth"]
        parts = [TensorLayout("tokens.weight", (spec.outputs, width), _BOUND, edge=True)]
        if model["positions"] == "learned":
            parts.append(TensorLayout("positions.weight", (spec.inputs, width), _BOUND, edge=True))
        into = _BOUND / sqrt(2 * depth)
        for block in range(depth):
            at = f"blocks.{block}."
            parts += normalised(f"{at}0.0.", width)
            parts += _linear(f"{at}0.1.inputs.", width, 3 * width)
            parts += _linear(f"{at}0.1.output.", width, width, into)
            parts += normalised(f"{at}1.0.", width)
            parts += _linear(f"{at}1.1.", width, 4 * width)
            parts += _linear(f"{at}1.3.", 4 * width, width, into)
        parts += normalised("norm.", width)
        if not model["tied"]:
            parts.append(TensorLayout("head.weight", (spec.outputs, width), _BOUND, edge=True))
        return tuple(parts)

    def activations(self, spec: TrainingSpec) -> int:
        model, length = spec.model, spec.inputs
        width = model["width"]
        # two sums, two norms with their two numbers a place, four times the width before and after GELU, its output;
        # rotary keeps queries and keys once more, in halves
        rotary = 4 * length * width if model["positions"] == "rotary" else 0
        block = attention_kept(width, model["heads"], length) + rotary + length * (13 * width + 4)
        return model["depth"] * block + length * (4 * width + 6) + 3 * length * spec.outputs

    def module(self, spec: TrainingSpec, frozen: FrozenWeights | None) -> torch.nn.Module:
        from cloudlinkup.training.networks.modules import Decoder

        model = spec.model
        return Decoder(
            spec.outputs,
            spec.inputs,
            model["width"],
            model["depth"],
            model["heads"],
            rotary=model["positions"] == "rotary",
            tied=model["tied"],
        )


def _linear(name: str, fan_in: int, fan_out: int, bound: float = _BOUND) -> list[TensorLayout]:
    return [TensorLayout(f"{name}weight", (fan_out, fan_in), bound), TensorLayout(f"{name}bias", (fan_out,))]
