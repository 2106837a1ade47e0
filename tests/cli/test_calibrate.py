"""`ops calibrate` on a real table: measured, stored, and refused where there is nothing to measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cloudlinkup.agent.hardware import describe
from tests.cli.test_bad_input import GOOD

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.fixture
def job(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 4))
    lines = ["a,b,c,d,y", *(",".join(f"{v:.6f}" for v in row) + (",1" if row.sum() > 0 else ",0") for row in rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    path = tmp_path / "job.json"
    path.write_text(json.dumps(GOOD))
    return str(path)


def test_a_pair_is_measured_and_stored(cli: Cli, job: str, tmp_path: Path) -> None:
    answer = cli("ops", "calibrate", job, "--threads", "2", "--segments", "10", "--json")
    assert answer.code == 0, answer.err
    told = answer.document
    assert (told["auditor"], told["contributor"]) == (describe("cpu", 1).device_class, describe("cpu", 2).device_class)
    assert told["measured"]["segments"] == 10
    assert 0 < told["tolerance"] < told["measured"]["cheat"]
    stored = json.loads(Path(told["file"]).read_text())
    assert Path(told["file"]).parent == tmp_path / "home" / "calibrations"
    assert stored["tolerance"] == told["tolerance"] and stored["architecture"] == told["architecture"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--threads", "1"], "threads"),
        (["--threads", "0"], "threads"),
        (["--segments", "9"], "segments"),
        (["--device", "abacus"], "--device"),
    ],
)
def test_what_cannot_be_measured_is_said(cli: Cli, job: str, options: list[str], field: str, tmp_path: Path) -> None:
    answer = cli("ops", "calibrate", job, *options, "--json")
    assert answer.code == 2
    assert answer.document["error"]["field"] == field
    assert not (tmp_path / "home" / "calibrations").exists()
