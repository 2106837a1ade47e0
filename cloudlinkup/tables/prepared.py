"""Rows that are ready to train on, in memory or in files that are mapped into it.

    prepared.json                   the recipe and the training spec; written last: where it is, the rest is
    features.npy, targets.npy, holdout_features.npy, holdout_targets.npy
    windows.npy, holdout_windows.npy     instead, for text: int32 (rows, length + 1), a window and the token after it

A table may be larger than memory: its arrays are views of the files, and only what is asked for is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from cloudlinkup.tables.disk import reserve, room
from cloudlinkup.tables.recipe import Preprocessing, Word
from cloudlinkup.tables.text import TextRecipe
from cloudlinkup.training.data import check_rows, join_windows, split_windows
from cloudlinkup.training.spec import TrainingSpec

DOCUMENT = "prepared.json"
ROWS = ("features", "targets", "holdout_features", "holdout_targets")
TEXT = ("windows", "holdout_windows")
PIECE = 16 * 2**20  # bytes copied or hashed at a time

Recipe = Annotated[Preprocessing | TextRecipe, Field(discriminator="task")]
_RECIPE: TypeAdapter[Preprocessing | TextRecipe] = TypeAdapter(Recipe)


def read_recipe(document: str | bytes) -> Preprocessing | TextRecipe:
    """The recipe that stands in preprocessing.json. Raises pydantic's ValidationError."""
    return _RECIPE.validate_json(document)


class Arrays:
    """Where prepared arrays are made: files below `place`, or memory where there is none."""

    def __init__(self, place: Path | None) -> None:
        self.place = place

    def make(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of zeros to be filled. Raises Unavailable where the disk is too full for it."""
        if self.place is None:
            return np.zeros(shape, dtype)
        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.place / f"{name}.npy"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        size = prod(shape) * np.dtype(dtype).itemsize
        with room(self.place, size):
            made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        reserve(path, path.stat().st_size)
        return made

    def finish(
        self, arrays: Mapping[str, np.ndarray], recipe: Preprocessing | TextRecipe, spec: TrainingSpec
    ) -> Prepared:
        """The rows, once the arrays that `make` gave are filled; on disk they survive a power cut from here on."""
        for array in arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        if self.place is None:
            return _prepared(dict(arrays), recipe, spec)
        path = self.place / DOCUMENT
        part = path.with_name(path.name + ".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_document(recipe, spec))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return Prepared.load(self.place)


def _document(recipe: Preprocessing | TextRecipe, spec: TrainingSpec) -> bytes:
    told = {"version": 1, "recipe": recipe.model_dump(mode="json"), "spec": spec.to_bytes().decode()}
    return json.dumps(told, sort_keys=True, allow_nan=False).encode() + b"\n"


def _prepared(arrays: dict[str, np.ndarray], recipe: Preprocessing | TextRecipe, spec: TrainingSpec) -> Prepared:
    if isinstance(recipe, TextRecipe):
        (x, y), (held_x, held_y) = (split_windows(arrays[name]) for name in TEXT)
        return Prepared(x, y, held_x, held_y, recipe, (), spec)
    x, y, held_x, held_y = (arrays[name] for name in ROWS)
    return Prepared(x, y, held_x, held_y, recipe, recipe.classes or (), spec)


@dataclass(frozen=True, eq=False)
class Prepared:
    """features: fp32 (rows, inputs). targets: int64 (rows,) class numbers, or standardised fp32 (rows, 1); for text,
    both are int32 (rows, length).

    The holdout's are alike. `classes`: the label's own words by number, empty for regression and text.
    """

    features: np.ndarray
    targets: np.ndarray
    holdout_features: np.ndarray
    holdout_targets: np.ndarray
    preprocessing: Preprocessing | TextRecipe
    classes: tuple[Word, ...]
    spec: TrainingSpec

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of everything in it: the same rows, recipe and spec have the same."""
        found = hashlib.sha256(_document(self.preprocessing, self.spec))
        for name in ROWS:
            array = getattr(self, name)
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            step = _rows_of(array)
            for start in range(0, len(array), step):
                found.update(np.ascontiguousarray(array[start : start + step]).data)
        return found.hexdigest()

    def save(self, place: Path) -> Prepared:
        """Writes the folder and returns the rows as they lie there."""
        arrays, made = Arrays(place), {}
        text = isinstance(self.preprocessing, TextRecipe)
        for name in TEXT if text else ROWS:
            source = getattr(self, name) if not text else join_windows(*self._windows(name))
            made[name] = arrays.make(name, source.shape, source.dtype)
            step = _rows_of(source)
            for start in range(0, len(source), step):
                made[name][start : start + step] = source[start : start + step]
        return arrays.finish(made, self.preprocessing, self.spec)

    def _windows(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        held = name.startswith("holdout")
        return (self.holdout_features, self.holdout_targets) if held else (self.features, self.targets)

    @classmethod
    def load(cls, place: Path) -> Prepared:
        """The rows in a folder, mapped. Raises ValueError for anything that was not written here, FileNotFoundError."""
        try:
            told = json.loads((place / DOCUMENT).read_bytes())
            recipe = _RECIPE.validate_python(told["recipe"])
            spec = TrainingSpec.from_bytes(told["spec"].encode())
            names = TEXT if isinstance(recipe, TextRecipe) else ROWS
            # a plain array over the map: what is taken out of it is in memory, and of the usual class
            arrays = {n: np.asarray(np.load(place / f"{n}.npy", mmap_mode="r", allow_pickle=False)) for n in names}
        except (KeyError, TypeError, AttributeError, ValidationError, ValueError):
            raise ValueError("not prepared rows") from None
        found = _prepared(arrays, recipe, spec)
        check_rows(found.features, found.targets, spec)
        check_rows(found.holdout_features, found.holdout_targets, spec)
        return found


def _rows_of(array: np.ndarray) -> int:
    """Rows of one piece."""
    return max(1, PIECE // max(1, array[:1].nbytes))
