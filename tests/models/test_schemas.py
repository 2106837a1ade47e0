"""A client's table is refused by column, rule, count and rows; no cell of it is ever shown."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.errors import BadInput
from models.schemas import check_table, client_schema, violations

CANARY = "canary-5f1c"


def refused(
    frame: pd.DataFrame, label: str = "y", task: str = "classification", schema: dict | None = None
) -> BadInput:
    with pytest.raises(BadInput) as caught:
        check_table(frame, label, task, schema)  # type: ignore[arg-type]
    assert CANARY not in str(caught.value) and "31337" not in str(caught.value)
    return caught.value


def test_good_tables_pass() -> None:
    check_table(
        pd.DataFrame({"a": [1.0, None, 3], "b": ["x", None, "z"], "c": [True, False, True], "y": [0, 1, 0]}),
        "y",
        "classification",
    )
    check_table(pd.DataFrame({"a": [1, 2, 3], "y": [0.5, 1.5, -1]}), "y", "regression")


def test_each_rule_names_column_rule_count_and_rows() -> None:
    error = refused(pd.DataFrame({"a": [1.0, np.inf, 31337.0, -np.inf], "y": [0, 1, 0, 1]}))
    assert error.field == "data.a" and "2 rows (first: 1, 3)" in str(error) and "finite" in str(error)
    error = refused(pd.DataFrame({"a": [1.0] * 9, "y": [CANARY, None, "q"] * 3}))
    assert error.field == "data.y" and "3 rows (first: 1, 4, 7)" in str(error)
    error = refused(pd.DataFrame({"a": [CANARY, 2, 3], "y": [0, 1, 0]}, dtype=object).assign(y=[0, 1, 0]))
    assert error.field == "data.a" and "one kind" in str(error)
    error = refused(pd.DataFrame({"a": [1, 2], "y": [CANARY, "b"]}), task="regression")
    assert error.field == "data.y" and "2 rows" in str(error)
    assert refused(pd.DataFrame({"a": [1]}), "nope").field == "data.label"
    assert "twice" in str(refused(pd.DataFrame([[1, 2, 3]], columns=["a", "a", "y"])))


def from_csv(bad: dict[int, str], column: str) -> pd.DataFrame:
    """A hundred rows as pandas reads them from a CSV file, with some cells of one column replaced."""
    rows = [{"a": f"{i / 7:.3f}", "y": f"{i / 3:.3f}"} for i in range(100)]
    for row, cell in bad.items():
        rows[row][column] = cell
    return pd.read_csv(io.StringIO("a,y\n" + "\n".join(f"{r['a']},{r['y']}" for r in rows) + "\n"))


@pytest.mark.parametrize("column", ["a", "y"])
def test_one_bad_numeric_cell_of_a_csv_is_named_by_its_row(column: str) -> None:
    error = refused(from_csv({17: CANARY}, column), task="regression")
    assert error.field == f"data.{column}" and "1 rows (first: 17)" in str(error)
    error = refused(from_csv({n: f"{CANARY}{n}" for n in (3, 40, 41)}, column), task="regression")
    assert "3 rows (first: 3, 40, 41)" in str(error)
    rules: dict = {"a": {"kind": "number"}, "y": {"kind": "number"}}
    assert "1 rows (first: 99)" in str(
        refused(from_csv({99: "1,5".replace(",", ";")}, column), "y", "regression", rules)
    )
    check_table(from_csv({5: ""}, "a"), "y", "regression")  # a gap is no bad cell


def test_codes_beside_words_stay_categories() -> None:
    mixed = pd.DataFrame({"a": ["1", "2", "3", "unknown"] * 25, "y": [0, 1] * 50})
    check_table(mixed, "y", "classification")
    words = pd.DataFrame({"a": [f"w{i}" for i in range(100)], "y": [0, 1] * 50})
    check_table(words, "y", "classification")


def test_a_given_schema_is_held() -> None:
    frame = pd.DataFrame({"age": [3.0, 31337.0, -4.0], "city": ["x", CANARY, "z"], "y": [0, 1, 0]})
    rules: dict = {"age": {"kind": "number", "min": 0, "max": 120}, "city": {"kind": "text"}, "y": {"kind": "number"}}
    assert "2 more" not in str(error := refused(frame, schema=rules)) and error.field == "data.age"
    rules["age"] = {"kind": "number"}
    check_table(frame, "y", "classification", rules)
    rules["city"] = {"kind": "text", "allowed": ["x", "z"]}
    assert refused(frame, schema=rules).field == "data.city"
    assert refused(frame, schema=rules | {"more": {"kind": "text"}})
    assert refused(frame, schema={"age": {"kind": "number"}})  # a column that the schema does not know
    with pytest.raises(BadInput, match="unknown"):
        client_schema({"a": {"kind": "date"}})
    with pytest.raises(BadInput, match="not a rule"):
        client_schema({"a": {"kind": "text", "regex": "x"}})
    assert refused(frame, schema=rules | {"city": {"kind": "number", "min": 3}}).field == "data.city"


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(), st.text(max_size=3).map(lambda t: CANARY + t), st.booleans()),
        min_size=3,
        max_size=12,
    ),
    st.sampled_from(["classification", "regression"]),
)
def test_whatever_the_cells_are_no_error_shows_one(cells: list[object], task: str) -> None:
    frame = pd.DataFrame({"a": pd.Series(cells, dtype=object), "y": list(range(len(cells)))})
    try:
        check_table(frame, "y", task)  # type: ignore[arg-type]
    except BadInput as error:
        assert CANARY not in str(error)
    for found in violations(client_schema({"a": {"kind": "number", "min": 0}, "y": {"kind": "text"}}), frame):
        assert CANARY not in str(found)
