"""The `model` of a job: which network, and its sizes. `docs/models.md` has every kind with an example.

The form a client writes, with its defaults. What a layer makes of the shape before it is checked by the same code that
builds it (`training/networks`), here as far as `input` says the shape, and again once the data is there.
"""

from __future__ import annotations

import re
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cloudlinkup.errors import BadInput
from cloudlinkup.frozen import Frozen
from cloudlinkup.training import caps

Activation = Literal["relu", "gelu", "tanh", "silu"]
Width = Annotated[int, Field(strict=True, ge=1, le=caps.WIDTH)]
Kernel = Annotated[int, Field(strict=True, ge=1, le=caps.KERNEL)]
Heads = Annotated[int, Field(strict=True, ge=1, le=caps.HEADS)]
Side = Annotated[int, Field(strict=True, ge=1, le=caps.INPUTS)]
Widths = Annotated[tuple[Width, ...], Field(max_length=caps.HIDDEN)]
FIX = "correct it; docs/models.md has each kind's fields and caps"


class Linear(Frozen):
    type: Literal["linear"]
    out: Width


class Convolution(Frozen):
    type: Literal["conv1d", "conv2d"]
    out: Width
    kernel: Kernel = 3
    stride: Annotated[int, Field(strict=True, ge=1, le=caps.STRIDE)] = 1
    padding: Annotated[int, Field(strict=True, ge=0, lt=caps.KERNEL)] = 0


class Pool(Frozen):
    type: Literal["max_pool", "avg_pool"]
    size: Annotated[int, Field(strict=True, ge=1, le=caps.POOL)] = 2


class AdaptivePool(Frozen):
    type: Literal["adaptive_pool"]
    out: Annotated[tuple[Side, ...], Field(min_length=1, max_length=2)]


class Plain(Frozen):
    type: Literal["global_pool", "flatten", "relu", "gelu", "tanh", "silu", "layernorm", "positions"]


class GroupNorm(Frozen):
    type: Literal["groupnorm"]
    groups: Width = 1


class Embedding(Frozen):
    type: Literal["embedding"]
    words: Annotated[int, Field(strict=True, ge=2, le=caps.OUTPUTS)]
    width: Width


class Attention(Frozen):
    type: Literal["attention"]
    heads: Heads = 1
    causal: bool = False


class Residual(Frozen):
    type: Literal["residual"]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=caps.LAYERS)]


Layer = Annotated[
    Linear | Convolution | Pool | AdaptivePool | Plain | GroupNorm | Embedding | Attention | Residual,
    Field(discriminator="type"),
]


class MlpSpec(Frozen):
    """A multi-layer perceptron; input and output widths follow from the data."""

    kind: Literal["mlp"]
    hidden: Widths = (64, 32)
    activation: Activation = "relu"


class _Checked(Frozen):
    """A model that is checked as far as it can be without the data."""

    @property
    def inputs(self) -> int:
        """Numbers of a row, as far as the model says it; else 1, which no check depends on."""
        return 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        from cloudlinkup.training.networks import KINDS
        from cloudlinkup.training.spec import TrainingSpec

        model = self.model_dump(mode="json")
        kind = KINDS[model["kind"]]
        kind.check(TrainingSpec(kind.tasks[0], model, self.inputs, 2, 1, 0.01, 0))  # type: ignore[arg-type]
        return self


class CnnSpec(_Checked):
    """A convolution and a halving for each of `channels`, then linear layers. `input`: channels, height, width of an
    image whose numbers are a row's columns in that order."""

    kind: Literal["cnn"]
    input: tuple[Side, Side, Side]
    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=caps.HIDDEN)] = (16, 32)
    kernel: Kernel = 3
    hidden: Widths = (64,)
    activation: Activation = "relu"

    @property
    def inputs(self) -> int:
        return prod(self.input)


