import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, r2_score

from cloudlinkup.training import evaluate as module
from cloudlinkup.training.architectures import build_with, initial_weights
from cloudlinkup.training.baseline import train_alone
from cloudlinkup.training.evaluate import evaluate, outputs, score
from cloudlinkup.training.spec import TrainingSpec
from tests.training.specs import SPECS, rows_for


def test_accuracy_and_loss_are_scikit_learns(spec, digits, monkeypatch):
    x, y = digits
    weights = initial_weights(spec)
    monkeypatch.setattr(module, "BATCH", 100)  # several batches, the last one short
    with torch.inference_mode():
        odds = torch.softmax(build_with(spec, weights)(torch.from_numpy(x)).double(), 1).numpy()
    found = evaluate(spec, weights, x, y)
    assert found.metric == "accuracy" and found.rows == len(y)
    assert found.value == accuracy_score(y, odds.argmax(axis=1))
    assert found.loss == pytest.approx(log_loss(y, odds), rel=1e-5)
    assert score(spec, weights, x, y) == ("accuracy", found.value)


def test_r2_is_scikit_learns():
    spec = TrainingSpec("regression", {"kind": "mlp", "hidden": [4], "activation": "tanh"}, 3, 2, 8, 0.01, 0)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((50, 3)).astype(np.float32)
    y = generator.standard_normal((50, 2)).astype(np.float32)
    found = evaluate(spec, initial_weights(spec), x, y)
    predicted = outputs(spec, initial_weights(spec), x)
    assert found.metric == "r2" and found.value == pytest.approx(r2_score(y, predicted), rel=1e-6)
    assert found.loss == pytest.approx(((predicted - y) ** 2).mean(), rel=1e-5)
    constant = np.ones((50, 2), np.float32)
    assert evaluate(spec, initial_weights(spec), x, constant).value == 0.0
    with pytest.raises(ValueError):
        evaluate(spec, initial_weights(spec), x[:0], y[:0])


def test_the_plain_loop_learns_and_repeats(spec, digits):
    x, y = digits
    one = train_alone(spec, x[:1400], y[:1400], 20_000, seed=1)
    two = train_alone(spec, x[:1400], y[:1400], 20_000, seed=1)
    assert one.weights.tobytes() == two.weights.tobytes() and one.steps == 625 and one.seconds > 0
    assert score(spec, one.weights, x[1400:], y[1400:])[1] > 0.85
    other = train_alone(spec, x[:1400], y[:1400], 20_000, seed=2)
    assert other.weights.tobytes() != one.weights.tobytes()


@pytest.mark.parametrize("name", SPECS)
def test_the_plain_loop_trains_every_kind(name):
    made = SPECS[name]
    rows = rows_for(made)
    before = evaluate(made, initial_weights(made), *rows).loss
    alone = train_alone(made, *rows, 40 * made.batch)
    assert evaluate(made, alone.weights, *rows).loss < before and alone.steps == 40
    on = train_alone(made, *rows, made.batch, start=alone.weights)
    assert 0 < np.abs(on.weights - alone.weights).max() < 0.1
