"""The preparation of raw rows as plain data: fitted once on the training rows, kept with the model, applied for ever.

Each column becomes one standardised number (missing values take the training rows' median) or one 0/1 column a word
(missing values are a word of their own where training had any; words that training did not have are all zeros).
A column that did not vary in training is not in the recipe.
Nothing here is code or pickled: it is one JSON document.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from cloudlinkup.errors import BadInput
from cloudlinkup.types import Frozen

MAX_WORDS = 100  # of one category column
OUTLIER = 1e6  # deviations from the mean at which a number is cut off, so that fp32 stays finite
MISSING = "\x00missing"  # cannot be a value of the table: words lose control characters
Word = bool | int | float | str


class NumberColumn(Frozen):
    """(value - mean) / scale, after a missing value has become `median`."""

    kind: Literal["number"] = "number"
    name: str
    median: float
    mean: float
    scale: Annotated[float, Field(gt=0)]

    @property
    def width(self) -> int:
        return 1


class CategoryColumn(Frozen):
    """One 0/1 column for each of `words`."""

    kind: Literal["category"] = "category"
    name: str
    words: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.words)


Column = Annotated[NumberColumn | CategoryColumn, Field(discriminator="kind")]


class Target(Frozen):
    """A regression target's standardisation: raw = standardised * scale + mean."""

    mean: float
    scale: Annotated[float, Field(gt=0)]


class Preprocessing(Frozen):
    """The recipe. `classes`: the label's own words, by class number; None for regression, which has a `target`."""

    version: Literal[1] = 1
    label: str
    task: Literal["classification", "regression"]
    columns: tuple[Column, ...]
    classes: tuple[Word, ...] | None = None
    target: Target | None = None

    @property
    def inputs(self) -> int:
        return sum(column.width for column in self.columns)

    def features(self, frame: pd.DataFrame) -> np.ndarray:
        """Raw rows, columns by name in any order, as fp32 (rows, inputs). Other columns are left aside.

        Raises BadInput that names a column that is missing or not of its kind, never a value.
        """
        result = np.zeros((len(frame), self.inputs), np.float32)
        start = 0
        for column in self.columns:
            if column.name not in frame.columns:
                raise BadInput(column.name, "(absent)", "this column is needed", "add it to the rows")
            if list(frame.columns).count(column.name) > 1:
                raise BadInput(column.name, "(twice)", "this column's name is used twice", "rename one")
            series = plain(pd.Series(frame[column.name]))
            if isinstance(column, NumberColumn):
                values = numbers(series)
                values = np.where(np.isnan(values), column.median, values)
                result[:, start] = np.clip((values - column.mean) / column.scale, -OUTLIER, OUTLIER)
            else:
                found = words(series)
                for offset, word in enumerate(column.words):
                    result[:, start + offset] = found == word
            start += column.width
        return result

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """The network's outputs (rows, outputs) in the label's own words (rows,)."""
        if self.classes is not None:
            return np.array(self.classes, dtype=_word_type(self.classes))[outputs.argmax(axis=1)]
        assert self.target is not None
        return outputs[:, 0].astype(np.float64) * self.target.scale + self.target.mean


def _word_type(classes: tuple[Word, ...]) -> type:
    kinds = {type(word) for word in classes}
    return kinds.pop() if len(kinds) == 1 and kinds <= {bool, int, float} else object


def plain(series: pd.Series) -> pd.Series:
    """A dictionary-encoded column as what it encodes; any other as it is. With gaps whole numbers become floats and
    booleans objects, as in a column that was never encoded."""
    dtype: Any = series.dtype
    if not isinstance(dtype, pd.CategoricalDtype):
        return series
    kind = dtype.categories.dtype
    if isinstance(kind, np.dtype) and kind.kind in "iub" and series.isna().any():
        kind = np.dtype(object if kind.kind == "b" else np.float64)
    return series.astype(kind)


def is_number(series: pd.Series) -> bool:
    """Numbers, booleans, or Decimal objects throughout."""
    if pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.is_numeric_dtype(series.dtype):
        return not pd.api.types.is_complex_dtype(series.dtype)
    if series.dtype != object:
        return False
    present = series.dropna()
    return len(present) > 0 and all(isinstance(value, bool | int | float | Decimal) for value in present)


def floats(series: pd.Series) -> np.ndarray:
    """A column for which `is_number` holds, as float64 (rows,) with NaN where missing."""
    values: Any = series.map(float, na_action="ignore") if series.dtype == object else series
    return np.array(values.to_numpy(dtype="float64", na_value=np.nan))


def float_or_nan(series: pd.Series) -> np.ndarray:
    """float64 (rows,), NaN where missing. Raises BadInput for text or dates."""
    if series.isna().all():
        return np.full(len(series), np.nan)
    if not is_number(series):
        fix = "correct it as it was in training"
        raise BadInput(str(series.name), str(series.dtype), "this column must hold numbers", fix)
    return floats(series)


def finite(name: str, infinite: int) -> None:
    """Raises BadInput where a column has so many infinite values."""
    if infinite:
        fix = "make them missing, or clip them"
        raise BadInput(name, f"{infinite} infinite values", "a number must be finite", fix)


def numbers(series: pd.Series) -> np.ndarray:
    """`float_or_nan` of a column whose values must be finite. Raises BadInput."""
    values = float_or_nan(series)
    finite(str(series.name), int(np.isinf(values).sum()))
    return values


def words(series: pd.Series) -> np.ndarray:
    """object (rows,) of text, MISSING where missing. A whole number reads the same as integer, float or text."""
    missing = series.isna().to_numpy()
    return np.array([MISSING if gone else word(value) for value, gone in zip(series, missing, strict=True)], object)


def word(value: object) -> str:
    """One value as text."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).replace("\x00", "")
