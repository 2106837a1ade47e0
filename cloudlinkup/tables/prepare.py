"""From a table to training rows: split, fit the recipe on the training rows alone, encode, standardise.

Refused by field, value and fix, without a cell: no label column, labels with gaps or all the same, too few rows, empty
columns, dates, nested values, text columns with too many different words. It does not look at a column's meaning: an
identifier that is a number trains as one, so leave it out of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd

from cloudlinkup.errors import BadInput
from cloudlinkup.model_spec import ModelSpec, for_training, refused_model
from cloudlinkup.tables.prepared import Arrays, Prepared
from cloudlinkup.tables.recipe import (
    MAX_WORDS,
    MISSING,
    CategoryColumn,
    Column,
    NumberColumn,
    Preprocessing,
    Target,
    Word,
    floats,
    is_number,
    numbers,
    plain,
    words,
)
from cloudlinkup.tables.stored import Frame, Stored
from cloudlinkup.training.architectures import MAX_INPUTS, check_spec, with_micro_batch
from cloudlinkup.training.schedule import Rounds, choose_rounds
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import JobSpec
from cloudlinkup.wire.hashes import digest

MIN_ROWS = 20
LEAST_ROWS = 2  # for each contributor, with its share of the held-out rows
MAX_CLASSES = 1_000
MAX_TABLE = 4 * 2**30  # bytes of prepared features


def prepare(source: pd.DataFrame | Stored, job: JobSpec, place: Path | None = None) -> Prepared:
    """The job's rows, ready to train on, in memory or in files in `place`. The same table and job give the same bytes,
    whether it is in memory or read in pieces. Raises BadInput."""
    assert job.task != "next_token", "text is prepared by tables/windows.py"
    label, table = job.data.column, Frame(source) if isinstance(source, pd.DataFrame) else source
    duplicates = [name for name in table.columns if table.columns.count(name) > 1]
    if duplicates:
        raise BadInput(duplicates[0], "(twice)", "this column's name is used twice", "rename one")
    if label not in table.columns:
        problem = f"is not among the table's {len(table.columns)} columns"
        raise BadInput("data.label", label, problem, "correct its spelling, or give the table a header")
    if len(table.columns) < 2:
        raise BadInput("data.uri", "1 column", "there is no column but the label", "add columns to learn from")
    if table.rows < MIN_ROWS:
        raise BadInput("data.uri", f"{table.rows} rows", f"at least {MIN_ROWS} are needed", "add rows")
    if round(job.data.holdout * table.rows) < 1:
        problem = f"leaves none of {table.rows} rows to score on"
        raise BadInput("data.holdout", job.data.holdout, problem, f"raise it to {1 / table.rows:.3f} or more")
    if table.rows < job.contributors.max * LEAST_ROWS:
        problem = f"{table.rows} rows are too few to give each a partition"
        raise BadInput("contributors.max", job.contributors.max, problem, "lower it, or add rows")
    answers = plain(table.column(label))
    missing = int(np.count_nonzero(answers.isna()))
    if missing:
        raise BadInput("data.label", label, f"{missing} rows have no label", "remove those rows")

    if job.task == "classification":
        classes, codes = _classes(answers)
        train, held = _split(codes, job.data.holdout, job.train.seed)
        targets, outputs, target = codes, len(classes), None
    else:
        raw = _regression(answers)
        train, held = _split(np.zeros(len(raw), np.int64), job.data.holdout, job.train.seed)
        target = _target(raw[train], label)
        classes, outputs = None, 1
        targets = ((raw - target.mean) / target.scale).astype(np.float32)[:, None]
    fit = _fit_for(job.model)
    fitted = [fit(plain(table.column(name)).iloc[train]) for name in table.columns if name != label]
    columns = [column for column in fitted if column is not None]
    if not columns:
        raise BadInput("data.uri", "no feature", "no column but the label varies", "add columns to learn from")
    recipe = Preprocessing(label=label, task=job.task, columns=tuple(columns), classes=classes, target=target)
    if recipe.inputs > MAX_INPUTS or recipe.inputs * table.rows * 4 > MAX_TABLE:
        size = f"{recipe.inputs} features, {table.rows} rows"
        raise BadInput("data.uri", size, "too large once categories are columns", "drop columns or rows")
    weights = _class_weights(job, targets[train], outputs)
    spec = spec_of(job, recipe.inputs, outputs, len(train), weights)
    arrays = Arrays(place)
    made = {
        name: arrays.make(name, (len(rows), *shape), dtype)
        for prefix, rows in (("", train), ("holdout_", held))
        for name, shape, dtype in (
            (f"{prefix}features", (recipe.inputs,), np.float32),
            (f"{prefix}targets", targets.shape[1:], targets.dtype),
        )
    }
    made["targets"][:], made["holdout_targets"][:] = targets[train], targets[held]
    _encode(table, recipe, {"features": train, "holdout_features": held}, made)
    return arrays.finish(made, recipe, spec)


def _encode(
    table: Frame | Stored, recipe: Preprocessing, rows: dict[str, np.ndarray], made: dict[str, np.ndarray]
) -> None:
    """Fills the features' arrays, each with its own `rows` (ascending) of the table, piece by piece."""
    for start, piece in table.pieces():
        features = recipe.features(piece)
        for name, numbers_ in rows.items():
            first, last = np.searchsorted(numbers_, (start, start + len(piece)))
            made[name][first:last] = features[numbers_[first:last] - start]


