"""A small, real classification problem: scikit-learn's digits, scaled."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cloudlinkup.training.spec import ShardWork, TrainingSpec


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (np.asarray(x) / 16).astype(np.float32), np.asarray(y).astype(np.int64)


@pytest.fixture(scope="session")
def spec() -> TrainingSpec:
    return TrainingSpec(
        "classification", {"kind": "mlp", "hidden": [32, 16], "activation": "relu"}, 64, 10, 32, 0.01, 3
    )


@pytest.fixture(scope="session")
def work() -> ShardWork:
    return ShardWork(seed=b"s" * 32, segment_steps=10, max_segments=6, progress_from=0, progress_to=500_000)
