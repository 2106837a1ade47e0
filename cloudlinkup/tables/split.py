"""Which rows are held out: a share of each class, drawn by the job's seed, without all rows' numbers in memory.

Each row has a 64-bit key of a counter-based generator, made again whenever it is looked at. Of each class the rows with
the smallest keys are held out, as many as its share comes to; the largest key among them is found digit by digit
(radix selection: one pass over the keys and one table of 256 counts a class for each of their 8 bytes).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cloudlinkup.tables.spilled import slices, spilled
from cloudlinkup.wire.hashes import digest


def counted(codes: np.ndarray, classes: int) -> np.ndarray:
    """int64 (classes,): rows of each class. `codes`: class numbers (rows,)."""
    found = np.zeros(classes, np.int64)
    for at in slices(len(codes)):
        found += np.bincount(codes[at], minlength=classes)
    return found


def held_out(codes: np.ndarray, classes: int, holdout: float, seed: int, place: Path | None) -> np.ndarray:
    """bool (rows,), as `spilled`: by class as far as a class has the rows. Each class keeps one to train on,
    unless all have a single row: then one of these is held out."""
    rows = counted(codes, classes)
    wanted = np.array([max(0, min(round(holdout * n), n - 1)) for n in rows.tolist()], np.int64)
    if not wanted.any():  # only tiny classes: one row in all, from the largest
        wanted[rows.argmax()] = 1
    last, ties = _last(codes, wanted, seed)

    def parts() -> Iterator[np.ndarray]:
        left = ties.copy()
        for at, keys in _keys(len(codes), seed):
            own = codes[at]
            held = keys < last[own]
            for row in np.flatnonzero(keys == last[own]):  # about one a class
                held[row] = left[own[row]] > 0
                left[own[row]] -= 1
            yield held

    return spilled(parts(), bool, place)


def _last(codes: np.ndarray, wanted: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(the `wanted`-th smallest key of each class, how many of its rows with just this key are wanted)."""
    found, rank = np.zeros(len(wanted), np.uint64), wanted.copy()
    byte = np.uint64(8)
    for shift in map(np.uint64, range(56, -8, -8)):
        table = np.zeros(len(wanted) * 256, np.int64)
        for at, keys in _keys(len(codes), seed):
            high = keys >> shift
            here = (high >> byte) == found[codes[at]]
            digits = (high[here] & np.uint64(255)).astype(np.int64)
            table += np.bincount(codes[at][here].astype(np.int64) * 256 + digits, minlength=len(table))
        up_to = table.reshape(-1, 256).cumsum(axis=1)
        digit = (up_to < rank[:, None]).sum(axis=1)  # the first with as many rows as are wanted
        before = np.take_along_axis(np.pad(up_to, ((0, 0), (1, 0))), digit[:, None], axis=1)[:, 0]
        rank -= before
        found = (found << byte) | digit.astype(np.uint64)
    return found, rank


def _keys(rows: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(some rows, their keys uint64), in order."""
    key = np.frombuffer(digest("holdout", seed)[:16], "<u8")
    generator = np.random.Philox(key=key)
    for at in slices(rows):
        yield at, generator.random_raw(at.stop - at.start)
