"""Our own metrics are scikit-learn's; rank formulas are also held against counting every pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from cloudlinkup.training import metrics
from cloudlinkup.training.architectures import check_spec, initial_weights
from cloudlinkup.training.evaluate import all_scores, evaluate, score_outputs
from cloudlinkup.training.headline import METRICS, better, headline
from cloudlinkup.training.mlp import MlpGradient
from cloudlinkup.training.spec import TrainingSpec

few = st.integers(2, 40)


@given(few.flatmap(lambda n: st.tuples(arrays(np.int64, n, elements=st.integers(-3, 3)), arrays(np.bool_, n))))
def test_auc_counts_pairs(case):
    scores, positive = case
    if positive.all() or not positive.any():
        return
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    assert metrics.rank_auc(scores, positive) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_is_scikit_learns(classes):
    rng = np.random.default_rng(classes)
    targets = np.concatenate([np.arange(classes), rng.integers(0, classes, 300)])
    logits = (rng.standard_normal((len(targets), classes)) + np.eye(classes)[targets]).astype(np.float32)
    odds = np.exp(metrics.log_softmax(logits))
    wanted = roc_auc_score(targets, odds[:, 1] if classes == 2 else odds, multi_class="ovr")
    assert metrics.auc(logits, targets) == pytest.approx(wanted, abs=1e-9)
    answers = logits.argmax(axis=1)
    assert metrics.macro_f1(logits, targets) == pytest.approx(f1_score(targets, answers, average="macro"))
    weights = tuple(rng.uniform(0.1, 5, classes))
    mine = metrics.cross_entropy(logits, targets, weights)
    assert mine == pytest.approx(log_loss(targets, odds, sample_weight=np.array(weights)[targets]), rel=1e-9)
    entropy = torch.nn.functional.cross_entropy
    theirs = entropy(torch.from_numpy(logits).double(), torch.from_numpy(targets), torch.tensor(weights).double())
    assert mine == pytest.approx(theirs.item(), rel=1e-9)


def test_what_is_not_there_is_not_counted():
    logits = np.array([[2.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], np.float32)
    assert metrics.macro_f1(logits, np.array([0, 0])) == pytest.approx((2 / 3 + 0) / 2)  # classes 0 and 1 alone
    assert metrics.auc(logits, np.array([0, 0])) == 0.5
    assert 0 <= metrics.auc(logits, np.array([0, 1])) <= 1


def test_the_headline_fits_the_task(spec, digits):
    x, y = digits
    weights = initial_weights(spec)
    found = all_scores(spec, weights, x, y)
    assert set(found) == {*METRICS["classification"], "loss"}
    for name in METRICS["classification"]:
        assert evaluate(spec, weights, x, y, name).value == found[name]
    assert headline("regression") == "r2"
    assert better("perplexity", 2.0) > better("perplexity", 3.0)
    assert better("auc", 0.9) > better("auc", 0.8)
    with pytest.raises(ValueError, match="use r2"):
        score_outputs(replace(spec, task="regression"), np.zeros((3, 1)), np.zeros((3, 1)), "auc")


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_weighted_gradient_is_torchs(activation):
    weights = (0.2, 3.0, 1.0)
    spec = TrainingSpec(
        "classification", {"kind": "mlp", "hidden": [7], "activation": activation}, 4, 3, 16, 0.01, 1,
        class_weights=weights,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator)
    flat = torch.from_numpy(initial_weights(spec)).requires_grad_()
    gradient = torch.zeros_like(flat.detach())
    network = MlpGradient(spec, flat.detach(), gradient)
    network.compute(x, y)
    loss = torch.nn.functional.cross_entropy(
        MlpGradient(spec, flat, gradient).forward(x), y, weight=torch.tensor(weights)
    )
    (theirs,) = torch.autograd.grad(loss, flat)
    torch.testing.assert_close(gradient, theirs, rtol=1e-5, atol=1e-7)


def test_weights_travel_and_are_checked(spec):
    weighted = replace(spec, class_weights=tuple(float(k) for k in range(1, 11)))
    assert TrainingSpec.from_bytes(weighted.to_bytes()) == weighted
    check_spec(weighted)
    for bad in ((1.0,), (0.0,) * 10, (float("nan"),) * 10, "balanced"):
        with pytest.raises(ValueError, match="class_weights"):
            check_spec(replace(spec, class_weights=bad))
