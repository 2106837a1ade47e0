"""One column's recipe from its training rows, which come in pieces: what it holds does not grow with them.

Numbers are kept as float64 in a mapped file (`spilled`) until the column is fitted; of words only the different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd

from cloudlinkup.errors import BadInput
from cloudlinkup.model_spec import ModelSpec
from cloudlinkup.tables.recipe import (
    MAX_WORDS,
    MISSING,
    CategoryColumn,
    Column,
    NumberColumn,
    finite,
    float_or_nan,
    is_number,
    words,
)
from cloudlinkup.tables.spilled import known_and_median, mean_and_deviation, spilled, total

COUNTED = 10_000  # different words, or labels, that are told apart; a refusal says "or more" from there on
Pieces = Callable[[], Iterator[pd.Series]]  # a column's training rows from the first on, none of them empty


def fit_column(name: str, pieces: Pieces, model: ModelSpec, place: Path | None) -> Column | None:
    """The recipe of a column, or None where it does not vary. With a shape of the network's input each column of
    numbers has its place and none is left out; an embedding takes the numbers as they stand. Raises BadInput(name)."""
    if not _numeric(pieces()):
        return _words(name, pieces())
    shaped = getattr(model, "input", None) is not None
    layers = getattr(model, "layers", ())
    embedded = shaped and bool(layers) and layers[0].type == "embedding"
    values = _numbers(name, pieces(), place)
    known, median = known_and_median(values, place)
    if not known:
        raise _all_missing(name)
    mean, scale = mean_and_deviation(values, median)
    if not (isfinite(mean) and isfinite(scale) and isfinite(median)):
        raise BadInput(name, "too large", "this column's numbers are too large", "rescale it")
    if scale > 1e-12 * abs(mean) and not embedded:
        return NumberColumn(name=name, median=median, mean=mean, scale=scale)
    if not shaped:
        return None
    mean = 0.0 if embedded else total(values, np.nan_to_num) / known
    return NumberColumn(name=name, median=median, mean=mean, scale=1.0)


def count_shown(different: int) -> str:
    return f"{different}" if different < COUNTED else f"{COUNTED} or more"


def _all_missing(name: str) -> BadInput:
    return BadInput(name, "all missing", "this column has no value in the training rows", "remove it")


def _numeric(pieces: Iterable[pd.Series]) -> bool:
    """Whether `is_number` holds for all of it: said by the type of one piece, unless these are Python objects."""
    found = False
    for series in pieces:
        if series.dtype != object:
            return is_number(series)
        if not series.isna().all():
            if not is_number(series):
                return False
            found = True
    return found


def _numbers(name: str, pieces: Iterable[pd.Series], place: Path | None) -> np.ndarray:
    """float64 (rows,), NaN where missing, as `spilled`."""
    infinite = 0

    def parts() -> Iterator[np.ndarray]:
        nonlocal infinite
        for series in pieces:
            values = float_or_nan(series)
            infinite += int(np.isinf(values).sum())
            yield values

    values = spilled(parts(), np.float64, place)
    finite(name, infinite)
    return values


def _words(name: str, pieces: Iterable[pd.Series]) -> CategoryColumn | None:
    found: set[str] = set()
    kind, missing = "", False
    for series in pieces:
        present = series.dropna()
        missing |= len(present) < len(series)
        if len(present):
            if present.dtype != object:  # text throughout: its different words say it all
                present = present.drop_duplicates()
            _check_words(name, present)
            kind = kind or str(present.dtype)
            if len(found) < COUNTED:
                found.update(words(present))
    if not kind:
        raise _all_missing(name)
    if len(found) > MAX_WORDS:
        problem = f"{count_shown(len(found))} different words are more than {MAX_WORDS}"
        raise BadInput(name, kind, problem, "group rare words, or remove the column")
    if missing:
        found.add(MISSING)
    return CategoryColumn(name=name, words=tuple(sorted(found))) if len(found) > 1 else None


def _check_words(name: str, present: pd.Series) -> None:
    if pd.api.types.is_datetime64_any_dtype(present.dtype) or pd.api.types.is_timedelta64_dtype(present.dtype):
        fix = "turn it into numbers (days since a date, month, weekday), or remove it"
        raise BadInput(name, str(present.dtype), "dates are not read as features", fix)
    if not all(isinstance(value, str | bool | int | float | np.generic) for value in present.astype(object)):
        dtype = str(present.dtype)
        raise BadInput(name, dtype, "this column holds neither numbers nor words", "convert or remove it")