def spec_of(
    job: JobSpec, inputs: int, outputs: int, rows: int, class_weights: tuple[float, ...] | None = None
) -> TrainingSpec:
    """What every shard of the job is trained from. `rows`: that are trained on. Raises BadInput("model...")."""
    model, frozen = for_training(job.model)
    spec = TrainingSpec(
        task=job.task,
        model=model,
        inputs=inputs,
        outputs=outputs,
        batch=job.train.batch,
        lr=job.train.rate,
        seed=job.train.seed,
        precision=job.train.precision,
        class_weights=class_weights,
        rounds=rounds_of(job, rows),
        optimizer=job.train.optimizer,
        frozen=frozen,
    )
    try:
        check_spec(spec)
        return with_micro_batch(spec, job.train.micro_batch)
    except ValueError as error:
        raise refused_model(error, model, f"{inputs} inputs, {outputs} outputs") from None


def rounds_of(job: JobSpec, rows: int) -> Rounds:
    """How the rounds of a job with so many training rows are made. A search's trainings change hands: stateless."""
    if job.search is not None:
        return "stateless"
    wanted = job.train.rounds
    return choose_rounds(job.task, job.train.samples, rows) if wanted == "auto" else wanted


def _class_weights(job: JobSpec, codes: np.ndarray, classes: int) -> tuple[float, ...] | None:
    """One number a class, "balanced" as rows / (classes x rows of the class). Every class has a training row."""
    wanted, field = job.train.class_weights, "train.class_weights"
    if wanted is None:
        return None
    if job.task != "classification":
        raise BadInput(field, "(given)", f"a {job.task} has no classes", "leave it out")
    if wanted == "balanced":
        return tuple(float(weight) for weight in len(codes) / (classes * np.bincount(codes, minlength=classes)))
    if len(wanted) != classes:
        raise BadInput(field, f"{len(wanted)} numbers", f"the label has {classes} classes", "give one number for each")
    return tuple(map(float, wanted))


def _classes(series: pd.Series) -> tuple[tuple[Word, ...], np.ndarray]:
    """(the label's words in order, each row's class number)."""
    name = str(series.name)
    plain_text = series.dtype != object or all(isinstance(value, str) for value in series)
    codes, different = pd.factorize(series) if plain_text else (np.empty(0, np.int64), [])
    if pd.api.types.is_bool_dtype(series.dtype):
        values: list[Word] = [bool(v) for v in different]
    elif pd.api.types.is_integer_dtype(series.dtype):
        values = [int(v) for v in different]
    elif pd.api.types.is_float_dtype(series.dtype):
        values = [float(v) for v in different]
        if not all(isfinite(v) and v.is_integer() for v in values if isinstance(v, float)):
            fix = 'use task "regression", or a label of classes'
            raise BadInput("data.label", name, "its numbers are not classes", fix)
    elif plain_text and all(isinstance(v, str) for v in different):
        values = [str(v) for v in different]
    else:
        raise BadInput("data.label", name, "labels must be text, whole numbers or booleans", "convert the column")
    found = sorted(values)
    if len(found) < 2:
        raise BadInput("data.label", name, "every row has the same label", "choose a label that varies")
    if len(found) > MAX_CLASSES:
        problem = f"{len(found)} different labels are more than {MAX_CLASSES}"
        raise BadInput("data.label", name, problem, 'merge classes, or use task "regression" for numbers')
    number = {value: k for k, value in enumerate(found)}
    return tuple(found), np.array([number[value] for value in values], np.int64)[codes]


