"""A language model whose probabilities can be worked out by hand: each token's logits are a row of one table.

It stands in for `transformer` in the allow-list, so that a job may name it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cloudlinkup.training.networks import KINDS
from cloudlinkup.training.networks.kind import FrozenWeights, TensorLayout
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import JobSpec, parse_job


class _Table(torch.nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(vocabulary, vocabulary))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens.long()]


class Bigram:
    tasks = ("next_token",)

    def check(self, spec: TrainingSpec) -> None:
        pass

    def layout(self, spec: TrainingSpec) -> tuple[TensorLayout, ...]:
        return (TensorLayout("table", (spec.outputs, spec.outputs)),)

    def activations(self, spec: TrainingSpec) -> int:
        return spec.inputs * spec.outputs

    def module(self, spec: TrainingSpec, frozen: FrozenWeights | None) -> torch.nn.Module:
        return _Table(spec.outputs)


@pytest.fixture
def bigram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "transformer", Bigram())


def text_job(uri: str = "notes.txt", context: int = 8, **changes: Any) -> JobSpec:
    job: dict[str, Any] = {
        "version": 1,
        "data": {"uri": uri, "format": "text"} | changes.pop("data", {}),
        "task": "next_token",
        "model": {"kind": "transformer", "width": 8, "depth": 1, "heads": 1, "context": context},
        "train": {"samples": 1_000, "batch": 8} | changes.pop("train", {}),
        "contributors": {"max": 2},
        "budget": "1",
        "deadline": "2035-01-01T00:00:00Z",
    }
    return parse_job(job | changes)
