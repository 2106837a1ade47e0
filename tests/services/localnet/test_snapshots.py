"""A chain's state is kept and brought back whole, also across kill -9."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from solders.keypair import Keypair

from cloudlinkup.errors import Unavailable
from services.localnet.chain import Chain

if TYPE_CHECKING:
    from tests.conftest import Localnet


def test_a_snapshot_brings_everything_back(start_localnet: Callable[..., Localnet]) -> None:
    chain = start_localnet()  # with the escrow program
    one, two = (str(Keypair().pubkey()) for _ in range(2))

    def balances() -> list[int]:
        return [chain.call("getBalance", who, {"commitment": "processed"})["value"] for who in (one, two)]

    kept = chain.call("requestAirdrop", one, 5_000_000)
    chain.warp(1_000)
    assert chain.call("localnet_snapshot", {"name": "early"})["bytes"] > 0
    assert (chain.db.parent / f"{chain.db.name}.early.snapshot").stat().st_mode & 0o077 == 0
    lost = chain.call("requestAirdrop", one, 1_000_000)
    chain.call("requestAirdrop", two, 2_000_000)
    chain.warp(86_400)
    assert balances() == [6_000_000, 2_000_000]

    for _ in range(2):
        assert chain.call("localnet_restore", {"name": "early"})["transactions"] == 1
        assert balances() == [5_000_000, 0]
        found = chain.call("getSignatureStatuses", [kept, lost], {"searchTransactionHistory": True})["value"]
        assert [status is None for status in found] == [False, True]
        now = chain.call("getBlockTime", chain.call("getSlot", {"commitment": "processed"}))
        assert 995 <= now - time.time() <= 1_010, "what was warped afterwards is undone"
        program = chain.call("getAccountInfo", str(chain.program_id), {"encoding": "base64"})["value"]
        assert program["executable"]
        chain.call("requestAirdrop", two, 3_000_000)
        assert balances() == [5_000_000, 3_000_000]
    chain.kill()
    chain.start()
    assert balances() == [5_000_000, 3_000_000], "what came after a restore is as durable as before"


@pytest.mark.parametrize("name", ["../x", "", "A", "x" * 41, 5, None])
def test_names_stay_beside_the_database(localnet: Localnet, name: object) -> None:
    for method in ("localnet_snapshot", "localnet_restore"):
        with pytest.raises(AssertionError, match="name must be"):
            localnet.call(method, {"name": name})


def test_only_this_chains_snapshots(tmp_path: Path) -> None:
    chain, other = Chain(tmp_path / "a.db"), Chain(tmp_path / "b.db")
    who = Keypair().pubkey()
    chain.airdrop(who, 5_000_000)
    other.snapshot(tmp_path / "b.snapshot")
    (tmp_path / "text").write_text("no database" * 100)
    for path, problem in (("none", "no snapshot none"), ("text", "is no snapshot"), ("b.snapshot", "another chain")):
        with pytest.raises(Unavailable, match=problem):
            chain.restore(tmp_path / path)
    account = chain.account(who)
    assert account is not None and account.lamports == 5_000_000
    chain.close()
    other.close()
