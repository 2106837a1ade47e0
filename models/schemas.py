"""What tables must look like: a client's rows, and our own telemetry. pandera checks, we word the errors.

pandera's own messages print the cells that failed, which would carry a client's values into logs, runs and artifacts.
So its errors are read as data (column, rule, row number) and the rest is thrown away: `BadInput` and `Violation` name
column, rule, count and the first row numbers, never a value. Not here: reading files, encoding, splitting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrors

from cloudlinkup.errors import BadInput

SHOWN_ROWS = 5
OUTCOMES = ("accepted", "rejected", "lost", "timeout", "refused", "empty")
NEARLY, MANY = (
    0.95,
    20,
)  # share of a text column's cells that are numbers, and how many different cells, to mean numbers
MOST_SECONDS = 3_600.0  # of one optimizer step


@dataclass(frozen=True)
class Violation:
    """One broken rule. `rows` are the first few, counted from 0; `count` is of all."""

    column: str
    rule: str
    count: int
    rows: tuple[int, ...]

    def __str__(self) -> str:
        rows = f" (rows {', '.join(map(str, self.rows))}{', ...' if self.count > len(self.rows) else ''})"
        return f"{self.column}: {self.rule}: {self.count} rows{rows if self.rows else ''}"


# pandera's names of its own rules, in words
_RULES = {
    "not_nullable": "no value is missing",
    "field_uniqueness": "values are unique",
    "column_in_dataframe": "the column exists",
    "column_in_schema": "the column is in the schema",
    "multiple_fields_uniqueness": "rows are unique",
}


def _broken(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> dict[tuple[str, str], set[int]]:
    """(column, rule) to the rows that break it; no rows where it is the whole column's or table's."""
    try:
        schema.validate(frame.reset_index(drop=True), lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
    except SchemaError as error:  # pandera raises some even when lazy
        return {(str(getattr(error.schema, "name", "table")), "the table fits the schema"): set()}
    else:
        return {}
    found: dict[tuple[str, str], set[int]] = {}
    for context, column, check, index, case in zip(
        cases["schema_context"], cases["column"], cases["check"], cases["index"], cases["failure_case"], strict=True
    ):
        rule = _RULES.get(str(check), str(check))
        if rule.startswith(("dtype(", "coerce_dtype(")):
            rule = "the type is " + rule.partition("'")[2].partition("'")[0]
        if str(check) in ("column_in_dataframe", "column_in_schema"):
            name = str(case)  # pandera gives an absent column's name as the failure case; names are not cells
        elif context is None or str(context).startswith("DataFrame"):
            name = "table"  # a rule over several columns: pandera repeats it for each of them
        else:
            name = str(column)
        rows = found.setdefault((name, rule), set())
        if index is not None and not pd.isna(index):
            rows.add(int(index))
    return found


def violations(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> list[Violation]:
    """Every broken rule, those of single columns first. Holds no cell of the frame."""
    return [
        Violation(column, rule, len(rows) or len(frame), tuple(sorted(rows)[:SHOWN_ROWS]))
        for (column, rule), rows in sorted(_broken(schema, frame).items(), key=lambda item: item[0][0] == "table")
    ]


def bad_rows(schema: pa.DataFrameSchema, frame: pd.DataFrame) -> set[int]:
    """Positions of the rows that break any rule; all of them when a whole column does."""
    broken = _broken(schema, frame)
    if any(not rows for rows in broken.values()):
        return set(range(len(frame)))
    return set().union(*broken.values()) if broken else set()


# ---------------------------------------------------------------- a client's table

Kind = Literal["number", "text", "boolean"]


def client_schema(document: Mapping[str, Mapping[str, Any]]) -> pa.DataFrameSchema:
    """A schema that a client gives: {column: {kind, nullable, min, max, allowed}}, all but `kind` optional.

    Raises BadInput for an unknown kind or key.
    """
    columns: dict[str, pa.Column] = {}
    for name, rules in document.items():
        if unknown := set(rules) - {"kind", "nullable", "min", "max", "allowed"}:
            raise BadInput(
                f"data.schema.{name}", sorted(unknown)[0], "is not a rule", "use kind, nullable, min, max, allowed"
            )
        kind = rules.get("kind")
        if kind not in _KINDS:
            raise BadInput(f"data.schema.{name}.kind", kind, "unknown", f"use one of {', '.join(_KINDS)}")
        checks = [_KINDS[kind]]
        if "min" in rules:
            checks.append(_each(lambda x, low=rules["min"]: x >= low, f"at least {rules['min']}"))
        if "max" in rules:
            checks.append(_each(lambda x, high=rules["max"]: x <= high, f"at most {rules['max']}"))
        if "allowed" in rules:
            checks.append(_each(lambda x, few=tuple(rules["allowed"]): x.isin(few), "one of the allowed values"))
        columns[name] = pa.Column(None, checks, nullable=bool(rules.get("nullable", False)), required=True)
    return pa.DataFrameSchema(columns, strict=True)


def _each(rule: Any, words: str) -> pa.Check:
    def checked(values: pd.Series) -> pd.Series:
        try:
            return rule(values)
        except TypeError:  # not comparable: of another kind, so it breaks this rule too
            return pd.Series(False, index=values.index)

    return pa.Check(checked, error=words)


def _finite(values: pd.Series) -> pd.Series:
    """Which cells are finite numbers or missing. One cell that is none makes pandas read a whole column as text: then
    the cells that do not parse are named; all of them when every one does, since text it is."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        numbers = values.to_numpy(dtype="float64", na_value=np.nan)
        return pd.Series(~np.isinf(numbers), index=values.index)
    parsed = _parsed(values)
    good = pd.Series(np.isfinite(parsed.to_numpy()) | values.isna().to_numpy(), index=values.index)
    return pd.Series(False, index=values.index) if good.all() else good


