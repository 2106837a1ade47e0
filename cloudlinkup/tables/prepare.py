"""From a table to training rows: split, fit the recipe on the training rows alone, encode, standardise.

Refused by field, value and fix, without a cell: no label column, labels with gaps or all the same, too few rows, empty
columns, dates, nested values, text columns with too many different words. It does not look at a column's meaning: an
identifier that is a number trains as one, so leave it out of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cloudlinkup.errors import BadInput
from cloudlinkup.model_spec import for_training, refused_model
from cloudlinkup.tables.fit import fit_column
from cloudlinkup.tables.labels import fit_target, read_classes, read_targets
from cloudlinkup.tables.prepared import Arrays, Prepared
from cloudlinkup.tables.recipe import Preprocessing, plain
from cloudlinkup.tables.spilled import slices, spilled
from cloudlinkup.tables.split import counted, held_out
from cloudlinkup.tables.stored import CELLS, Frame, Stored
from cloudlinkup.training.architectures import MAX_INPUTS, check_spec, with_micro_batch
from cloudlinkup.training.schedule import Rounds, choose_rounds
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import JobSpec

MIN_ROWS = 20
LEAST_ROWS = 2  # for each contributor, with its share of the held-out rows
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
    missing = sum(int(piece.isna().sum()) for piece in table.column(label))
    if missing:
        raise BadInput("data.label", label, f"{missing} rows have no label", "remove those rows")

    answers = (plain(piece) for piece in table.column(label))
    if job.task == "classification":
        found = read_classes(label, answers, place)
        classes, targets, outputs = found.words, found.codes, len(found.words)
        held = held_out(targets, outputs, job.data.holdout, job.train.seed, place)
    else:
        classes, targets, outputs = None, read_targets(label, answers, place), 1
        one = np.broadcast_to(np.int16(0), targets.shape)
        held = held_out(one, 1, job.data.holdout, job.train.seed, place)
    train = spilled((targets[at][~held[at]] for at in slices(len(held))), targets.dtype, place)
    target = None if classes else fit_target(label, train)
    fitted = [
        fit_column(name, partial(_training, table, name, held), job.model, place)
        for name in table.columns
        if name != label
    ]
    columns = [column for column in fitted if column is not None]
    if not columns:
        raise BadInput("data.uri", "no feature", "no column but the label varies", "add columns to learn from")
    recipe = Preprocessing(label=label, task=job.task, columns=tuple(columns), classes=classes, target=target)
    if recipe.inputs > MAX_INPUTS or recipe.inputs * table.rows * 4 > MAX_TABLE:
        size = f"{recipe.inputs} features, {table.rows} rows"
        raise BadInput("data.uri", size, "too large once categories are columns", "drop columns or rows")
    weights = _class_weights(job, counted(train, outputs) if classes else np.empty(0, np.int64))
    spec = spec_of(job, recipe.inputs, outputs, len(train), weights)
    arrays, made = Arrays(place), {}
    shape, dtype = ((), np.int64) if classes else ((1,), np.float32)
    for prefix, rows in (("", len(train)), ("holdout_", len(held) - len(train))):
        made[f"{prefix}features"] = arrays.make(f"{prefix}features", (rows, recipe.inputs), np.float32)
        made[f"{prefix}targets"] = arrays.make(f"{prefix}targets", (rows, *shape), dtype)
    _encode(table, recipe, targets, held, made)
    return arrays.finish(made, recipe, spec)


def _training(table: Frame | Stored, name: str, held: np.ndarray) -> Iterator[pd.Series]:
    """A column's training rows, in pieces."""
    start = 0
    for piece in table.column(name):
        kept = plain(piece).iloc[np.flatnonzero(~held[start : start + len(piece)])]
        start += len(piece)
        if len(kept):
            yield kept


def _encode(
    table: Frame | Stored, recipe: Preprocessing, targets: np.ndarray, held: np.ndarray, made: dict[str, np.ndarray]
) -> None:
    """Fills the arrays of training and of held-out rows, each in the table's order, piece by piece."""
    filled = {"": 0, "holdout_": 0}
    step = max(1, CELLS // recipe.inputs)
    for start, whole in table.pieces():
        for first in range(0, len(whole), step):
            piece = whole.iloc[first : first + step]
            rows = slice(start + first, start + first + len(piece))
            features, found = recipe.features(piece), targets[rows]
            if recipe.target is not None:
                found = ((found - recipe.target.mean) / recipe.target.scale)[:, None]
            for prefix, wanted in (("", ~held[rows]), ("holdout_", held[rows])):
                at = slice(filled[prefix], filled[prefix] + int(wanted.sum()))
                made[f"{prefix}features"][at] = features[wanted]
                made[f"{prefix}targets"][at] = found[wanted]
                filled[prefix] = at.stop


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


def _class_weights(job: JobSpec, rows: np.ndarray) -> tuple[float, ...] | None:
    """One number a class, "balanced" as rows / (classes x rows of the class). `rows`: training rows of each class;
    one that has none, as its only row is held out, weighs as if it had one."""
    wanted, field = job.train.class_weights, "train.class_weights"
    if wanted is None:
        return None
    if job.task != "classification":
        raise BadInput(field, "(given)", f"a {job.task} has no classes", "leave it out")
    if wanted == "balanced":
        return tuple(float(weight) for weight in rows.sum() / (len(rows) * np.maximum(rows, 1)))
    if len(wanted) != len(rows):
        raise BadInput(
            field, f"{len(wanted)} numbers", f"the label has {len(rows)} classes", "give one number for each"
        )
    return tuple(map(float, wanted))
