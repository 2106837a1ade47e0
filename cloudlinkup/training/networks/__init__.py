"""The networks that a job may name: the allow-list, by `model.kind`. Nothing else is ever built."""

from __future__ import annotations

from cloudlinkup.training.networks.huggingface import HuggingFace
from cloudlinkup.training.networks.kind import Kind
from cloudlinkup.training.networks.sequential import Convolutional, Perceptron, Sequential
from cloudlinkup.training.networks.transformer import Transformer

KINDS: dict[str, Kind] = {
    "mlp": Perceptron(),
    "cnn": Convolutional(),
    "sequential": Sequential(),
    "transformer": Transformer(),
    "huggingface": HuggingFace(),
}
