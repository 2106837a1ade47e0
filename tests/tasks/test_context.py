"""A request's own folder: nobody leaves it by the request's name, and nobody else reads it."""

from __future__ import annotations

import stat

import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.types import parse_job
from tasks.context import check_request_id, open_run
from tests.tasks.conftest import JOB, REQUEST, Rig


@pytest.mark.parametrize("name", ["../../etc", "/tmp/x", "", "..", REQUEST + "\n", REQUEST.replace("0", "O"), "a" * 36])
async def test_a_request_id_is_a_uuid(name: str, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path / "home"))
    with pytest.raises(BadInput, match="request_id"):
        async with open_run(parse_job(JOB), name, "run"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_uuid_is_one():
    check_request_id(REQUEST)


def test_files_of_a_job_are_private(rig: Rig):
    path = rig.run.write("updates/1-0.bin", b"x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(rig.run.folder.stat().st_mode) == 0o700
    assert not list(path.parent.glob("*.part"))
