"""What the cell is started with: defaults from the settings, and the chain's genesis hash from its RPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudlinkup.errors import Unavailable
from cloudlinkup.home import PORT_BASE, PORTS, PROGRAM_ID, Home, Settings
from services.cell.__main__ import arguments, genesis_hash


def test_defaults_are_those_that_others_look_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_URL", "SCHEDULER", "PROGRAM_ID"):
        monkeypatch.delenv(f"CLOUDLINKUP_{name}", raising=False)
    settings = Settings.load(Home(tmp_path))
    given = arguments([], settings)
    assert (given.gateway_port, given.scheduler_port, given.dashboard_port) == tuple(
        PORT_BASE + PORTS[name] for name in ("gateway", "scheduler", "dask_dashboard")
    )
    assert (given.gateway_host, given.gateway_name) == ("127.0.0.1", settings.gateway_url)
    assert (given.program, given.blobs, given.allow) == (PROGRAM_ID, str(tmp_path / "blobs"), None)
    assert arguments(["--allow", "a", "--allow", "b"], settings).allow == ["a", "b"]


def test_genesis_hash_comes_from_the_chain(localnet: Any) -> None:
    assert genesis_hash(localnet.url) == localnet.call("getGenesisHash")


def test_no_chain() -> None:
    with pytest.raises(Unavailable, match="Fix:"):
        genesis_hash("http://127.0.0.1:1")
