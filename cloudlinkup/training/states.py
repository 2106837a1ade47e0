"""The state of a training between two segments: its bytes, its hash, and its parts.

Little-endian: magic "CLST", u32 version 2, u64 parameters n, then weights, first and second moments (n fp32 each), then
u64 optimizer steps since the moments were zero. The last three (8n + 8 bytes) are called the moments.

A state's hash, which the leaves of a commitment hold, is SHA-256 over the first 16 bytes, SHA-256 of the weights and
SHA-256 of the moments. So the start of a shard is checked by two hashes of its signed order, without the bytes, and
whoever knows the published weights shows a start by its moments alone.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from cloudlinkup.training.spec import ShardWork

_HEADER = struct.Struct("<4sIQ")
_TAIL = struct.Struct("<Q")
_MAGIC, _VERSION = b"CLST", 2


def state_size(parameters: int) -> int:
    """Bytes of a state: what an opening may cost."""
    return _HEADER.size + 12 * parameters + _TAIL.size


def moments_size(parameters: int) -> int:
    """Bytes of a state's moments: what carrying a seat's state over, or showing it, costs."""
    return 8 * parameters + _TAIL.size


def state_hash(parameters: int, weights_hash: bytes, moments_hash: bytes) -> bytes:
    """A state's hash from those of its parts."""
    return hashlib.sha256(_HEADER.pack(_MAGIC, _VERSION, parameters) + weights_hash + moments_hash).digest()


def part_hashes(state: bytes) -> tuple[bytes, bytes]:
    """(SHA-256 of the weights' bytes, of the moments') of a state's bytes; of any other bytes, some two hashes."""
    middle, view = _HEADER.size + max(0, len(state) - _HEADER.size - _TAIL.size) // 3, memoryview(state)
    return hashlib.sha256(view[_HEADER.size : middle]).digest(), hashlib.sha256(view[middle:]).digest()


def hash_state(state: bytes) -> bytes:
    """A state's hash from its bytes. Other bytes than a state's hash to what no state does."""
    parameters = max(0, len(state) - _HEADER.size - _TAIL.size) // 12
    if len(state) != state_size(parameters) or state[: _HEADER.size] != _HEADER.pack(_MAGIC, _VERSION, parameters):
        return hashlib.sha256(b"not a state" + state).digest()
    return state_hash(parameters, *part_hashes(state))


def moments_of(state: bytes) -> bytes:
    """The moments' bytes of a state's: what is carried over, and hashed in an order."""
    return state[_HEADER.size + (len(state) - _HEADER.size - _TAIL.size) // 3 :]


def fresh_moments(parameters: int) -> bytes:
    return bytes(moments_size(parameters))


def moments_steps(moments: bytes) -> int:
    """Optimizer steps that are in some moments."""
    return _TAIL.unpack_from(moments, len(moments) - _TAIL.size)[0]


def start_state(weights: np.ndarray, moments: bytes) -> bytes:
    """A shard's state before its first step: flat fp32 published weights, and the moments it begins with."""
    header = _HEADER.pack(_MAGIC, _VERSION, weights.size)
    return header + np.ascontiguousarray(weights, "<f4").tobytes() + moments


def start_hash(weights: np.ndarray, work: ShardWork) -> bytes:
    """The hash of `start_state`, from what an order names alone."""
    moments = work.moments or hashlib.sha256(fresh_moments(weights.size)).digest()
    return state_hash(weights.size, hashlib.sha256(np.ascontiguousarray(weights, "<f4").data).digest(), moments)


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
