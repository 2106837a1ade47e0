"""The score of weights on rows: accuracy or R2, and the mean loss that training minimises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cloudlinkup.training.architectures import build_with
from cloudlinkup.training.spec import TrainingSpec

BATCH = 8_192


@dataclass(frozen=True)
class Score:
    """`metric` is "accuracy" (0..1) or "r2" (at most 1; 0 is as good as always predicting these rows' mean)."""

    metric: str
    value: float
    loss: float
    rows: int


def outputs(spec: TrainingSpec, weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Logits or standardised targets, fp32 (rows, outputs), in batches."""
    module = build_with(spec, weights)
    result = np.empty((len(features), spec.outputs), np.float32)
    with torch.inference_mode():
        for start in range(0, len(features), BATCH):
            piece = torch.from_numpy(np.array(features[start : start + BATCH], np.float32))
            result[start : start + BATCH] = module(piece).numpy()
    return result


def evaluate(spec: TrainingSpec, weights: np.ndarray, features: np.ndarray, targets: np.ndarray) -> Score:
    """R2 of several outputs is their mean; an output that is constant on these rows counts only if it is met exactly.

    Raises ValueError for no rows.
    """
    if not len(features) or len(features) != len(targets):
        raise ValueError("a score needs rows, and as many targets")
    return score_outputs(spec, outputs(spec, weights, features), targets)


def score_outputs(spec: TrainingSpec, answers: np.ndarray, targets: np.ndarray) -> Score:
    """`evaluate`, of outputs (rows, outputs) that are there already."""
    out = answers.astype(np.float64)
    if spec.task == "classification":
        shifted = out - out.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = -float(logs[np.arange(len(targets)), targets].mean())
        return Score("accuracy", float((out.argmax(axis=1) == targets).mean()), loss, len(targets))
    residual = ((out - targets) ** 2).sum(axis=0)
    total = ((targets - targets.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(total > 0, 1 - residual / total, np.where(residual == 0, 1.0, 0.0))
    return Score("r2", float(r2.mean()), float(residual.sum() / out.size), len(targets))


def score(spec: TrainingSpec, weights: np.ndarray, features: np.ndarray, targets: np.ndarray) -> tuple[str, float]:
    """(metric, value) of `evaluate`."""
    found = evaluate(spec, weights, features, targets)
    return found.metric, found.value
