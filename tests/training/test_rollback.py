"""When a round is taken back: never for noise, always for harm."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.training.evaluate import Score
from cloudlinkup.training.rollback import rolls_back


def after(metric: str, value: float, loss: float = 1.0, rows: int = 1_000) -> Score:
    return Score(metric, value, loss, rows)


@pytest.mark.parametrize(
    ("metric", "before", "value", "back"),
    [
        ("accuracy", 0.95, 0.93, False),
        ("accuracy", 0.95, 0.60, True),
        ("accuracy", 0.50, 0.10, True),
        ("accuracy", 0.12, 0.10, False),
        ("auc", 0.90, 0.50, True),
        ("r2", 0.80, 0.70, False),
        ("r2", 0.80, 0.30, True),
        ("r2", 0.99, 0.85, False),
        ("r2", -3.0, -5.0, False),
        ("r2", -3.0, -9.0, True),
        ("perplexity", 6.0, 9.0, False),
        ("perplexity", 6.0, 13.0, True),
    ],
)
def test_margins(metric: str, before: float, value: float, back: bool) -> None:
    why = rolls_back(before, after(metric, value))
    assert bool(why) == back
    assert not back or metric in why


def test_few_rows_are_noisy() -> None:
    assert rolls_back(0.8, after("accuracy", 0.6))
    assert not rolls_back(0.8, after("accuracy", 0.6, rows=20))


@pytest.mark.parametrize("lost", [after("accuracy", 0.9, nan), after("accuracy", 0.9, inf), after("r2", nan)])
def test_what_is_no_number_is_always_taken_back(lost: Score) -> None:
    assert rolls_back(None, lost) and rolls_back(0.1, lost)


@given(st.sampled_from(["accuracy", "f1", "auc", "r2", "perplexity"]), st.floats(0, 1), st.floats(0, 1))
def test_no_worse_is_never_taken_back(metric: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, then = (high, low) if metric == "perplexity" else (low, high)
    assert not rolls_back(first, after(metric, then))
    assert not rolls_back(None, after(metric, low))