def _regression(series: pd.Series) -> np.ndarray:
    name = str(series.name)
    if not is_number(series):
        raise BadInput("data.label", name, "regression needs a numeric label", 'use task "classification"')
    values = floats(series)
    if not np.isfinite(values).all():
        raise BadInput("data.label", name, "some labels are infinite", "remove those rows")
    return values


def _target(values: np.ndarray, label: str) -> Target:
    scale = float(values.std())
    if not isfinite(scale) or scale <= 1e-12 * max(1.0, float(np.abs(values).max())):
        raise BadInput("data.label", label, "the label does not vary", "choose a label that varies")
    return Target(mean=float(values.mean()), scale=scale)


def _split(codes: np.ndarray, holdout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, held-out rows), ascending; by class as far as a class has the rows."""
    key = np.frombuffer(digest("holdout", seed)[:16], "<u8")
    order = np.argsort(np.random.Philox(key=key).random_raw(len(codes)), kind="stable")
    held = []
    for code in np.unique(codes):
        rows = order[codes[order] == code]
        held.append(rows[: min(round(holdout * len(rows)), len(rows) - 1)])
    out = np.sort(np.concatenate(held))
    if not len(out):  # only tiny classes: one row in all, from the largest
        largest = np.bincount(codes).argmax()
        out = order[codes[order] == largest][:1]
    inside = np.ones(len(codes), bool)
    inside[out] = False
    if not inside.any():
        raise BadInput("data.holdout", holdout, "leaves no row to train on", "lower it")
    return np.flatnonzero(inside), out


def _fit_for(model: ModelSpec) -> Callable[[pd.Series], Column | None]:
    """How a column is fitted for this network: with a shape of its input, each column has its place and none is left
    out; an embedding takes the numbers as they stand."""
    if getattr(model, "input", None) is None:
        return _fit
    layers = getattr(model, "layers", ())
    embedded = bool(layers) and layers[0].type == "embedding"

    def fit(series: pd.Series) -> Column | None:
        found = _fit(series)
        if not is_number(series) or (found is not None and not embedded):
            return found
        values = numbers(series)
        mean = 0.0 if embedded else float(np.nanmean(values))
        return NumberColumn(name=str(series.name), median=float(np.nanmedian(values)), mean=mean, scale=1.0)

    return fit


def _fit(series: pd.Series) -> Column | None:
    """One column's recipe, from training rows only; None for a column that does not vary there."""
    name = str(series.name)
    if series.isna().all():
        raise BadInput(name, "all missing", "this column has no value in the training rows", "remove it")
    if is_number(series):
        values = numbers(series)
        median = float(np.nanmedian(values))
        filled = np.where(np.isnan(values), median, values)
        mean, scale = float(filled.mean()), float(filled.std())
        if not isfinite(mean) or not isfinite(scale):
            raise BadInput(name, "too large", "this column's numbers are too large", "rescale it")
        if scale <= 1e-12 * abs(mean):
            return None
        return NumberColumn(name=name, median=median, mean=mean, scale=scale)
    if pd.api.types.is_datetime64_any_dtype(series.dtype) or pd.api.types.is_timedelta64_dtype(series.dtype):
        fix = "turn it into numbers (days since a date, month, weekday), or remove it"
        raise BadInput(name, str(series.dtype), "dates are not read as features", fix)
    if series.dtype != object:  # text throughout: its different words say it all
        series = series.drop_duplicates()
    present = series.astype(object).dropna()
    if not all(isinstance(value, str | bool | int | float | np.generic) for value in present):
        raise BadInput(name, str(series.dtype), "this column holds neither numbers nor words", "convert or remove it")
    found = sorted(set(words(series)))
    if len(found) - (MISSING in found) > MAX_WORDS:
        problem = f"{len(found)} different words are more than {MAX_WORDS}"
        raise BadInput(name, str(series.dtype), problem, "group rare words, or remove the column")
    return CategoryColumn(name=name, words=tuple(found)) if len(found) > 1 else None
