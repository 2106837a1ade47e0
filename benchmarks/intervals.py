"""The 95% t interval of a mean: what benchmarks over seeds print behind their differences."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import mean, stdev

from scipy.stats import t as student


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and the half width of its 95% interval (Student). One value says nothing of the spread: infinite.

    Raises statistics.StatisticsError for none.
    """
    if len(values) < 2:
        return mean(values), inf
    return mean(values), float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
