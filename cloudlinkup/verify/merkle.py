"""Merkle trees over a shard's leaves and a round's seats.

Leaves are 32-byte hashes made with tag 0 in `wire.hashes`, nodes have tag 1, so no node passes for a leaf and no leaf
for a node. An odd hash at the end of a level moves up unchanged (it is never paired with itself), so no two lists of
different length share a root by repetition; where the number of leaves matters, it also stands in what is signed.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudlinkup.wire.hashes import node

MAX_PATH = 64


def _up(level: Sequence[bytes]) -> list[bytes]:
    above = [node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return [*above, level[-1]] if len(level) % 2 else above


def root(leaves: Sequence[bytes]) -> bytes:
    """The root of at least one leaf. Raises ValueError for none, or for a leaf that is not 32 bytes."""
    if not leaves or any(len(leaf) != 32 for leaf in leaves):
        raise ValueError("a tree needs at least one leaf, each of 32 bytes")
    level = list(leaves)
    while len(level) > 1:
        level = _up(level)
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[tuple[bool, bytes]]:
    """From leaf `index` up: (the sibling is on the left, the sibling). Raises IndexError."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} among {len(leaves)}")
    level, steps = list(leaves), []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            steps.append((sibling < index, level[sibling]))
        level, index = _up(level), index // 2
    return steps


def check(leaf: bytes, steps: Sequence[tuple[bool, bytes]], root: bytes) -> bool:
    """True if the path leads from the leaf to the root. Says nothing about the leaf's position: see `check_at`."""
    if len(leaf) != 32 or len(steps) > MAX_PATH or any(len(sibling) != 32 for _, sibling in steps):
        return False
    for left, sibling in steps:
        leaf = node(sibling, leaf) if left else node(leaf, sibling)
    return leaf == root


def check_at(leaf: bytes, index: int, count: int, steps: Sequence[tuple[bool, bytes]], root: bytes) -> bool:
    """As `check`, and the path's sides are those of leaf `index` among `count`: it stands where it is said to."""
    if not 0 <= index < count:
        return False
    sides = []
    while count > 1:
        if index ^ 1 < count:
            sides.append((index ^ 1) < index)
        count, index = -(-count // 2), index // 2
    return [left for left, _ in steps] == sides and check(leaf, steps, root)
