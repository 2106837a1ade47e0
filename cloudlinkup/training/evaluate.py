"""The score of weights on rows: the job's metric and the mean loss that training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np
import torch

from cloudlinkup.training.architectures import build_with
from cloudlinkup.training.headline import METRICS, headline
from cloudlinkup.training.metrics import OF_OUTPUTS, accuracy, cross_entropy
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.spec import TrainingSpec

BATCH = 8_192
BATCH_TOKENS = 4_096  # of token windows, whose logits are a vocabulary wide each
MOST_LOSS = 700.0  # above which exp would overflow


@dataclass(frozen=True)
class Score:
    """`value` of `metric` (see training/metrics), the mean `loss`, and how many `rows` they are of."""

    metric: str
    value: float
    loss: float
    rows: int


def outputs(
    spec: TrainingSpec, weights: np.ndarray, features: np.ndarray, frozen: FrozenWeights | None = None
) -> np.ndarray:
    """Logits or standardised targets, fp32 (rows, outputs), in batches."""
    module = build_with(spec, weights, frozen)
    result = np.empty((len(features), spec.outputs), np.float32)
    with torch.inference_mode():
        for start in range(0, len(features), BATCH):
            piece = torch.from_numpy(np.array(features[start : start + BATCH], np.float32))
            result[start : start + BATCH] = module(piece).numpy()
    return result


def evaluate(
    spec: TrainingSpec,
    weights: np.ndarray,
    features: np.ndarray,
    targets: np.ndarray,
    metric: str | None = None,
    frozen: FrozenWeights | None = None,
) -> Score:
    """`metric`: one that fits the task; its first by default. Raises ValueError for no rows or another metric."""
    if not len(features) or len(features) != len(targets):
        raise ValueError("a score needs rows, and as many targets")
    if spec.task == "next_token":
        loss, hits = _tokens(spec, weights, features, targets, frozen)
        name = headline(spec.task, metric)
        return Score(name, hits if name == "accuracy" else exp(min(loss, MOST_LOSS)), loss, len(targets))
    return score_outputs(spec, outputs(spec, weights, features, frozen), targets, metric)


def score_outputs(spec: TrainingSpec, answers: np.ndarray, targets: np.ndarray, metric: str | None = None) -> Score:
    """`evaluate`, of outputs (rows, outputs) that are there already."""
    name = headline(spec.task, metric)
    return Score(name, OF_OUTPUTS[name](answers, targets), _loss(spec, answers, targets), len(targets))


def all_scores(
    spec: TrainingSpec,
    weights: np.ndarray,
    features: np.ndarray,
    targets: np.ndarray,
    frozen: FrozenWeights | None = None,
) -> dict[str, float]:
    """Every metric of the task by name, and the loss."""
    if spec.task == "next_token":
        found = evaluate(spec, weights, features, targets, "accuracy", frozen)
        return {"perplexity": exp(min(found.loss, MOST_LOSS)), "accuracy": found.value, "loss": found.loss}
    return all_of_outputs(spec, outputs(spec, weights, features, frozen), targets)


def all_of_outputs(spec: TrainingSpec, answers: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """`all_scores`, of outputs that are there already."""
    known = {name: OF_OUTPUTS[name](answers, targets) for name in METRICS[spec.task]}
    return known | {"loss": _loss(spec, answers, targets)}


def _loss(spec: TrainingSpec, answers: np.ndarray, targets: np.ndarray) -> float:
    if spec.task == "classification":
        return cross_entropy(answers, targets, spec.class_weights)
    return float(((answers.astype(np.float64) - targets) ** 2).mean())


def _tokens(
    spec: TrainingSpec,
    weights: np.ndarray,
    windows: np.ndarray,
    targets: np.ndarray,
    frozen: FrozenWeights | None = None,
) -> tuple[float, float]:
    """(mean loss a token, share of tokens guessed) of windows int32 (rows, length), never all logits at once."""
    module = build_with(spec, weights, frozen)
    size = max(1, BATCH_TOKENS // windows.shape[1])
    loss = hits = 0.0
    with torch.inference_mode():
        for start in range(0, len(windows), size):
            piece = torch.from_numpy(np.array(windows[start : start + size], np.int32))
            logits = module(piece).float().numpy().reshape(-1, spec.outputs)
            wanted = np.asarray(targets[start : start + size]).reshape(-1)
            loss += cross_entropy(logits, wanted) * len(wanted)
            hits += accuracy(logits, wanted) * len(wanted)
    return loss / targets.size, hits / targets.size


def score(
    spec: TrainingSpec,
    weights: np.ndarray,
    features: np.ndarray,
    targets: np.ndarray,
    metric: str | None = None,
    frozen: FrozenWeights | None = None,
) -> tuple[str, float]:
    """(metric, value) of `evaluate`."""
    found = evaluate(spec, weights, features, targets, metric, frozen)
    return found.metric, found.value