def _parsed(values: pd.Series) -> pd.Series:
    """Each cell as a number, NaN where it is none; booleans are none."""
    numbers = pd.to_numeric(
        values.astype(object).where(~values.map(lambda c: isinstance(c, bool | np.bool_))), errors="coerce"
    )
    return pd.Series(numbers, index=values.index, dtype="float64")


def _texts(values: pd.Series) -> pd.Series:
    return values.map(lambda cell: isinstance(cell, str))


_KINDS: dict[str, pa.Check] = {
    "number": _each(_finite, "a finite number"),
    "text": _each(_texts, "text"),
    "boolean": _each(lambda x: x.map(lambda cell: isinstance(cell, bool | np.bool_)), "true or false"),
}


def inferred_schema(
    frame: pd.DataFrame, label: str, task: Literal["classification", "regression"]
) -> pa.DataFrameSchema:
    """What any table must keep, whatever it is about.

    A label in every row (a finite number for regression), no infinite number, cells of one kind in a column. Features
    may have gaps.
    """
    columns: dict[str, pa.Column] = {}
    for name in map(str, frame.columns):
        values = pd.Series(frame[name])
        checks: list[pa.Check] = []
        number = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
        if number or (name == label and task == "regression"):
            checks = [_KINDS["number"]]
        elif values.dtype == object and len({_kind(cell) for cell in values.dropna()}) > 1:
            checks = [_each(_texts, "cells of one kind, text or numbers")]
        elif name != label and _nearly_numbers(values):
            checks = [_each(_finite, "a number, as nearly all of its cells are")]
        columns[name] = pa.Column(None, checks, nullable=name != label, required=True)
    return pa.DataFrameSchema(columns)


def _nearly_numbers(values: pd.Series) -> bool:
    """A column of text that means numbers: 95% of many different cells parse. A few codes beside words do not count."""
    if pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        return False
    there = values.dropna()
    parsed = np.isfinite(_parsed(there))
    return bool(len(there)) and there.nunique() > MANY and NEARLY <= float(parsed.mean()) < 1


def _kind(cell: object) -> str:
    return "number" if isinstance(cell, int | float | np.number) and not isinstance(cell, bool) else type(cell).__name__


