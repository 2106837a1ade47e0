"""The committed program is what the committed source builds to, where the toolchain is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs.chain import ROOT

CARGO_BIN = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "bin"
INSTALLED = shutil.which("sbpf-linker", path=f"{CARGO_BIN}:{os.environ.get('PATH', '')}") is not None


@pytest.mark.skipif(not INSTALLED, reason="programs/install-toolchain.sh has not run here")
def test_the_source_builds_to_the_committed_program(tmp_path: Path) -> None:
    """In another folder, so that nothing of this one can get into the bytes."""
    shutil.copytree(ROOT / "programs", tmp_path / "programs", ignore=shutil.ignore_patterns("target"))
    build = tmp_path / "programs" / "escrow" / "build.sh"
    run = subprocess.run([build, "--check"], capture_output=True, text=True, timeout=250, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (tmp_path / "programs" / "escrow.so.sha256").write_text("0" * 64 + "  escrow.so\n")
    assert subprocess.run([build, "--check"], capture_output=True, timeout=250, check=False).returncode == 1
