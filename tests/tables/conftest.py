"""Jobs over scikit-learn's own tables, and one with words, gaps and booleans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

from cloudlinkup.types import JobSpec, parse_job


@pytest.fixture(scope="session")
def make_job() -> Callable[..., JobSpec]:
    def make(label="label", task="classification", seed=0, holdout=0.2, **train) -> JobSpec:
        return parse_job(
            {
                "version": 1,
                "data": {"uri": "table.csv", "format": "csv", "label": label, "holdout": holdout},
                "task": task,
                "model": {"kind": "mlp", "hidden": [16], "activation": "relu"},
                "train": {"samples": 1000, "seed": seed, **train},
                "budget": "1",
                "deadline": "2035-01-01T00:00:00Z",
            }
        )

    return make


@pytest.fixture(scope="session")
def cancer() -> pd.DataFrame:
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    return pd.DataFrame(x).assign(label=np.where(np.asarray(y) == 0, "malignant", "benign"))


@pytest.fixture(scope="session")
def diabetes() -> pd.DataFrame:
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    return pd.DataFrame(x).assign(progression=np.asarray(y))


@pytest.fixture(scope="session")
def shop() -> pd.DataFrame:
    """600 orders: will they be returned? Depends on category, price and a boolean."""
    generator = np.random.default_rng(0)
    rows = 600
    kind = generator.choice(["shoes", "books", "toys"], rows).astype(object)
    price = generator.gamma(2.0, 20.0, rows)
    member = generator.random(rows) < 0.4
    odds = 2.0 * (kind == "shoes") + (price > 50) - 1.5 * member - 0.5
    returned = np.where(generator.random(rows) < 1 / (1 + np.exp(-3 * odds)), "returned", "kept")
    kind[generator.random(rows) < 0.1] = None
    price[generator.random(rows) < 0.1] = np.nan
    return pd.DataFrame({"kind": kind, "price": price, "member": member, "shop": 7, "outcome": returned})