def check_table(
    frame: pd.DataFrame,
    label: str,
    task: Literal["classification", "regression"],
    schema: Mapping[str, Mapping[str, Any]] | None = None,
    first_row: int = 0,
) -> None:
    """Refuses a client's table by column, rule, count and row numbers; never by a value.

    `first_row`: where these rows are a piece of the table.
    `schema`: what the client gave (see `client_schema`), else it is inferred. Raises BadInput: `data.<column>`.
    """
    names = [str(c) for c in frame.columns]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise BadInput(f"data.{twice}", "(twice)", "this column's name is used twice", "rename one")
    if label not in names:
        raise BadInput(
            "data.label",
            label,
            f"is not among the table's {len(names)} columns",
            "correct its spelling, or add a header",
        )
    checked = frame.set_axis(names, axis=1)
    found = violations(inferred_schema(checked, label, task), checked)
    if schema is not None:
        found += violations(client_schema(schema), checked)
    if found:
        first = found[0]
        shown = ", ".join(str(first_row + row) for row in first.rows) + (
            ", ..." if first.count > len(first.rows) else ""
        )
        more = f"; {len(found) - 1} more rules are broken" if len(found) > 1 else ""
        raise BadInput(
            f"data.{first.column}",
            f"{first.count} rows" + (f" (first: {shown})" if first.rows else ""),
            f'breaks the rule "{first.rule}"{more}',
            "correct or remove those rows",
        )


# ---------------------------------------------------------------- telemetry


def _document(text: object) -> bool:
    try:
        return isinstance(text, str) and len(text) <= 65_536 and isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _column(dtype: Any, *checks: pa.Check, nullable: bool = False) -> pa.Column:
    return pa.Column(dtype, list(checks), nullable=nullable, required=True)


_count = pa.Check(lambda x: x >= 0, error="at least 0")
_id = pa.Check(lambda x: x.str.len().between(1, 200), error="1 to 200 characters")
_positive = pa.Check(lambda x: np.isfinite(x) & (x > 0), error="above 0 and finite")
_json = pa.Check(lambda x: x.map(_document), error="JSON of at most 64 KiB")

ATTEMPTS = pa.DataFrameSchema(
    {
        "request_id": _column(str, _id),
        "job_id": _column(str, _id),
        "round": _column(int, _count),
        "seat": _column(int, _count),
        "attempt": _column(int, _count),
        "wallet": _column(str, _id),
        "agent": _column(str, _id),
        "device_class": _column(str),
        "predictor": _column(str, _id),
        "version": _column(str, _id),
        "predicted": _column(float, _positive),
        "job": _column(str, _json),
        "probes": _column(str, _json),
        "share": _column(float, pa.Check(lambda x: (x > 0) & (x <= 1), error="above 0, at most 1")),
        "steps": _column(int, _count),
        "segments": _column(int, _count),
        "seconds": _column(float, pa.Check(lambda x: np.isfinite(x) & (x >= 0), error="at least 0 and finite")),
        "bytes_up": _column(int, _count),
        "bytes_down": _column(int, _count),
        "outcome": _column(str, pa.Check(lambda x: x.isin(OUTCOMES), error=f"one of {', '.join(OUTCOMES)}")),
        "replayed": _column(int, _count),
        "price": _column(int, _count),
        "score": _column(float, nullable=True),
        "at": _column(float, _positive),
        "client": _column(str, pa.Check(lambda x: x.str.len() <= 200, error="at most 200 characters")),
        "evidence": _column(str, pa.Check(lambda x: x.str.fullmatch(r"([0-9a-f]{64})?"), error="a SHA-256, or empty")),
    },
    checks=[
        pa.Check(
            lambda f: (f["outcome"] != "accepted") | ((f["steps"] > 0) & (f["segments"] > 0) & (f["seconds"] > 0)),
            error="accepted work has steps, segments and seconds",
        ),
        pa.Check(
            lambda f: (f["steps"] == 0) | (f["seconds"] <= MOST_SECONDS * f["steps"]),
            error=f"a step takes at most {MOST_SECONDS:.0f} s",
        ),
    ],
    strict=True,
)

CONTRIBUTORS = pa.DataFrameSchema(
    {
        "agent": _column(str, _id),
        "wallet": _column(str, _id),
        "device_class": _column(str),
        "probes": _column(str, _json),
        "share": _column(float, pa.Check(lambda x: (x > 0) & (x <= 1), error="above 0, at most 1")),
        "ask": _column(str, pa.Check(lambda x: x.str.fullmatch(r"\d{1,20}"), error="a whole number of base units")),
        "last_seen": _column(float, _positive),
    },
    strict=True,
)
