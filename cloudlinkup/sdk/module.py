"""What every delivered model is: a torch module with its spec, its recipe and what was measured of it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
import torch

from cloudlinkup.tables.recipe import Preprocessing
from cloudlinkup.tables.text import TextRecipe
from cloudlinkup.training.architectures import flat_weights
from cloudlinkup.training.spec import TrainingSpec

R = TypeVar("R", Preprocessing, TextRecipe)


class Model(torch.nn.Module, Generic[R]):
    """`network` is a part of the module, so that `.to`, `.parameters()` and training on work as on any other."""

    def __init__(self, spec: TrainingSpec, network: torch.nn.Module, preprocessing: R, metrics: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.spec, self.preprocessing, self.metrics = spec, preprocessing, metrics

    @property
    def module(self) -> torch.nn.Module:
        """The network alone, on what the recipe makes of raw input."""
        return self.network

    @property
    def weights(self) -> np.ndarray:
        """What was trained, as one flat fp32 vector."""
        return flat_weights(self.network)
