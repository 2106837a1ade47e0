"""Every hash input of the protocol, in one place, with the standard library alone.

`digest` is SHA-256 over its fields, each as a tag byte, a u32 little-endian length and the bytes, so that no two
different lists of fields collide. Integers are u64 little-endian, text is UTF-8. It stands apart from `messages.py`
(which needs pydantic) so that `training/` and `verify/` run on a machine that has just torch, numpy and safetensors.
"""

from __future__ import annotations

import hashlib

Field = bytes | str | int

_BYTES, _TEXT, _INT = b"b", b"t", b"i"


def digest(*fields: Field) -> bytes:
    """SHA-256 of a list of fields, 32 bytes.

    Raises OverflowError for an integer outside u64.
    """
    h = hashlib.sha256()
    for field in fields:
        if isinstance(field, int):
            tag, raw = _INT, field.to_bytes(8, "little")
        elif isinstance(field, str):
            tag, raw = _TEXT, field.encode()
        else:
            tag, raw = _BYTES, bytes(field)
        h.update(tag + len(raw).to_bytes(4, "little"))
        h.update(raw)
    return h.digest()


def sha256(data: bytes) -> str:
    """Hex SHA-256 of raw bytes: how blobs are named."""
    return hashlib.sha256(data).hexdigest()


def order_leaf(order_hash: bytes) -> bytes:
    """Leaf 0 of a shard's tree."""
    return digest(0, "order", order_hash)


def segment_leaf(wallet: bytes, segment: int, steps: int, state_hash: bytes) -> bytes:
    """Leaf k (1-based): the state (weights, then optimizer) after segment k of `steps` optimizer steps."""
    return digest(0, "segment", wallet, segment, steps, state_hash)


def upload_leaf(upload_hash: bytes, segments: int) -> bytes:
    """The last leaf: SHA-256 of the plaintext quantised update, and how many segments it sums."""
    return digest(0, "upload", upload_hash, segments)


def node(left: bytes, right: bytes) -> bytes:
    """An inner node."""
    return digest(1, left, right)


def seat_leaf(seat: int, contributor_root: bytes) -> bytes:
    """A contributor's leaf in the round's tree."""
    return digest(0, "seat", seat, contributor_root)


def secret_leaf(secret: bytes) -> bytes:
    """The round's secret in the round's tree: fixed before the chain's block hash is known."""
    return digest(0, "secret", digest(secret))


def rows_seed(job_id: bytes, partition: bytes, job_seed: int) -> bytes:
    """The 32-byte seed of the order in which a partition's rows are trained on. Chosen by nobody once the job's id and
    seed are. The same in every round: each goes on where the last one stopped (`Order.rows_before`), so that no row
    waits until all others were seen. An order drawn anew for each round and attempt leaves 1 row in 15 of a table that
    is seen 2.7 times unseen, and that costs more than all quantising (docs/rounds.md)."""
    return digest("rows", job_id, partition, job_seed)


def partition_hash(salt: bytes, data: bytes) -> bytes:
    """Salted, so that nobody confirms a guess of the rows from the order alone."""
    return digest("partition", salt, data)


def challenge_seed(secret: bytes, block_hash: bytes, contributor_root: bytes) -> bytes:
    """What the segments to open are drawn from."""
    return digest("challenge", secret, block_hash, contributor_root)


def seal_context(direction: str, job_id: str, recipient: str, *rest: Field) -> bytes:
    """HPKE's `info` for a blob's key: a key sealed for one place in the protocol opens in no other.

    `recipient` is the hex X25519 key it is sealed to. `rest` by direction: "data": partition hash; "weights": round,
    seat, attempt; "frozen": the file's SHA-256; "update": round, seat, attempt; "opening": these and the segment.
    """
    return digest("seal", direction, job_id, recipient, *rest)
