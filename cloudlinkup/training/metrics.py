"""How good answers are: accuracy, macro F1, AUC, R2, mean loss; perplexity follows from the loss. numpy alone.

Every one is of held-out rows and without class weights; only the loss is weighted as training weighs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, classes) in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(logits: np.ndarray, targets: np.ndarray, weights: Sequence[float] | None = None) -> float:
    """Mean over rows, each weighted by its class as torch's cross_entropy does."""
    each = -log_softmax(logits)[np.arange(len(targets)), targets]
    return float(each.mean() if weights is None else np.average(each, weights=np.asarray(weights)[targets]))


def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Share of rows whose largest logit is the right one."""
    return float((logits.argmax(axis=1) == targets).mean())


def macro_f1(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the classes that were there or answered of 2 TP / (2 TP + FP + FN): rare classes count like others."""
    answers, classes = logits.argmax(axis=1), logits.shape[1]
    hits = np.bincount(targets[answers == targets], minlength=classes)
    both = np.bincount(targets, minlength=classes) + np.bincount(answers, minlength=classes)
    seen = both > 0
    return float((2 * hits[seen] / both[seen]).mean())


def rank_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive row scores above a negative one, ties half: exact, by mean ranks (Mann and Whitney, 1947).

    `positive`: bool (rows,), with at least one of each.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = int(positive.sum())
    below = len(scores) - above
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))


def auc(logits: np.ndarray, targets: np.ndarray) -> float:
    """One class against the rest, averaged over the classes that have rows; 0.5, a guess, where only one class has."""
    present = np.unique(targets)
    if len(present) < 2:
        return 0.5
    if logits.shape[1] == 2:
        return rank_auc(logits[:, 1].astype(np.float64) - logits[:, 0], targets == 1)
    logs = log_softmax(logits)
    return float(np.mean([rank_auc(logs[:, k], targets == k) for k in present]))


def r2(answers: np.ndarray, targets: np.ndarray) -> float:
    """At most 1; 0 is as good as always answering these rows' mean. The mean over several outputs.

    An output that is constant on these rows counts 1 where it is met exactly, else 0.
    """
    residual = ((answers.astype(np.float64) - targets) ** 2).sum(axis=0)
    total = ((targets - targets.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(total > 0, 1 - residual / total, np.where(residual == 0, 1.0, 0.0))
    return float(each.mean())


OF_OUTPUTS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": macro_f1,
    "auc": auc,
    "r2": r2,
}
