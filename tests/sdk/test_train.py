"""`cloudlinkup.train` up to the stack's door: input, where the rows go, loops, progress. tests/system has the rest."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import cloudlinkup
from cloudlinkup.errors import BadInput, Unavailable
from cloudlinkup.home import Home, Settings
from cloudlinkup.jobs import JobEvent
from cloudlinkup.sdk.progress import Bar, quiet
from cloudlinkup.sdk.train import TABLES, _as_parquet, _forget, _job, _on_a_thread, _place, _utc
from tests.conftest import ROOT

FRAME = pd.DataFrame({"a": range(60), "b": [n % 7 for n in range(60)], "y": ["secret", "other"] * 30})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path / "home"))
    (tmp_path / "roots" / ".hidden").mkdir(parents=True)
    loaded = Settings.load(Home(tmp_path / "home"))
    return Settings(**{**loaded.__dict__, "file_roots": (tmp_path / "roots",)})


def test_without_a_stack_it_says_what_is_missing(settings: Settings):
    with pytest.raises(Unavailable, match="cloudlinkup up"):
        cloudlinkup.train(FRAME, label="y", budget="1")


@pytest.mark.parametrize(
    ("frame", "changes", "field"),
    [
        ([1, 2], {}, "frame"),
        (FRAME.rename(columns={"a": 5}), {}, "frame"),
        (FRAME, {"label": "z"}, "label"),
        (FRAME, {"budget": 1.5}, "budget"),
        (FRAME, {"budget": True}, "budget"),
        (FRAME.assign(b=[1, "secret"] * 30), {}, "frame['b']"),
        (FRAME.assign(b=[object()] * 60), {}, "frame['b']"),
        (pd.concat([FRAME, FRAME[["b"]]], axis=1), {}, "frame['b']"),
    ],
)
def test_bad_input_is_refused_before_anything_else(settings: Settings, frame, changes, field: str):
    with pytest.raises(BadInput) as caught:
        cloudlinkup.train(frame, **{"label": "y", "budget": "1", **changes})
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


def test_the_job_is_what_init_would_write_with_what_was_given(settings: Settings):
    path = _place(settings)
    path.write_bytes(_as_parquet(FRAME, "y"))
    changes = {"task": None, "budget": "3", "goal": "cheapest", "deadline": _utc(datetime(2040, 1, 2, 3, tzinfo=UTC))}
    job = _job(path, "y", changes, model=[8], data={"holdout": 0.3}, train={"samples": None, "lr": 0.02})
    assert (job.task, job.data.label, job.data.holdout, job.budget) == ("classification", "y", 0.3, "3")
    assert (job.model.model_dump()["hidden"], job.train.samples, job.train.lr) == ((8,), 60 * 40, 0.02)
    assert (job.deadline, job.goal) == (datetime(2040, 1, 2, 3, tzinfo=UTC), "cheapest")
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)
    named = _job(path, "y", changes, model={"kind": "mlp", "hidden": [3], "activation": "tanh"}).model
    assert named.model_dump()["hidden"] == (3,)
    with pytest.raises(BadInput, match="time zone"):
        _utc(datetime(2040, 1, 1))
    assert path.stat().st_mode & 0o777 == 0o600
    _forget(path)
    assert not path.parent.exists()


def test_rows_are_written_only_where_the_stack_may_read(settings: Settings, tmp_path: Path, monkeypatch):
    assert _place(settings).parent == tmp_path / "roots" / TABLES
    monkeypatch.chdir(tmp_path / "roots" / ".hidden")  # a folder that no job may name
    assert _place(settings).parent == tmp_path / "roots" / TABLES
    assert not list((tmp_path / "roots" / ".hidden").rglob("*.parquet"))
    nowhere = Settings(**{**settings.__dict__, "file_roots": (tmp_path / "absent",)})
    with pytest.raises(Unavailable, match="file-root"):
        _place(nowhere)


async def test_it_blocks_inside_a_running_loop():
    async def work() -> tuple[int, str]:
        await asyncio.sleep(0)
        return 7, threading.current_thread().name

    assert _on_a_thread(work()) == (7, "cloudlinkup.train")

    async def fails() -> None:
        raise BadInput("a", 1, "b", "c")

    with pytest.raises(BadInput):
        _on_a_thread(fails())


def test_an_interrupt_ends_the_waiting():
    script = (
        "import asyncio\nfrom cloudlinkup.sdk.train import _on_a_thread\n"
        "async def work():\n    print('waiting', flush=True)\n    await asyncio.sleep(600)\n"
        "try: _on_a_thread(work())\nexcept KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "waiting\n"
        os.kill(child.pid, signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
    assert child.wait(60) == 0


EVENTS = [
    JobEvent(1, 0.0, "segmented", {}),
    JobEvent(2, 0.0, "trained", {}),
    JobEvent(3, 0.0, "round", {"round": 1, "steps": 50, "of": 200, "metric": "accuracy", "score": 0.5}),
    JobEvent(4, 0.0, "settled", {}),
]


def test_progress_is_lines_in_a_file_and_a_bar_on_a_terminal():
    plain = io.StringIO()
    with Bar("id", Console(file=plain)) as show:
        for event in EVENTS:
            show(event)
    assert plain.getvalue().splitlines() == [
        "Request id", "looking for contributors", "round 1: 50 of 200 steps, accuracy 0.5000", "done",
    ]  # fmt: skip
    drawn = io.StringIO()
    with Bar("id", Console(file=drawn, force_terminal=True, width=100)) as show:
        for event in EVENTS[:3]:
            show(event)
    assert "25%" in drawn.getvalue() and "round 1" in drawn.getvalue()
    with quiet() as show:
        show(EVENTS[0])


def test_it_imports_no_part_of_the_stack():
    script = (
        "import sys, cloudlinkup\nassert callable(cloudlinkup.train)\n"
        "import cloudlinkup.sdk.train, cloudlinkup.sdk.progress, cloudlinkup.cli.watching\n"
        "print([m for m in ('prefect', 'xgboost', 'pandera', 'distributed', 'anchorpy') if m in sys.modules])"
    )
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.stdout == "[]\n", done.stderr
