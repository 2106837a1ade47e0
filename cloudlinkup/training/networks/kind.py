"""What a kind of network has to offer: checks before anything is built, the layout of its flat vector, a module.

A kind is a plain object in `networks.KINDS`. It sees a spec's `model` object and its sizes only; caps that hold for
every kind (parameters, batch, learning rate) are `architectures.check_spec`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import torch

FrozenWeights = Mapping[str, np.ndarray]  # tensors that are not trained, by name, as their safetensors file has them


@dataclass(frozen=True)
class TensorLayout:
    """One trained tensor, in the order of the flat vector. It starts uniform in +-`bound`, or at `constant` where
    `bound` is 0. `edge`: an embedding, or what gives the outputs, whose matrices Muon leaves to AdamW."""

    name: str
    shape: tuple[int, ...]
    bound: float = 0.0
    constant: float = 0.0
    edge: bool = False

    @property
    def size(self) -> int:
        return prod(self.shape)


class Kind(Protocol):
    """One architecture of the allow-list. `layout` and `module` take specs that `check` let through."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it can be trained for."""
        ...

    def check(self, spec: TrainingSpec) -> None:
        """Raises ValueError, naming the field, for a model object outside the kind's form or caps. Builds nothing."""
        ...

    def layout(self, spec: TrainingSpec) -> tuple[TensorLayout, ...]:
        """The trained tensors in flat order, which is that of the module's parameters that need gradients."""
        ...

    def activations(self, spec: TrainingSpec) -> int:
        """Numbers that a pass keeps for each row of a batch, at most: what memory is estimated from."""
        ...

    def module(self, spec: TrainingSpec, frozen: FrozenWeights | None) -> torch.nn.Module:
        """The network with parameters of any value, made without drawing from torch's global generator.

        It takes a batch as `training/data` has it, and gives fp32 (rows, outputs), or (rows, length, outputs) for
        next_token. Raises ValueError where `frozen` is not what it needs.
        """
        ...


@runtime_checkable
class Pretrained(Protocol):
    """What a kind offers beside that where it stands on a base that somebody trained before."""

    def frozen(self, spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the base's tensors that are not trained; none where all are."""
        ...

    def base(self, spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all of the base's tensors, as its safetensors file has them."""
        ...

    def flat(self, spec: TrainingSpec, base: FrozenWeights) -> np.ndarray:
        """The base as the flat fp32 start of a training of all of it."""
        ...

    def extra(self) -> str:
        """What it needs beside torch, with the versions installed here. Raises ValueError where that is missing."""
        ...

    def load(self) -> None:
        """Imports that, which may take seconds the first time. Raises ValueError where it is missing."""
        ...

    def empty(self, spec: TrainingSpec) -> torch.nn.Module:
        """The network on torch's meta device: shapes without storage, and without the base's weights."""
        ...


def whole(name: str, value: object, least: int, most: int) -> int:
    """`value`, if it is a whole number from `least` to `most`. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}")
    return value


def fields(model: object, kind: str, *names: str) -> None:
    """Raises ValueError unless the model object has exactly these fields, and its kind."""
    if not isinstance(model, dict) or set(model) != {"kind", *names}:
        raise ValueError(f"a {kind} model must have exactly {', '.join(['kind', *names])}")
