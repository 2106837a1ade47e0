"""The label column, in pieces: each row's class number, or its number to predict, as `spilled`; and what they say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.fit import COUNTED, count_shown
from cloudlinkup.tables.recipe import Target, Word, floats, is_number
from cloudlinkup.tables.spilled import mean_and_deviation, slices, spilled

MAX_CLASSES = 1_000


@dataclass(frozen=True)
class Classes:
    """`words`: the label's own, in order. `codes`: int16 (rows,), each row's place among them."""

    words: tuple[Word, ...]
    codes: np.ndarray


def read_classes(label: str, pieces: Iterable[pd.Series], place: Path | None) -> Classes:
    """Of a column without gaps. Raises BadInput("data.label")."""
    seen: dict[Word, int] = {}  # word: its number, in order of appearance

    def parts() -> Iterator[np.ndarray]:
        for series in pieces:
            different, codes = _different(label, series)
            for word in different:
                if len(seen) < COUNTED:
                    seen.setdefault(word, len(seen))
            yield np.array([seen.get(word, 0) for word in different], np.int16)[codes]

    codes = spilled(parts(), np.int16, place)
    words = sorted(seen)
    if len(words) < 2:
        raise BadInput("data.label", label, "every row has the same label", "choose a label that varies")
    if len(words) > MAX_CLASSES:
        problem = f"{count_shown(len(words))} different labels are more than {MAX_CLASSES}"
        raise BadInput("data.label", label, problem, 'merge classes, or use task "regression" for numbers')
    number = np.empty(len(words), np.int16)
    number[[seen[word] for word in words]] = np.arange(len(words), dtype=np.int16)
    for at in slices(len(codes)):
        codes[at] = number[codes[at]]
    return Classes(tuple(words), codes)


def _different(label: str, series: pd.Series) -> tuple[list[Word], np.ndarray]:
    """(the different labels in order of appearance, each row's place among them)."""
    plain_text = series.dtype != object or all(isinstance(value, str) for value in series)
    codes, different = pd.factorize(series) if plain_text else (np.empty(0, np.int64), [])
    if pd.api.types.is_bool_dtype(series.dtype):
        return [bool(v) for v in different], codes
    if pd.api.types.is_integer_dtype(series.dtype):
        return [int(v) for v in different], codes
    if pd.api.types.is_float_dtype(series.dtype):
        values = [float(v) for v in different]
        if not all(isfinite(v) and v.is_integer() for v in values):
            fix = 'use task "regression", or a label of classes'
            raise BadInput("data.label", label, "its numbers are not classes", fix)
        return list(values), codes
    if plain_text and all(isinstance(v, str) for v in different):
        return [str(v) for v in different], codes
    raise BadInput("data.label", label, "labels must be text, whole numbers or booleans", "convert the column")


def read_targets(label: str, pieces: Iterable[pd.Series], place: Path | None) -> np.ndarray:
    """float64 (rows,) of a column without gaps. Raises BadInput("data.label")."""

    def parts() -> Iterator[np.ndarray]:
        for series in pieces:
            if not is_number(series):
                fix = 'use task "classification"'
                raise BadInput("data.label", label, "regression needs a numeric label", fix)
            values = floats(series)
            if not np.isfinite(values).all():
                raise BadInput("data.label", label, "some labels are infinite", "remove those rows")
            yield values

    return spilled(parts(), np.float64, place)


def fit_target(label: str, values: np.ndarray) -> Target:
    """Of the training rows' targets. Raises BadInput("data.label") where they do not vary."""
    mean, scale = mean_and_deviation(values)
    most = max(float(np.abs(values[at]).max()) for at in slices(len(values)))
    if not isfinite(scale) or scale <= 1e-12 * max(1.0, most):
        raise BadInput("data.label", label, "the label does not vary", "choose a label that varies")
    return Target(mean=mean, scale=scale)
