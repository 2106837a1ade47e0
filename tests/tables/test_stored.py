"""Tables that are read in pieces: the same rows, recipe and refusals as in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlinkup.errors import BadInput
from cloudlinkup.tables import fit, labels, prepare, spilled, stored
from cloudlinkup.tables.prepared import ROWS
from cloudlinkup.types import parse_job
from cloudlinkup.wire.hashes import digest
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


def reference(frame: pd.DataFrame, task: str, seed: int = 0) -> dict[str, Any]:
    """What the module says, with everything in memory: sort all rows by their keys, and numpy over whole columns."""
    rows, label = len(frame), frame["label"]
    keys = np.random.Philox(key=np.frombuffer(digest("holdout", seed)[:16], "<u8")).random_raw(rows)
    codes = np.unique(label, return_inverse=True)[1] if task == "classification" else np.zeros(rows, np.int64)
    order, held = np.argsort(keys, kind="stable"), np.zeros(rows, bool)
    for code in np.unique(codes):
        own = order[codes[order] == code]
        held[own[: round(0.2 * len(own))]] = True
    features = []
    for name in frame.columns.drop("label"):
        column = frame[name]
        if pd.api.types.is_float_dtype(column):
            values = column.to_numpy(np.float64)
            train = values[~held]
            median = np.nanmedian(train)
            train, values = (np.where(np.isnan(x), median, x) for x in (train, values))
            features.append((values - train.mean()) / train.std())
        else:
            words = column.astype(object).where(column.notna(), "\x00missing")
            features += [words == word for word in sorted(set(words[~held]))]
    x, y = np.stack(features, axis=1).astype(np.float32), codes
    if task == "regression":
        train = label.to_numpy(np.float64)[~held]
        y = ((label - train.mean()) / train.std()).to_numpy(np.float32)[:, None]
    return {"features": x[~held], "targets": y[~held], "holdout_features": x[held], "holdout_targets": y[held]}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("cut", [37, 1_000, 131_072])
async def test_the_rows_are_those_of_the_table_in_memory(tmp_path, monkeypatch, kind, task, cut):
    """Across many borders of pieces, row groups and sums."""
    rng = np.random.default_rng(3)
    rows = 4_000
    frame = pd.DataFrame({f"x{k}": rng.gamma(1.0, 10.0**k, rows).astype(np.float32) for k in range(3)})
    frame.loc[rng.random(rows) < 0.2, "x1"] = np.nan
    frame["word"] = rng.choice(np.array(["red", "green", "blue", None]), rows)
    frame["label"] = rng.choice(["a", "b", "c"], rows, p=[0.8, 0.19, 0.01])
    if task == "regression":
        frame["label"] = rng.normal(50, 9, rows)
    path = tmp_path / f"t.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, row_group_size=700)
    for module in (stored, spilled):
        monkeypatch.setattr(module, "ROWS", cut)
    monkeypatch.setattr(stored, "CELLS", 5 * cut)
    found = await load_data(job(path, task), (tmp_path,), tmp_path / "rows", 0)
    if kind == "csv":
        frame = pd.read_csv(path)
    for name, expected in reference(frame, task).items():
        np.testing.assert_array_equal(getattr(found, name), expected, err_msg=name, strict=True)
    assert {p.name for p in (tmp_path / "rows").iterdir()} == {"prepared.json", *(f"{n}.npy" for n in ROWS)}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch, task):
    """As far as Python and numpy allocate it; benchmarks/memory.py looks at the whole process."""
    for module in (stored, spilled):
        monkeypatch.setattr(module, "ROWS", 2_000)
    for module in (stored, prepare):
        monkeypatch.setattr(module, "CELLS", 8_000)
    peaks = {}
    for rows in (2_000, 10_000, 90_000):  # the first warms up
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"x": rng.standard_normal(rows), "word": rng.choice(["red", "green"], rows)})
        path = tmp_path / f"{rows}.parquet"
        frame.assign(label=rng.integers(0, 3, rows)).to_parquet(path, row_group_size=2_000)
        del frame
        tracemalloc.start()
        try:
            found = prepare.prepare(stored.Stored(path, path.name), job(path, task), tmp_path / f"{rows}")
            assert len(found.features) == 0.8 * rows and found.hash
            peaks[rows] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peaks[90_000] < peaks[10_000] + 80_000, peaks  # less than a byte for each row more


async def test_identifiers_are_refused_without_counting_them_all(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "COUNTED", 500)
    monkeypatch.setattr(stored, "ROWS", 100)
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"id": [f"{CANARY}-{k}" for k in range(3_000)], "label": np.arange(3_000) % 2})
    for rows, shown in ((300, "240"), (3_000, "500 or more")):
        frame.head(rows).to_parquet(path)
        with pytest.raises(BadInput, match=f": {shown} different words") as caught:
            await load_data(job(path), (tmp_path,), tmp_path / "rows", 0)
        assert caught.value.field == "id" and CANARY not in str(caught.value)
    for module in (fit, labels):
        monkeypatch.setattr(module, "COUNTED", 1_500)
    frame["label"] = frame["id"]
    frame.to_parquet(path)
    with pytest.raises(BadInput, match="1500 or more different labels are more than 1000"):
        await load_data(job(path), (tmp_path,), tmp_path / "rows", 0)


async def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"a": np.arange(100.0), "label": np.arange(100) % 2})
    frame.to_parquet(path)
    table = stored.Stored(path, "t.parquet")
    frame.to_parquet(path, compression="gzip")
    with pytest.raises(BadInput, match="changed while"):
        list(table.column("a"))
