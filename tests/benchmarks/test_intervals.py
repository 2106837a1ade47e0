"""The one t interval that the benchmarks print."""

from __future__ import annotations

from math import inf
from statistics import StatisticsError

import pytest
from scipy.stats import ttest_1samp

from benchmarks.intervals import t_interval


def test_it_is_scipy_s() -> None:
    values = [1.0, 2.5, 0.5, 3.0, 2.0]
    middle, half = t_interval(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (middle - half, middle + half) == pytest.approx((low, high))


def test_one_value_and_none() -> None:
    assert t_interval([2.0]) == (2.0, inf)
    with pytest.raises(StatisticsError):
        t_interval([])
