"""The held-out rows are those that sorting all rows by their keys would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlinkup.tables import spilled, split
from cloudlinkup.tables.split import counted, held_out
from cloudlinkup.wire.hashes import digest


def by_sorting(codes: np.ndarray, holdout: float, keys: np.ndarray) -> np.ndarray:
    """The same with all keys and row numbers in memory."""
    order = np.argsort(keys, kind="stable")
    held = np.zeros(len(codes), bool)
    for code in np.unique(codes):
        rows = order[codes[order] == code]
        held[rows[: min(round(holdout * len(rows)), len(rows) - 1)]] = True
    if not held.any():
        held[order[codes[order] == np.bincount(codes).argmax()][:1]] = True
    return held


def keys_of(rows: int, seed: int) -> np.ndarray:
    return np.random.Philox(key=np.frombuffer(digest("holdout", seed)[:16], "<u8")).random_raw(rows)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codes=st.lists(st.integers(0, 4), min_size=2, max_size=200),
    holdout=st.floats(0.01, 0.89),
    seed=st.integers(0, 2**32),
    rows=st.sampled_from([1, 7, 64, 10_000]),
)
def test_as_sorting_all_rows_would(tmp_path, codes, holdout, seed, rows):
    found = np.array(codes, np.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spilled, "ROWS", rows)
        held = held_out(found, 5, holdout, seed, tmp_path)
    np.testing.assert_array_equal(held, by_sorting(found, holdout, keys_of(len(codes), seed)))
    if counted(found, 5).max() > 1:  # else one of them is held out all the same
        assert counted(found[~held], 5)[np.unique(found)].min() > 0  # every class keeps a row to train on


@pytest.mark.parametrize("different", [1, 3, 300])
def test_rows_with_the_same_key_are_taken_in_the_tables_order(monkeypatch, different):
    """Which with 64 bits does not happen by itself."""
    monkeypatch.setattr(spilled, "ROWS", 37)
    real = split._keys
    monkeypatch.setattr(split, "_keys", lambda rows, seed: ((at, keys % different) for at, keys in real(rows, seed)))
    codes = np.random.default_rng(0).integers(0, 3, 1_000).astype(np.int16)
    keys = keys_of(1_000, 5) % different
    np.testing.assert_array_equal(held_out(codes, 3, 0.3, 5, None), by_sorting(codes, 0.3, keys))


def test_a_thousand_classes_and_many_rows(monkeypatch):
    monkeypatch.setattr(spilled, "ROWS", 9_000)
    codes = np.random.default_rng(1).integers(0, 1_000, 50_000).astype(np.int16)
    np.testing.assert_array_equal(held_out(codes, 1_000, 0.2, 9, None), by_sorting(codes, 0.2, keys_of(50_000, 9)))
