"""A table that may be larger than memory: a Parquet file, read in pieces of its rows, of all columns or of one.

CSV becomes such a file first, in three passes: whether it is UTF-8; what kind each column is in all of its rows, as
pandas would find it with the whole table in memory; the values. A piece at a time is in memory, in any of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cloudlinkup.tables.disk import room
from cloudlinkup.tables.read import check_header, csv_problem
from cloudlinkup.tables.spilled import ROWS
from cloudlinkup.tables.text import read_text
from cloudlinkup.tables.uri import refuse
from cloudlinkup.types import DataSpec

CELLS = 1_000_000  # of one piece


class Frame:
    """A table in memory, as `Stored`: one piece."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame, self.columns, self.rows = frame, [str(name) for name in frame.columns], len(frame)

    def column(self, name: str) -> Iterator[pd.Series]:
        yield pd.Series(self._frame[name])

    def pieces(self) -> Iterator[tuple[int, pd.DataFrame]]:
        yield 0, self._frame


class Stored:
    """A table in a Parquet file. Raises BadInput("data.uri") where it is none, or not of plain columns."""

    def __init__(self, path: Path, uri: str) -> None:
        self._path, self._uri = path, uri
        self._stat = _version(path)
        with _readable(uri), self._open() as file:
            self.columns, self.rows = [str(name) for name in file.schema_arrow.names], file.metadata.num_rows

    def column(self, name: str) -> Iterator[pd.Series]:
        """Its values in pieces, in order."""
        for frame in self._read(min(ROWS, CELLS), [name]):
            yield pd.Series(frame[name])

    def pieces(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """(first row, some rows), in order."""
        start = 0
        for frame in self._read(max(1, CELLS // max(1, len(self.columns))), None):
            frame.columns = self.columns
            yield start, frame
            start += len(frame)

    def _read(self, rows: int, columns: list[str] | None) -> Iterator[pd.DataFrame]:
        with _readable(self._uri), self._open() as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns, use_threads=False):
                yield batch.to_pandas(ignore_metadata=True)
        self._check()
        pa.default_memory_pool().release_unused()  # it would keep what one column needed while the next is read

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=2**20)

    def _check(self) -> None:
        if _version(self._path) != self._stat:
            raise refuse(self._uri, "changed while it was read", "try again once nobody writes it")


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, TypeError, OSError, NotImplementedError):
        raise refuse(uri, "is not a readable Parquet file", "write it again as Parquet with plain columns") from None


# ---------------------------------------------------------------- CSV

_TYPES = {"boolean": pa.bool_(), "whole": pa.int64(), "number": pa.float64(), "text": pa.large_string()}


def csv_to_parquet(path: Path, data: DataSpec, place: Path) -> Path:
    """The same table as a Parquet file. Raises BadInput("data.uri") as reading it into memory would."""
    before = _version(path)
    for _ in read_text(path, data.uri):  # says where it is not UTF-8, which pandas does not
        pass
    check_header(path, data.uri)
    kinds: dict[str, str] = {}
    for chunk in _chunks(path, data.uri, None):
        for name in chunk.columns:
            found = _kind(pd.Series(chunk[name]))
            kinds[str(name)] = _joined(kinds.get(str(name), found), found)
    kinds = {name: "number" if kind == "empty" else kind for name, kind in kinds.items()}
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in kinds.items()])
    text: dict[str, Any] = {name: str for name, kind in kinds.items() if kind == "text"}
    with pq.ParquetWriter(place, schema, compression="lz4") as writer:
        for chunk in _chunks(path, data.uri, text):
            chunk.columns = [str(name) for name in chunk.columns]
            table = pa.Table.from_pandas(chunk, schema=schema, preserve_index=False)
            with room(place.parent, table.nbytes):
                writer.write_table(table)
    pa.default_memory_pool().release_unused()
    if _version(path) != before:
        raise refuse(data.uri, "changed while it was read", "try again once nobody writes it")
    return place


def _chunks(path: Path, uri: str, types: Any) -> Iterator[pd.DataFrame]:
    columns = len(pd.read_csv(path, encoding="utf-8-sig", compression=None, nrows=0).columns)
    size = max(1, CELLS // max(1, columns))
    try:
        with pd.read_csv(
            path, encoding="utf-8-sig", compression=None, low_memory=False, chunksize=size, dtype=types
        ) as reader:
            for chunk in reader:
                if not isinstance(chunk.index, pd.RangeIndex):
                    raise refuse(uri, "has rows with more fields than its header", "correct the header")
                yield chunk
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OverflowError, ValueError) as error:
        raise csv_problem(error, uri) from None


def _kind(values: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(values.dtype):
        return "boolean"
    if pd.api.types.is_integer_dtype(values.dtype):
        return "whole" if values.dtype.kind == "i" else "number"
    if values.isna().all():
        return "empty"
    if pd.api.types.is_float_dtype(values.dtype):
        return "number"
    if values.dtype == object and all(isinstance(value, bool) for value in values.dropna()):
        return "boolean"
    return "text"


def _joined(one: str, two: str) -> str:
    """The kind of a column whose pieces are of these."""
    if "empty" in (one, two):
        other = two if one == "empty" else one
        return "number" if other == "whole" else other  # a gap makes whole numbers floats
    if one == two:
        return one
    return "number" if {one, two} == {"whole", "number"} else "text"
