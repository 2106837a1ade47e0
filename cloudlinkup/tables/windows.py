"""From a text to training windows: the context's tokens and the one after each, the hold-out in stretches of its own.

The text is cut into equal stretches, some of which are held out whole, by the job's seed; neighbours that are trained
on are joined again, and each run of tokens is cut into windows by itself. So no window reaches from what is trained on
into what is held out, and what is scored is running text. Windows do not overlap but for the token that ends one and
begins the next. They are shuffled where they are dealt (`training/data.shard_rows`) and at each epoch.

The text is read in pieces, and may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.prepare import spec_of
from cloudlinkup.tables.prepared import Arrays, Prepared
from cloudlinkup.tables.spilled import spilled
from cloudlinkup.tables.text import TextRecipe, read_text
from cloudlinkup.tables.uri import printable
from cloudlinkup.training.data import MAX_PARTITION
from cloudlinkup.types import JobSpec
from cloudlinkup.wire.hashes import digest

MIN_WINDOWS = 20
LEAST_WINDOWS = 2  # for each contributor, with its share of the held-out ones
STRETCHES = 50  # at most
PIECE = 65_536  # windows written at a time


def prepare_text(path: Path, job: JobSpec, place: Path | None = None, tokenizer: str | None = None) -> Prepared:
    """The job's windows, in memory or in files in `place`. The same text and job give the same bytes.

    `tokenizer`: the document of the job's tokenizer.json. Raises BadInput: `data.uri` for what is not UTF-8 or too
    short, `data.holdout`, `data.tokenizer`, `model`, `contributors.max`.
    """
    context = _context(job)
    recipe = TextRecipe(context=context, tokenizer=tokenizer)
    outputs = _outputs(job, recipe)
    spec_of(job, context, outputs, rows=1)  # what cannot be trained is refused before the text is read
    if job.train.class_weights is not None:
        raise BadInput("train.class_weights", "(given)", "a next_token has no classes", "leave it out")
    tokens = _tokens(path, job, recipe, place)
    train, held = stretches(len(tokens), context, job)
    arrays, made = Arrays(place), {}
    for name, runs in (("windows", train), ("holdout_windows", held)):
        count = sum(_windows_in(run, context) for run in runs)
        if 8 * count * (context + 1) > MAX_PARTITION:
            raise BadInput("data.uri", f"{len(tokens)} tokens", "too much text for one job", "split it")
        made[name] = arrays.make(name, (count, context + 1), np.int32)
        _fill(made[name], tokens, runs, context)
    spec = spec_of(job, context, outputs, len(made["windows"]))
    return arrays.finish(made, recipe, spec)


def _context(job: JobSpec) -> int:
    """Tokens of a window: the model's own, or the data's where the model takes several."""
    own, given = getattr(job.model, "context", None), job.data.context
    if own is not None and given not in (None, own):
        raise BadInput("data.context", given, f"the model's is {own}", "leave it out")
    if own is None and given is None:
        raise BadInput("data.context", "(absent)", "the model does not say how long its windows are", "add it")
    return own or given or 0


def _outputs(job: JobSpec, recipe: TextRecipe) -> int:
    """The vocabulary: of the model's own config where it has one, which may be larger than the tokenizer's."""
    found, config = recipe.vocabulary, getattr(job.model, "config", None)
    most = config.get("vocab_size", found) if isinstance(config, dict) else found
    if found > most:
        problem = f"has {found} tokens, and the model's vocabulary is {most}"
        raise BadInput("data.tokenizer", "tokenizer.json" if recipe.tokenizer else "bytes", problem, "use its own")
    return most


def _tokens(path: Path, job: JobSpec, recipe: TextRecipe, place: Path | None) -> np.ndarray:
    """All tokens, as `spilled`."""
    dtype = np.dtype(np.uint8 if recipe.tokenizer is None else np.int32)
    tokens = spilled((recipe.encode(text) for text in read_text(path, job.data.uri)), dtype, place)
    if not len(tokens):
        raise BadInput("data.uri", printable(job.data.uri), "the text is empty", "give a text to learn from")
    return tokens


Run = tuple[int, int]  # tokens from, to


def stretches(count: int, context: int, job: JobSpec) -> tuple[list[Run], list[Run]]:
    """(runs of tokens to train on, runs held out) of `count` tokens. Raises BadInput where there are too few."""
    most = (count - 1) // context if count else 0
    shown = f"{count} tokens"
    if most < MIN_WINDOWS:
        least = MIN_WINDOWS * context + 1
        problem = f"too short: {MIN_WINDOWS} windows of {context} tokens take {least}"
        raise BadInput("data.uri", shown, problem, "add text, or lower model.context")
    if most < job.contributors.max * LEAST_WINDOWS:
        problem = f"{most} windows of text are too few to give each a partition"
        raise BadInput("contributors.max", job.contributors.max, problem, "lower it, or add text")
    number = min(STRETCHES, count // (2 * (context + 1)))
    out = round(job.data.holdout * number)  # below all of them: there are five or more
    if out < 1:
        problem = f"leaves none of the text's {number} stretches to score on"
        raise BadInput("data.holdout", job.data.holdout, problem, f"raise it to {1 / number:.3f} or more")
    key = np.frombuffer(digest("stretches", job.train.seed)[:16], "<u8")
    chosen = set(np.argsort(np.random.Philox(key=key).random_raw(number), kind="stable")[:out].tolist())
    edges = [count * k // number for k in range(number + 1)]
    train: list[Run] = []
    held: list[Run] = []
    for k in range(number):
        run, kind = (edges[k], edges[k + 1]), held if k in chosen else train
        if kind and kind[-1][1] == run[0]:
            kind[-1] = (kind[-1][0], run[1])
        else:
            kind.append(run)
    return train, held


def _windows_in(run: Run, context: int) -> int:
    return (run[1] - run[0] - 1) // context


def _fill(windows: np.ndarray, tokens: np.ndarray, runs: list[Run], context: int) -> None:
    at = 0
    for run in runs:
        for first, count in _pieces(_windows_in(run, context)):
            start = run[0] + first * context
            part = tokens[start : start + count * context + 1]
            windows[at : at + count, :-1] = part[:-1].reshape(count, context)
            windows[at : at + count, -1] = part[context::context]
            at += count


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, PIECE):
        yield first, min(PIECE, count - first)
