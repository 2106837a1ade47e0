"""The chain's clock: slots that advance with real time, and one block hash per slot.

Everything follows from one number, the chain's time in milliseconds: slot = (time - epoch of slot 0) / slot length,
unix_timestamp = time / 1000. It runs with the machine's clock while the service runs and while it does not, so a
restart looks like a moment in which nobody sent anything; it never goes back, and `warp` moves it forward.

A block hash is SHA-256 over a secret of this database and the slot. Nobody who only reads the chain can tell a hash
before its slot, which is what drawing a challenge from a later block needs; whoever reads the database file can.

Not covered: forks, skipped slots, a leader schedule, block hashes that depend on the block's content.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

Commitment = Literal["processed", "confirmed", "finalized"]
COMMITMENTS: tuple[Commitment, ...] = ("processed", "confirmed", "finalized")

BLOCKHASH_WINDOW = 150  # blocks a transaction may wait, as on every cluster
SLOTS_PER_EPOCH = 432_000
FIRST_SLOT = 64  # a new chain starts here, so that the confirmed and the finalized slot exist at once


@dataclass
class ChainClock:
    """Slot and time of this chain.

    `genesis_ms` is the time of slot 0; `floor_ms` the latest time that this database has seen; `warped_ms` the sum of
    all warps; `depth` says how many slots behind the tip each commitment is.
    """

    genesis_ms: int
    slot_ms: int
    floor_ms: int
    warped_ms: int
    secret: bytes
    confirmed_after: int = 2
    finalized_after: int = 8
    wall_ms: Callable[[], float] = field(default=lambda: time.time() * 1_000)
    monotonic_ms: Callable[[], float] = field(default=lambda: time.monotonic() * 1_000)

    def __post_init__(self) -> None:
        self._base = max(self.floor_ms, int(self.wall_ms()) + self.warped_ms)
        self._started = self.monotonic_ms()
        self._hashes: dict[int, bytes] = {}

    # ------------------------------------------------------------ time

    def now_ms(self) -> int:
        """Chain time in milliseconds. Never less than an earlier answer, also across restarts."""
        return self._base + int(self.monotonic_ms() - self._started)

    def warp(self, milliseconds: int) -> None:
        """Moves time, and with it the slots, forward."""
        self._base += milliseconds
        self.warped_ms += milliseconds

    def time_of(self, slot: int) -> int:
        """Unix seconds at which `slot` started."""
        return (self.genesis_ms + slot * self.slot_ms) // 1_000

    # ------------------------------------------------------------ slots

    def slot(self, commitment: Commitment = "processed") -> int:
        """The newest slot of that commitment."""
        tip = (self.now_ms() - self.genesis_ms) // self.slot_ms
        behind = {"processed": 0, "confirmed": self.confirmed_after, "finalized": self.finalized_after}
        return max(0, tip - behind[commitment])

    def commitment_of(self, slot: int) -> Commitment:
        """How deep a transaction of `slot` is by now."""
        depth = self.slot() - slot
        if depth >= self.finalized_after:
            return "finalized"
        return "confirmed" if depth >= self.confirmed_after else "processed"

    # ------------------------------------------------------------ block hashes

    def block_hash(self, slot: int) -> bytes:
        """The 32-byte hash of `slot`."""
        found = self._hashes.get(slot)
        if found is None:
            found = hashlib.sha256(b"localnet block" + self.secret + slot.to_bytes(8, "little")).digest()
            if len(self._hashes) > 4 * BLOCKHASH_WINDOW:
                oldest = self.slot() - BLOCKHASH_WINDOW
                self._hashes = {number: value for number, value in self._hashes.items() if number >= oldest}
            self._hashes[slot] = found
        return found

    def slot_of_hash(self, block_hash: bytes) -> int | None:
        """The slot of a hash that is still inside the window, else None."""
        tip = self.slot()
        for slot in range(tip, max(-1, tip - BLOCKHASH_WINDOW - 1), -1):
            if self.block_hash(slot) == block_hash:
                return slot
        return None


def parse_commitment(value: object, default: Commitment = "finalized") -> Commitment:
    """A request's commitment. Raises ValueError for anything but the three names (or absent)."""
    if value is None:
        return default
    if value not in COMMITMENTS:
        raise ValueError(f"unknown commitment {value!r}")
    return cast(Commitment, value)
