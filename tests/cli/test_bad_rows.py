"""Bad rows through `cloudlinkup quote`, before any chain or contributor is asked: field, problem and fix, and no cell.

Every table holds a canary in a cell, which no answer may repeat.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home
from cloudlinkup.types import parse_job
from tasks.quoted import check_quoted, remember_quoted

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

CANARY = "canary-8361"
ROWS = 60
Bad = Callable[[pd.DataFrame], Any]


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = np.where(rng.random(ROWS) < 0.5, CANARY, "other")
    return pd.DataFrame({"a": rng.random(ROWS), "b": rng.random(ROWS), "w": words, "y": np.arange(ROWS) % 3})


def with_label(values: Any) -> Bad:
    return lambda frame: frame.assign(y=values)


def csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


REGRESSION = {"task": "regression"}
CASES: dict[str, tuple[Bad, dict[str, Any], str, str]] = {
    "words for a regression": (with_label(table()["w"].to_numpy()), REGRESSION, "data.y", "finite number"),
    "fractions for classes": (with_label(np.linspace(0, 1, ROWS)), {}, "data.label", "not classes"),
    "an infinite target": (with_label([np.inf, *range(ROWS - 1)]), REGRESSION, "data.y", "finite number"),
    "one class only": (with_label(CANARY), {}, "data.label", "every row has the same label"),
    "a constant target": (with_label(4.5), REGRESSION, "data.label", "does not vary"),
    "rows without a label": (with_label([None, *[1, 2] * (ROWS // 2)][:ROWS]), {}, "data.y", "missing"),
    "an all-missing column": (lambda f: f.assign(b=None), {}, "b", "no value"),
    "no such label": (lambda f: f.drop(columns="y"), {}, "data.label", "not among"),
    "a name used twice": (lambda f: csv(f).replace(b"a,b,", b"a,a,", 1), {}, "data.uri", "columns 1 and 2"),
    "not UTF-8": (lambda f: csv(f) + b"0.5,0.5,\xff\xfe,1\n", {}, "data.uri", f"line {ROWS + 2}"),
    "only the label": (lambda f: f[["y"]], {}, "data.uri", "no column but the label"),
    "too few rows": (lambda f: f.head(5), {}, "data.uri", "are needed"),
    "fewer rows than contributors": (lambda f: f, {"contributors": {"max": 64}}, "contributors.max", "too few"),
    "an empty hold-out": (lambda f: f, {"holdout": 0.001}, "data.holdout", "none of 60 rows"),
    "weights for other classes": (
        lambda f: f, {"train": {"class_weights": [1, 2]}}, "train.class_weights", "3 classes",
    ),
    "weights for a regression": (
        lambda f: f, REGRESSION | {"train": {"class_weights": "balanced"}}, "train.class_weights", "no classes",
    ),
    "another task's metric": (lambda f: f, REGRESSION | {"metric": "auc"}, "metric", "use r2"),
    "patience beside a search": (
        lambda f: f, {"train": {"patience": 2}, "search": {"kind": "ensemble"}}, "search", "halving",
    ),
}  # fmt: skip


PROSE = f"A {CANARY} sang in the wood.\n".encode() * 200
TRANSFORMER = {"kind": "transformer", "width": 8, "depth": 1, "heads": 1, "context": 16}
TEXTS: dict[str, tuple[bytes, dict[str, Any], str, str]] = {
    "text that is not UTF-8": (PROSE + b"\xff\xfe", {}, "data.uri", f"byte {len(PROSE)}, line 201"),
    "text that ends in half a character": (PROSE + b"\xe6\x97", {}, "data.uri", "not UTF-8"),
    "an empty text": (b"", {}, "data.uri", "empty"),
    "a text that is too short": (PROSE[:300], {}, "data.uri", "too short"),
    "fewer windows than contributors": (
        PROSE[:1_000], {"contributors": {"max": 64}}, "contributors.max", "too few",
    ),
    "nothing of a text held out": (PROSE, {"holdout": 0.001}, "data.holdout", "none of the text's"),
    "a model for tables": (PROSE, {"model": {"kind": "mlp", "hidden": [8]}}, "model.kind", "not next_token"),
    "a label for a text": (PROSE, {"label": "y"}, "data.label", "no label"),
    "classes of a text": (PROSE, {"train": {"class_weights": "balanced"}}, "train.class_weights", "no classes"),
    "a table's task": (PROSE, {"task": "classification"}, "task", "next_token"),
    "a text's blend": (PROSE, {"search": {"kind": "ensemble"}}, "search", "not blended"),
    "a tokenizer that is not there": (
        PROSE, {"tokenizer": {"uri": "none.json", "sha256": "0" * 64}}, "data.tokenizer.uri", "not a readable file",
    ),
    "another tokenizer": (
        PROSE, {"tokenizer": {"uri": "rows.txt", "sha256": "0" * 64}}, "data.tokenizer.sha256", "not the SHA-256",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_text_is_named_by_field_problem_and_fix(cli: Cli, tmp_path: Path, name: str) -> None:
    text, changes, field, problem = TEXTS[name]
    (tmp_path / "rows.txt").write_bytes(text)
    document = job(tmp_path, {"task": "next_token", "model": TRANSFORMER, "contributors": {"max": 2}})
    changes = dict(changes)
    document["data"] = {"uri": str(tmp_path / "rows.txt"), "format": "text"}
    document["data"] |= {key: changes.pop(key) for key in ("holdout", "label", "tokenizer") if key in changes}
    document["train"] |= changes.pop("train", {})
    (tmp_path / "job.json").write_text(json.dumps(document | changes))
    answer = cli("quote", "job.json", "--json")
    assert answer.code == 2, answer
    error = answer.document["error"]
    assert (error["type"], error["field"]) == ("BadInput", field), error
    assert problem in error["message"]
    assert error["fix"]
    assert CANARY not in answer.out + answer.err


def job(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "version": 1,
        "data": {"uri": str(folder / "rows.csv"), "format": "csv", "label": "y"},
        "task": "classification",
        "model": {"kind": "mlp", "hidden": [8]},
        "train": {"samples": 1_000},
        "budget": "1",
        "deadline": "2035-01-01T00:00:00Z",
    }
    changes = dict(changes)
    document["data"] |= {key: changes.pop(key) for key in ("holdout",) if key in changes}
    document["train"] |= changes.pop("train", {})
    return document | changes


@pytest.mark.parametrize("name", CASES)
def test_bad_rows_name_field_problem_and_fix(cli: Cli, tmp_path: Path, name: str) -> None:
    worse, changes, field, problem = CASES[name]
    made = worse(table())
    (tmp_path / "rows.csv").write_bytes(made if isinstance(made, bytes) else csv(made))
    (tmp_path / "job.json").write_text(json.dumps(job(tmp_path, changes)))
    answer = cli("quote", "job.json", "--json")
    assert answer.code == 2, answer
    error = answer.document["error"]
    assert (error["type"], error["field"]) == ("BadInput", field), error
    assert problem in error["message"]
    assert error["fix"]
    assert CANARY not in answer.out + answer.err


def test_rows_that_changed_since_the_quote_are_refused(tmp_path: Path) -> None:
    home, quoted = Home(tmp_path), parse_job(job(tmp_path, {}))
    check_quoted(home, quoted, "rows")  # never quoted: bound to nothing
    remember_quoted(home, quoted, "rows")
    check_quoted(home, quoted, "rows")
    with pytest.raises(BadInput, match="not those of the quote") as refused:
        check_quoted(home, quoted, "other rows")
    assert refused.value.field == "data.uri"
    check_quoted(home, parse_job(job(tmp_path, {"budget": "2"})), "other rows")  # another job
    remember_quoted(home, quoted, "other rows")
    check_quoted(home, quoted, "other rows")