class SequentialSpec(_Checked):
    """Layers one after the other, and a linear layer to the outputs last. `input`: a row's shape, by default flat."""

    kind: Literal["sequential"]
    input: Annotated[tuple[Side, ...], Field(min_length=1, max_length=3)] | None = None
    layers: Annotated[tuple[Layer, ...], Field(max_length=caps.LAYERS)]

    @property
    def inputs(self) -> int:
        return prod(self.input or (1,))


class TransformerSpec(_Checked):
    """A decoder that predicts the next token of plain text. `context`: tokens of a window."""

    kind: Literal["transformer"]
    width: Width = 128
    depth: Annotated[int, Field(strict=True, ge=1, le=caps.BLOCKS)] = 2
    heads: Heads = 4
    context: Annotated[int, Field(strict=True, ge=1, le=caps.CONTEXT)] = 128
    positions: Literal["learned", "rotary"] = "learned"
    tied: bool = True

    @property
    def inputs(self) -> int:
        return self.context


class BaseWeights(Frozen):
    """A model.safetensors that somebody trained before; it is used only if its SHA-256 is this."""

    uri: Annotated[str, Field(min_length=1, max_length=2_000)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Lora(Frozen):
    """Adapters of `rank` beside the layers named in `targets`, scaled by alpha / rank."""

    rank: Annotated[int, Field(strict=True, ge=1, le=caps.RANK)] = 8
    alpha: Annotated[int, Field(strict=True, ge=1, le=1_024)] = 16
    targets: Annotated[tuple[str, ...], Field(min_length=1, max_length=8)]


class HuggingFaceSpec(Frozen):
    """A language model of the transformers library (docs/finetuning.md). `config`: its config.json. `lora`: what is
    trained of it; null: all of it. `weights`: what it begins with, or stands on."""

    kind: Literal["huggingface"]
    config: dict[str, Any]
    lora: Lora | None = None
    weights: BaseWeights | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_one_form(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        from cloudlinkup.training.networks import huggingface_config as hub

        config, lora = hub.canonical(given.get("config")), given.get("lora")
        if isinstance(lora, dict):
            order, named = hub.targets(config), lora.get("targets", hub.usual_targets(config))
            if not isinstance(named, list | tuple) or not named or set(map(str, named)) - set(order):
                raise ValueError(f"model.lora.targets must be a list of some of {', '.join(order)}")
            lora = {**lora, "targets": tuple(name for name in order if name in named)}
        return {**given, "config": config, **({} if lora is None else {"lora": lora})}

    @model_validator(mode="after")
    def _stands_on_something(self) -> Self:
        if self.lora is not None and self.weights is None:
            raise ValueError("model.weights must name the base that the adapters of model.lora stand on")
        return self


ModelSpec = Annotated[
    MlpSpec | CnnSpec | SequentialSpec | TransformerSpec | HuggingFaceSpec, Field(discriminator="kind")
]


def for_training(model: ModelSpec) -> tuple[dict[str, Any], str | None]:
    """What the training spec says of a job's model: its model object, and the hash of what is not trained of it."""
    document = model.model_dump(mode="json")
    if not isinstance(model, HuggingFaceSpec):
        return document, None
    weights = document.pop("weights")
    return document, None if model.lora is None or weights is None else weights["sha256"]


def refused_model(error: ValueError, model: dict[str, Any], shape: str = "(as given)") -> BadInput:
    """What a check of the network refused, by the field that its message names. `shape`: of the data, in words."""
    message = str(error)
    found = re.match(r"model(?:\.\w+|\[\d+\])+(?=[ :])", message)
    value: Any = {"model": model}
    for part in re.findall(r"\w+", found[0]) if found else ():
        index = int(part) if part.isdigit() else part
        try:
            value = value[index]
        except (KeyError, IndexError, TypeError):  # a field that a shorthand expands into
            found = None
    if found is None:
        return BadInput("model", shape, message, FIX)
    return BadInput(found[0], value, message[found.end() :].removeprefix(":").strip(), FIX)
