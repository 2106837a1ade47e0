"""The state of a training between two segments: its bytes and its hash.

Little-endian: magic "CLST", u32 version 2, u64 parameters n, then weights, first and second moments (n fp32 each), then
u64 optimizer steps since the moments were zero. Its hash, which the leaves of a commitment hold, is SHA-256 of these.
What goes on from one round to the next is less: `moments`.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from cloudlinkup.training.moments import pack_moments, unpack_moments

_HEADER = struct.Struct("<4sIQ")
_TAIL = struct.Struct("<Q")
_MAGIC, _VERSION = b"CLST", 2


def state_size(parameters: int) -> int:
    """Bytes of a state: what an opening may cost."""
    return _HEADER.size + 12 * parameters + _TAIL.size


def hash_state(state: bytes) -> bytes:
    """A state's hash from its bytes."""
    return hashlib.sha256(state).digest()


def start_state(weights: np.ndarray, moments: bytes | None) -> bytes:
    """A shard's state before its first step: flat fp32 published weights, and its packed moments, or none.

    Raises ValueError for moments that are none of this network.
    """
    zero = np.zeros_like(weights)
    first, second, steps = (zero, zero, 0) if moments is None else unpack_moments(moments, weights.size)
    w, m, v = (np.ascontiguousarray(vector, "<f4").data.cast("B") for vector in (weights, first, second))
    return b"".join(parts_of(w, m, v, steps))


def moments_of(state: bytes) -> bytes:
    """A state's moments, packed: what the seat's next round begins with. Raises ValueError as `pack_moments`."""
    _, first, second, steps = read_state(state, (len(state) - _HEADER.size - _TAIL.size) // 12)
    return pack_moments(first, second, steps)


def parts_of(w: memoryview, m: memoryview, v: memoryview, steps: int) -> list[bytes | memoryview]:
    """A state's bytes in pieces: the first 16, the weights, and the moments' three."""
    return [_HEADER.pack(_MAGIC, _VERSION, len(w) // 4), w, m, v, _TAIL.pack(steps)]


def read_state(data: bytes, parameters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(weights, first moments, second moments, steps) as read-only views. Raises ValueError."""
    if len(data) != state_size(parameters):
        raise ValueError(f"a state of {len(data)} bytes where {state_size(parameters)} are needed")
    if _HEADER.unpack_from(data) != (_MAGIC, _VERSION, parameters):
        raise ValueError("not a state of version 2 for this network")
    w, m, v = np.frombuffer(data, "<f4", 3 * parameters, _HEADER.size).reshape(3, parameters)
    return w, m, v, _TAIL.unpack_from(data, len(data) - _TAIL.size)[0]
