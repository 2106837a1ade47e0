"""A full disk is an error that says so, not the end of the process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cloudlinkup.errors import Unavailable
from cloudlinkup.tables.disk import reserve, room
from cloudlinkup.tables.prepared import Arrays
from cloudlinkup.tables.spilled import spilled
from cloudlinkup.tables.stored import csv_to_parquet
from cloudlinkup.types import DataSpec

BYTES = 3 * 2**20


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def lacking(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_an_arrays_blocks_are_there_before_it_is_filled(tmp_path: Path) -> None:
    made = Arrays(tmp_path).make("features", (BYTES // 4,), np.float32)
    assert blocks(tmp_path / "features.npy") >= BYTES and not made.any()
    assert isinstance(made, np.memmap)
    made[:] = 1.0
    made.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), made)
    assert Arrays(tmp_path).make("targets", (0,), np.int64).shape == (0,)


def test_a_full_disk_names_the_folder_the_bytes_and_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match=rf"{tmp_path} is too full for \d+ bytes.*Fix: .*CLOUDLINKUP_HOME"):
        Arrays(tmp_path).make("features", (BYTES // 4,), np.float32)


def test_a_file_system_that_cannot_reserve_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", lacking)
    assert Arrays(tmp_path).make("features", (BYTES // 4,), np.float32).shape == (BYTES // 4,)
    monkeypatch.delattr(os, "posix_fallocate")
    reserve(tmp_path / "features.npy", 2 * BYTES)
    assert (tmp_path / "features.npy").stat().st_size == 2 * BYTES


class Full:
    """A file on a full disk."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    write = full


def test_so_do_columns_that_are_spilled_and_tables_that_are_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudlinkup.tables.spilled.tempfile.TemporaryFile", Full)
    with pytest.raises(Unavailable, match=f"{tmp_path} is too full for 8000 bytes"):
        spilled([np.zeros(1_000)], np.float64, tmp_path)
    table = tmp_path / "t.csv"
    pd.DataFrame({"x": range(30), "y": range(30)}).to_csv(table, index=False)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(Unavailable, match=f"{tmp_path} is too full"):
        csv_to_parquet(table, DataSpec(uri="t.csv", format="csv", label="y"), tmp_path / "t.parquet")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), room(tmp_path, 1):
        raise PermissionError(errno.EACCES, "no")
