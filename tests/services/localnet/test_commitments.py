"""What each commitment sees, slot by slot, on a chain whose time the test turns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from services.localnet.chain import SYSTEM, Chain
from services.localnet.rpc import Rpc, answer

LEVELS = ("processed", "confirmed", "finalized")


class Turned:
    """A chain in this process; `slots` lets so many pass."""

    def __init__(self, db: Path) -> None:
        self.chain = Chain(db)
        self.now = self.chain.clock.monotonic_ms()
        self.chain.clock.monotonic_ms = lambda: self.now
        self.rpc = Rpc(self.chain)

    def slots(self, count: int) -> None:
        self.now += 100 * count

    def call(self, method: str, *params: Any) -> Any:
        got = answer(self.rpc, {"id": 1, "method": method, "params": list(params)})
        assert "error" not in got, got
        return got["result"]

    def balances(self, key: Pubkey) -> list[int]:
        """By address, and compared with the same by program."""
        found = []
        for level in LEVELS:
            one = self.call("getBalance", str(key), {"commitment": level})["value"]
            listed = self.call("getProgramAccounts", str(SYSTEM), {"commitment": level, "filters": [{"dataSize": 0}]})
            assert {item["pubkey"]: item["account"]["lamports"] for item in listed}.get(str(key), 0) == one
            found.append(one)
        return found


@pytest.fixture
def turned(tmp_path: Path) -> Iterator[Turned]:
    one = Turned(tmp_path / "chain.db")
    yield one
    one.chain.close()


def test_accounts_are_read_as_of_their_commitment(turned: Turned) -> None:
    to = Keypair().pubkey()
    turned.call("requestAirdrop", str(to), 1_000_000)
    seen = []
    for slot in range(12):
        if slot == 3:
            turned.call("requestAirdrop", str(to), 5_000_000)
        seen.append(turned.balances(to))
        turned.slots(1)
    one, both = 1_000_000, 6_000_000
    assert [processed for processed, _, _ in seen] == [one] * 3 + [both] * 9
    assert [confirmed for _, confirmed, _ in seen] == [0] * 2 + [one] * 3 + [both] * 7
    assert [finalized for _, _, finalized in seen] == [0] * 8 + [one] * 3 + [both]


def test_statuses_deepen_and_old_ones_need_the_history(turned: Turned) -> None:
    signature = turned.call("requestAirdrop", str(Keypair().pubkey()), 1_000_000)

    def status(**options: bool) -> str | None:
        found = turned.call("getSignatureStatuses", [signature], options)["value"][0]
        return None if found is None else found["confirmationStatus"]

    seen = []
    for _ in range(9):
        seen.append(status())
        turned.slots(1)
    assert seen == ["processed"] * 2 + ["confirmed"] * 6 + ["finalized"]
    turned.slots(300)
    assert status() is None and status(searchTransactionHistory=True) == "finalized"


def test_a_transaction_is_shown_from_confirmed_on(turned: Turned) -> None:
    to = str(Keypair().pubkey())
    signature = turned.call("requestAirdrop", to, 1_000_000)
    ask = {"commitment": "confirmed"}
    assert turned.call("getTransaction", signature, ask) is None
    assert turned.call("getSignaturesForAddress", to, ask) == []
    turned.slots(2)
    assert turned.call("getTransaction", signature, ask)["meta"]["err"] is None
    assert [one["signature"] for one in turned.call("getSignaturesForAddress", to, ask)] == [signature]
    assert turned.call("getTransaction", signature) is None, "the default is finalized"
