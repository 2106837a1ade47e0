"""Long columns outside the process's own memory, and exact sums and medians of them.

A column of a large table lies in an unlinked file beside the job's rows and is mapped: the system takes its pages back
when it needs them, and the space is free again once the array is gone. `total` adds as numpy adds a whole array, bit
for bit, and so a mean does not depend on where a table was cut.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cloudlinkup.tables.disk import room

ROWS = 131_072  # of one column, that are looked at in one go


def spilled(parts: Iterable[np.ndarray], dtype: Any, place: Path | None) -> np.ndarray:
    """All parts behind one another, as one writable array: in a file below `place`, or in memory where it is None.
    Raises Unavailable where the disk is too full for them."""
    if place is None:
        return np.concatenate([np.empty(0, dtype), *(np.asarray(part, dtype) for part in parts)])
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place) as file:
        count = 0
        for part in parts:
            with room(place, part.size * np.dtype(dtype).itemsize):
                file.write(np.ascontiguousarray(part, dtype).data)
                file.flush()  # now: a map's pages would find out too late
            count += len(part)
        return np.asarray(np.memmap(file, dtype, mode="r+", shape=(count,))) if count else np.empty(0, dtype)


def slices(rows: int) -> Iterator[slice]:
    """Of so many rows, in order."""
    for start in range(0, rows, ROWS):
        yield slice(start, min(start + ROWS, rows))


def total(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> float:
    """The sum of `of(values)`, which works value by value; float64, without all of it in memory.

    In the order of numpy's own pairwise sum (halves whose first is a multiple of 8), so that it equals
    `of(values).sum()` to the last bit; tests/tables/test_spilled.py holds it to that.
    """
    count = len(values)
    if count <= max(ROWS, 128):  # numpy does not halve below 128
        return float(np.add.reduce(of(values)))
    half = count // 2
    half -= half % 8
    return total(values[:half], of) + total(values[half:], of)


def mean_and_deviation(values: np.ndarray, fill: float = 0.0) -> tuple[float, float]:
    """What numpy's mean and std (of all, not of a sample) give for the values with NaN replaced by `fill`. Infinite or
    NaN where they are too large for float64."""

    def filled(part: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(part), fill, part)

    with np.errstate(over="ignore", invalid="ignore"):
        mean = total(values, filled) / len(values)
        square = total(values, lambda part: np.square(filled(part) - mean)) / len(values)
        return mean, float(np.sqrt(square))


def known_and_median(values: np.ndarray, place: Path | None) -> tuple[int, float]:
    """(values that are not NaN, their median: NaN where there is none)."""
    known = spilled((part[~np.isnan(part)] for part in (values[at] for at in slices(len(values)))), np.float64, place)
    if not len(known):
        return 0, float("nan")
    middle, odd = divmod(len(known), 2)
    known.partition([middle] if odd else [middle - 1, middle])
    with np.errstate(over="ignore"):
        median = float(known[middle if odd else middle - 1 : middle + 1].mean())
    return len(known), median + 0.0  # zero has one sign: which of two stands in the middle is the sort's affair
