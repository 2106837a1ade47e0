"""Following a job while Prefect does not answer for a while, and when it answers no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloudlinkup.cli import watching
from cloudlinkup.cli.watching import follow
from cloudlinkup.errors import JobFailed, Unavailable
from cloudlinkup.home import Home, Settings
from cloudlinkup.jobs import JobStore
from tests.cli.test_commands import RECEIPT, REQUEST


class Prefect:
    """Answers about one run, except the first `silent` times, when it closes the connection without a word."""

    def __init__(self, silent: int, state: str = "RUNNING") -> None:
        self.silent, self.state, self.asked = silent, state, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        if self.asked > self.silent:
            body = json.dumps({"id": "run", "name": REQUEST, "state_type": self.state}).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def running(prefect: Prefect, tmp_path: Path) -> AsyncIterator[tuple[Settings, JobStore]]:
    home = Home(tmp_path / "home").make()
    server = await asyncio.start_server(prefect.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = replace(Settings.load(home), prefect_api=f"http://127.0.0.1:{port}/api")
    store = JobStore(home.jobs_db)
    store.begin(REQUEST, "{}", "run")
    async with server:
        yield settings, store


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "ASK", 0.01)
    monkeypatch.setattr(watching, "MOST_ASK", 0.04)


async def test_a_question_that_is_not_answered_does_not_end_the_watching(tmp_path: Path) -> None:
    prefect = Prefect(silent=3)
    async with running(prefect, tmp_path) as (settings, store):
        watched = asyncio.create_task(follow(settings, REQUEST, "run"))
        while prefect.asked < 5:  # noqa: ASYNC110 (it is asked by another task)
            await asyncio.sleep(0.01)
        store.finish(REQUEST, RECEIPT)
        assert (await watched).finished


async def test_a_run_that_ended_meanwhile_is_still_noticed(tmp_path: Path) -> None:
    async with running(Prefect(silent=2, state="CRASHED"), tmp_path) as (settings, _):
        with pytest.raises(JobFailed, match="CRASHED"):
            await follow(settings, REQUEST, "run")


async def test_after_a_minute_of_nothing_it_says_so_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SILENCE", 0.2)
    prefect = Prefect(silent=10**9)
    async with running(prefect, tmp_path) as (settings, _):
        with pytest.raises(Unavailable, match=f"cloudlinkup watch {REQUEST}"):
            await follow(settings, REQUEST, "run")
    assert prefect.asked > 1
