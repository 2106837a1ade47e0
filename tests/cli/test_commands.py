"""What the commands write, and that they start fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from cloudlinkup.cli.main import app
from cloudlinkup.jobs import JobStore
from cloudlinkup.tables.text import TextRecipe
from cloudlinkup.types import parse_job

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

HEAVY = ("torch", "pandas", "numpy", "prefect", "distributed", "xgboost", "anchorpy", "solana", "cryptography", "httpx")
REQUEST = "0f0e4a3e-9f0c-4d5c-8f0e-1c2d3e4f5a6b"


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"], ["status"], ["submit", "nope.json"]])
def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path, words: list[str]) -> None:
    code = (
        f"import sys; from cloudlinkup.cli.main import run; run({words!r}); print(sorted(sys.modules), file=sys.stderr)"
    )
    env = {"CLOUDLINKUP_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=60)
    loaded = done.stderr.rpartition("[")[2]
    assert not [name for name in HEAVY if f"'{name}'" in loaded]


def test_help_names_every_command_with_a_sentence(cli: Cli) -> None:
    text = cli("--help").out
    for name in (
        "up",
        "down",
        "demo",
        "doctor",
        "init",
        "quote",
        "submit",
        "status",
        "watch",
        "download",
        "contribute",
    ):
        assert name in text
        assert name in app
    assert "Exit codes" in text


FRAMES: dict[str, tuple[pd.DataFrame, str, str]] = {
    "text": (pd.DataFrame({"a": range(60), "y": ["no", "yes", "maybe"] * 20}), "y", "classification"),
    "boolean": (pd.DataFrame({"a": range(60), "y": [True, False] * 30}), "y", "classification"),
    "digits": (pd.DataFrame({"a": range(60), "y": [n % 10 for n in range(60)]}), "y", "classification"),
    "floats": (pd.DataFrame({"a": range(60), "y": [n / 7 for n in range(60)]}), "y", "regression"),
    "counts": (pd.DataFrame({"a": range(60), "y": [n * n for n in range(60)]}), "y", "regression"),
    "gaps": (
        pd.DataFrame({"a": range(60), "y": [None if n % 7 == 0 else n / 3 for n in range(60)]}),
        "y",
        "regression",
    ),
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", FRAMES)
def test_init_writes_a_valid_job(cli: Cli, tmp_path: Path, name: str, kind: str) -> None:
    frame, label, task = FRAMES[name]
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    answer = cli("init", str(path), "--label", label, "--out", "made.json", "--json")
    assert answer.code == 0, answer.err
    job = parse_job(json.loads((tmp_path / "made.json").read_text()))
    assert answer.document["job"] == json.loads((tmp_path / "made.json").read_text())
    assert (job.task, job.data.format, job.data.label) == (task, kind, label)
    assert job.data.uri == path.as_uri()
    assert cli("init", str(path), "--label", label, "--out", "made.json").code == 2, "it overwrites nothing"


def test_init_writes_a_valid_job_for_a_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Some notes.\n" * 2_000)
    answer = cli("init", "notes.txt", "--json")
    assert answer.code == 0, answer.err
    job = parse_job(json.loads((tmp_path / "job.json").read_text()))
    assert (job.task, job.data.format, job.model.kind) == ("next_token", "text", "transformer")
    assert cli("init", "notes.txt", "--label", "y", "--out", "other.json").code == 2
    assert cli("init", "none.txt", "--out", "other.json").code == 2
    (tmp_path / "rows.csv").write_text("a,y\n1,2\n3,4\n")
    assert cli("init", "rows.csv", "--out", "other.json", "--json").document["error"]["field"] == "--label"


def test_init_refuses_a_label_that_never_changes(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,y\n1,secret\n2,secret\n")
    answer = cli("init", "rows.csv", "--label", "y")
    assert answer.code == 2
    assert "secret" not in answer.err


RECEIPT: dict[str, Any] = {
    "request_id": REQUEST, "job_id": "00" * 16, "flow_run_id": "r", "mint": "m", "decimals": 6, "budget": "5000000",
    "awarded": "3000000", "paid": "3000000", "pending": "0", "fee": "75000", "refunded": "1925000", "settled": True,
    "rounds": 3, "metric": "accuracy", "score": 0.97, "score_single_machine": None, "seconds": 12.5, "bytes_up": 12_345,
    "bytes_down": 999, "audit_bytes": 2_000_000, "predictor": "xgboost 1",
    "quoted": {"p50_seconds": 10.0, "p90_seconds": 20.0, "p50_cost": "3075000", "hard_cap": "5000000"},
    "contributors": [
        {"wallet": "A" * 44, "speed": 1234.5, "cap": "3000000", "segments": 9, "accepted": 9, "replayed": 3,
         "rejected": 0, "paid": "3000000", "pending": "0", "state": "active"},
        {"wallet": "B" * 44, "speed": 99.0, "cap": "1000000", "segments": 3, "accepted": 0, "replayed": 1,
         "rejected": 1, "paid": "0", "pending": "0", "state": "rejected"},
    ],
    "signatures": [{"stage": "open_job", "signature": "s"}],
}  # fmt: skip


@pytest.fixture
def done(tmp_path: Path) -> JobStore:
    """A job that has ended, as a run leaves it."""
    store = JobStore(tmp_path / "home" / "jobs.db")
    store.begin(REQUEST, "{}", "run")
    store.finish(REQUEST, RECEIPT)
    delivered = tmp_path / "home" / "jobs" / REQUEST / "delivered"
    delivered.mkdir(parents=True)
    (delivered / "receipt.json").write_text(json.dumps(RECEIPT))
    (delivered / "metrics.json").write_text("{}")
    return store


def test_status_shows_the_receipt(cli: Cli, done: JobStore) -> None:
    assert cli("status", REQUEST, "--json").document == RECEIPT
    text = cli("status", REQUEST).out
    assert "budget 5 = 3 paid + 0.075 fee + 1.925 refunded" in text
    assert "rejected" in text
    assert "accuracy 0.9700" in text
    jobs = cli("status", "--json").document["jobs"]
    assert [(job["request_id"], job["stage"]) for job in jobs] == [(REQUEST, "done")]
    assert REQUEST in cli("status").out


def test_status_of_an_empty_home(cli: Cli) -> None:
    assert cli("status", "--json").document == {"jobs": []}
    assert "No job" in cli("status").out


def test_download_copies_the_model_once(cli: Cli, done: JobStore, tmp_path: Path) -> None:
    answer = cli("download", REQUEST, "--to", "model", "--json")
    assert answer.document["files"] == ["metrics.json", "receipt.json"]
    assert "cloudlinkup.predict" in answer.document["python"]
    assert json.loads((tmp_path / "model" / "receipt.json").read_text()) == RECEIPT
    assert cli("download", REQUEST, "--to", "model").code == 2


def test_download_says_how_to_use_a_language_model(cli: Cli, done: JobStore, tmp_path: Path) -> None:
    delivered = tmp_path / "home" / "jobs" / REQUEST / "delivered"
    (delivered / "preprocessing.json").write_text(TextRecipe(context=16).model_dump_json())
    said = cli("download", REQUEST, "--to", "model").out
    assert "pandas" not in said and "load_model('model').generate(" in said
    (delivered / "spec.json").write_text('{"frozen": "00"}')
    assert "load_model('other', base='BASE')" in cli("download", REQUEST, "--to", "other").out


def test_a_job_that_failed_after_some_rounds_has_a_model(cli: Cli, done: JobStore, tmp_path: Path) -> None:
    done.fail(REQUEST, {"message": "nobody is left"}, final=True)
    assert cli("download", REQUEST, "--to", "early", "--json").document["files"] == ["metrics.json", "receipt.json"]
    (tmp_path / "home" / "jobs" / REQUEST / "delivered" / "metrics.json").unlink()  # it failed before any round
    answer = cli("download", REQUEST, "--to", "none")
    assert (answer.code, "its model is not there" in answer.err) == (2, True)


def test_a_job_that_is_not_done_has_no_model(cli: Cli, tmp_path: Path) -> None:
    JobStore(tmp_path / "home" / "jobs.db").begin(REQUEST, "{}", "run")
    answer = cli("download", REQUEST)
    assert answer.code == 2
    assert "its model is not there" in answer.err


def test_a_finished_request_is_only_shown(cli: Cli, done: JobStore, tmp_path: Path) -> None:
    """Prefect is not even asked: there is none."""
    (tmp_path / "rows.csv").write_text("a,y\n1,2\n2,3\n")
    assert cli("init", "rows.csv", "--label", "y").code == 0
    answer = cli("submit", "job.json", "--request-id", REQUEST, "--json")
    assert (answer.code, answer.document) == (0, RECEIPT)


def test_doctor_answers(cli: Cli) -> None:
    checks = {check["what"]: check for check in cli("doctor", "--json").document}
    assert checks["Python"]["ok"]
    assert checks["packages"]["ok"]
    assert checks["escrow program"]["ok"], "programs/escrow.so is not the one that is recorded"


def test_down_without_a_stack(cli: Cli) -> None:
    assert cli("down", "--json").document == {"stopped": False}


def test_dry_run_contributes_nothing(cli: Cli, tmp_path: Path) -> None:
    answer = cli("contribute", "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["dry_run"] is True
    assert not (tmp_path / "home").exists()
