"""Sums, means and medians of mapped columns: what numpy says of a whole array, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cloudlinkup.tables import spilled
from cloudlinkup.tables.spilled import known_and_median, mean_and_deviation, slices, total

SIZES = [1, 7, 8, 127, 128, 129, 256, 1_000, 1_031, 9_999, 65_537, 300_001]
FIXTURES = [HealthCheck.function_scoped_fixture]


@pytest.fixture(params=[1, 128, 1_000])
def cut(request, monkeypatch) -> int:
    """Rows that are looked at in one go: few, so that many borders are crossed."""
    monkeypatch.setattr(spilled, "ROWS", request.param)
    return request.param


@pytest.mark.parametrize("rows", SIZES)
def test_sums_are_numpys_own_wherever_they_are_cut(cut, rows):
    rng = np.random.default_rng(rows)
    values = rng.standard_normal(rows) * 10 ** rng.uniform(-6, 6, rows)
    assert total(values, lambda part: part) == values.sum()
    assert total(values, np.square) == np.square(values).sum()
    assert mean_and_deviation(values) == (values.mean(), values.std())
    values[rng.random(rows) < 0.3] = np.nan
    filled = np.where(np.isnan(values), 2.5, values)
    assert mean_and_deviation(values, 2.5) == (filled.mean(), filled.std())


@settings(max_examples=50, deadline=None, suppress_health_check=FIXTURES)
@given(
    arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e300, 1e300) | st.sampled_from([np.nan, 0.0, -0.0])),
    st.booleans(),
)
def test_the_median_is_numpys(cut, tmp_path, values, on_disk):
    before = values.copy()
    known, median = known_and_median(values, tmp_path if on_disk else None)
    present = values[~np.isnan(values)]
    assert known == len(present)
    if known:
        assert median == np.median(present) and str(median) != "-0.0"
    else:
        assert np.isnan(median)
    np.testing.assert_array_equal(values, before)  # it works on a copy
    assert not list(tmp_path.iterdir())


def test_numbers_too_large_are_said_without_a_warning(cut):
    values = np.full(2_000, 1.7e308)
    assert known_and_median(values, None) == (2_000, np.inf)
    assert not np.isfinite(mean_and_deviation(values)).any()


@pytest.mark.parametrize("dtype", [np.int16, np.float64, bool])
def test_on_disk_as_in_memory_and_nothing_is_left(tmp_path, dtype):
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 2, rows).astype(dtype) for rows in (0, 3, 1, 70_000)]
    place = tmp_path / "made"
    kept, held = spilled.spilled(iter(parts), dtype, place), spilled.spilled(iter(parts), dtype, None)
    np.testing.assert_array_equal(kept, held)
    assert kept.dtype == held.dtype == dtype and not list(place.iterdir())
    kept[0] = 1 - kept[0]  # writable
    assert spilled.spilled([], dtype, place).shape == (0,)


def test_slices_cover_every_row_once(cut):
    assert not list(slices(0))
    found = np.concatenate([np.arange(2_500)[at] for at in slices(2_500)])
    np.testing.assert_array_equal(found, np.arange(2_500))
