"""Tables that are read in pieces: the same rows, recipe and refusals as in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlinkup.errors import BadInput
from cloudlinkup.tables import stored
from cloudlinkup.types import parse_job
from tasks.planning import load_data

CANARY = "canary-4417"


def job(path: Path, task: str = "classification", **data: Any):
    return parse_job(
        {
            "version": 1,
            "data": {"uri": str(path), "format": path.suffix[1:], "label": "label"} | data,
            "task": task,
            "model": {"kind": "mlp", "hidden": [4]},
            "train": {"samples": 100},
            "contributors": {"max": 2},
            "budget": "1",
            "deadline": "2035-01-01T00:00:00Z",
        }
    )


async def both(path: Path, folder: Path, of: Any) -> tuple[Any, Any]:
    """(in memory, in pieces): hash and recipe, or what was refused."""
    found = []
    for name, in_memory in (("whole", 2**40), ("pieces", 0)):
        try:
            data = await load_data(of, (path.parent,), folder / name, in_memory)
            found.append((data.hash, data.preprocessing))
        except BadInput as error:
            found.append((error.field, error.problem.partition(" (")[0]))
        left = {p.name for p in (folder / name).iterdir()} if (folder / name).exists() else set()
        assert not left & {"source", "table.parquet"}
    return found[0], found[1]


COLUMNS = [
    st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(-1000, 1000)),
    st.integers(-5, 5),
    st.one_of(st.none(), st.booleans()),
    st.booleans(),
    st.one_of(st.none(), st.sampled_from(["a", "b", "c d", "7", "True", "é"])),
    st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["x", "y"])),
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), rows=st.integers(20, 50), cells=st.sampled_from([1, 40, 90]))
async def test_in_pieces_as_in_memory(tmp_path_factory, kind, data, rows, cells):
    picked = data.draw(st.lists(st.sampled_from(range(len(COLUMNS))), min_size=1, max_size=4))
    frame = pd.DataFrame(
        {
            f"c{k}": pd.Series(data.draw(st.lists(COLUMNS[n], min_size=rows, max_size=rows)))
            for k, n in enumerate(picked)
        }
    )
    labels = data.draw(st.sampled_from([["a", "b", "a"], [0, 1, 2], [True, False, True], [1.5, 2.5, 3.5]]))
    frame["label"] = np.resize(np.array(labels), rows)
    task = "regression" if labels[0] == 1.5 else "classification"
    folder = tmp_path_factory.mktemp("rows")
    path = folder / f"table.{kind}"
    try:
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, row_group_size=13)
    except Exception:  # a column of several kinds has no Parquet form
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "CELLS", cells)
        whole, pieces = await both(path, folder, job(path, task))
    assert whole == pieces


BAD = {
    "not UTF-8": (b"a,label\n" + b"1,x\n2,y\n" * 40 + b"3,\xff\n", "is not UTF-8 text (byte"),
    "a name twice": (b"a,a,label\n" + b"1,1,x\n2,2,y\n" * 40, "columns 1 and 2"),
    "more fields later": (b"a,label\n" + b"1,x\n2,y\n" * 40 + b"1,2,3\n", "comma-separated"),
    "no Parquet": (None, "not a readable Parquet"),
    "a word among numbers": (b"a,label\n" + b"".join(b"%d,%d\n" % (k, k % 2) for k in range(99)) + b"x,1\n", "rule"),
    "no label": (b"a,label\n" + b"1,x\n2,y\n" * 40 + f"{CANARY},\n".encode(), "is missing"),
}


@pytest.mark.parametrize("name", BAD)
async def test_refused_in_pieces_without_a_cell(tmp_path, monkeypatch, name):
    content, problem = BAD[name]
    path = tmp_path / ("t.parquet" if content is None else "t.csv")
    path.write_bytes(content or b"PAR1 and no more")
    monkeypatch.setattr(stored, "CELLS", 200)
    of = job(path, "regression" if name == "a word among numbers" else "classification")
    with pytest.raises(BadInput) as caught:
        await load_data(of, (tmp_path,), tmp_path / "rows", 0)
    assert problem in str(caught.value) and CANARY not in str(caught.value)


async def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"a": np.arange(100.0), "label": np.arange(100) % 2})
    frame.to_parquet(path)
    table = stored.Stored(path, "t.parquet")
    frame.to_parquet(path, compression="gzip")
    with pytest.raises(BadInput, match="changed while"):
        list(table.column("a"))
