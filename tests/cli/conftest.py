"""The command line in this process, with a home of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudlinkup.cli.main import run


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


Cli = Callable[..., Answer]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls a command in `tmp_path`, its home below it."""
    for name in ("RPC_URL", "GATEWAY_URL", "CA_FILE", "PROGRAM_ID", "MINT", "FILE_ROOTS"):
        monkeypatch.delenv(f"CLOUDLINKUP_{name}", raising=False)
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLOUDLINKUP_PREFECT_API", "http://127.0.0.1:9/api")  # nobody answers there
    monkeypatch.setenv("CLOUDLINKUP_FILE_ROOTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = run(list(words))
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call
