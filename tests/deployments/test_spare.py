"""The spare process for a job's run: real processes, Prefect's engine, and no server where none is needed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from deployments import worker
from deployments.handover import not_yet, socket_path
from deployments.spare import CHECKOUT, same_settings, state_of_code

FALLBACK = [sys.executable, "-c", "print('cold')"]


@pytest.fixture
def deaf() -> Iterator[str]:
    """An API that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"


@pytest.fixture
def environment(tmp_path: Path, deaf: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": deaf}


def until(there: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not there.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def coming(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "deployments.spare"]
    with subprocess.Popen(words, env=environment, cwd=CHECKOUT, stdin=subprocess.DEVNULL) as process:
        until(not_yet(socket_path(str(tmp_path))), process)
        yield process
        process.kill()


@pytest.fixture
def spare(coming: subprocess.Popen[bytes], tmp_path: Path) -> subprocess.Popen[bytes]:
    until(socket_path(str(tmp_path)), coming)
    return coming


def hand_over(environment: dict[str, str], run: str, deployment: str = "train") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", str(CHECKOUT / "deployments/handover.py"), *FALLBACK],
        env=environment | {"PREFECT__DEPLOYMENT_NAME": deployment, "PREFECT__FLOW_RUN_ID": run},
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_is_prefects_engine_for_one_run(
    spare: subprocess.Popen[bytes], environment: dict[str, str], tmp_path: Path
) -> None:
    for other in ("upkeep", ""):
        with hand_over(environment, "none", other) as cold:
            assert cold.communicate(timeout=60)[0] == "cold\n", "not what it waits for"
    with hand_over(environment, "not a run") as first:
        out, err = first.communicate(timeout=60)
    assert first.returncode == 1 and "Invalid flow run id" in out + err, "its output and its exit code"
    assert spare.wait(60) == 1 and not socket_path(str(tmp_path)).exists()
    with hand_over(environment, "not a run") as second:
        assert second.communicate(timeout=60)[0] == "cold\n"


def test_a_run_waits_for_one_that_is_coming(coming: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    with hand_over(environment, "not a run") as first:
        out, err = first.communicate(timeout=120)
    assert first.returncode == 1 and "Invalid flow run id" in out + err
    assert coming.wait(60) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_ends_what_stands_for_it_ends_the_run(
    spare: subprocess.Popen[bytes], environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    with hand_over(environment, str(uuid.uuid4())) as stands:
        end = time.monotonic() + 60
        while socket_path(str(tmp_path)).exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(1)  # it asks the server for its run
        assert stands.poll() is None and spare.poll() is None
        stands.send_signal(number)
        assert spare.wait(60) == -number
        stands.communicate(timeout=60)
        assert stands.returncode == -number


def test_the_next_one_comes_although_the_last_was_taken_as_soon_as_it_was_there(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr(worker, "SPARE_AFTER", 0.1)
    coming, started, real = not_yet(socket_path(str(tmp_path))), [], asyncio.create_subprocess_exec

    async def start(*words: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await real(*words, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)

    def run_for_long() -> None:
        appears(coming, True)
        with hand_over(environment, str(uuid.uuid4())) as stands:  # which waits for it
            try:
                appears(coming, False)
                appears(coming, True)
                assert stands.poll() is None
            finally:
                stands.kill()

    async def main() -> None:
        keeping = asyncio.create_task(worker.keep_spare(tmp_path))
        try:
            await asyncio.to_thread(run_for_long)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            for process in started:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    asyncio.run(main())


def appears(path: Path, there: bool) -> None:
    end = time.monotonic() + 60
    while path.exists() != there:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_takes_no_run_that_would_import_something_else(
    spare: subprocess.Popen[bytes], environment: dict[str, str]
) -> None:
    with hand_over(environment | {"PREFECT_LOGGING_LEVEL": "ERROR"}, str(uuid.uuid4())) as cold:
        assert cold.communicate(timeout=60)[0] == "cold\n"
    assert spare.wait(60) == 0


def test_what_counts_as_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert same_settings({"PREFECT__FLOW_RUN_ID": "1", "HOME": "elsewhere"})
    assert not same_settings({"PREFECT_API_URL": "http://127.0.0.1:1/api"})
    monkeypatch.setattr("deployments.spare.CHECKOUT", tmp_path)
    before = state_of_code()
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/new.py").touch()
    changed = state_of_code()
    assert changed != before
    os.utime(tmp_path / "flows/new.py", (1, 1))
    assert state_of_code() not in (before, changed)
