"""A round's Merkle tree, whose root goes on chain: which of its entries are under it, and its leaves."""

from __future__ import annotations

from cloudlinkup.wire.hashes import seat_leaf, secret_leaf
from tasks.state import Entry, RoundState

UNDER = ("committed", "accepted", "rejected", "timeout")


def committed(round_: RoundState) -> list[Entry]:
    """The entries under the round's root, by seat: what was committed to, with an update that opened and is kept."""
    return sorted((e for e in round_.entries if e.outcome == "committed"), key=lambda e: e.seat)


def under_the_root(round_: RoundState) -> list[Entry]:
    """The same of a round that may have been judged since."""
    return sorted((e for e in round_.entries if e.root and e.outcome in UNDER), key=lambda e: e.seat)


def round_leaves(round_: RoundState, entries: list[Entry] | None = None) -> list[bytes]:
    """The secret's leaf, then one leaf a seat of `entries`, by default of those that committed."""
    under = committed(round_) if entries is None else entries
    seats = [seat_leaf(entry.seat, bytes.fromhex(entry.root)) for entry in under]
    return [secret_leaf(bytes.fromhex(round_.secret)), *seats]
