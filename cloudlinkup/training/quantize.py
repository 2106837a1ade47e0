"""Updates on the wire: 4 bits a parameter, one fp16 scale for each block of 64, round to nearest.

Little-endian bytes of a vector of n:

    0   4  magic "CLQ4"
    4   2  u16 version, 1
    6   2  i16 exponent e: every scale counts in units of 2^e, so that small late updates keep their digits in fp16
    8   8  u64 n
    16  2 * ceil(n / 64)  fp16 scales, finite and not negative
    ..  ceil(n / 2)       codes: element 2k in the low half of byte k, element 2k + 1 in the high half

Element i is (code - 8) * scale[i // 64] * 2^e. Codes 1 to 15 are written (8 is zero, and pads an odd end); 0 reads as
-8. 4.25 bits a parameter. Encoding and decoding are plain elementwise IEEE arithmetic: the same bytes everywhere.
No error feedback here: `outer.Published` has it for what the coordinator publishes.
"""

from __future__ import annotations

import struct

import numpy as np

BLOCK = 64
LEVELS = 7
HEADER = struct.Struct("<4sHhQ")
MAGIC = b"CLQ4"
VERSION = 1
MAX_COUNT = 50_000_000
_TOP = 14  # the largest element is scaled to 2^13..2^14: its scale fits fp16, and blocks 2^-34 smaller still do
_EXPONENTS = range(-163, 101)  # every element a decoder can see is then finite in fp32
_CHUNK = BLOCK * 1024  # elements at a time: stays in cache


def encoded_size(count: int) -> int:
    """Bytes of a quantised vector of `count` elements."""
    return HEADER.size + 2 * -(-count // BLOCK) + -(-count // 2)


def quantise(vector: np.ndarray) -> bytes:
    """A flat fp32 vector to bytes. Raises ValueError for another shape or dtype, non-finite or absurd values."""
    if vector.ndim != 1 or vector.dtype != np.float32:
        raise ValueError("a flat fp32 vector is needed")
    count = vector.shape[0]
    if count > MAX_COUNT:
        raise ValueError(f"{count} elements are more than {MAX_COUNT}")
    largest = max(float(vector.max()), -float(vector.min())) if count else 0.0
    if not np.isfinite(largest):
        raise ValueError("the vector has values that are not finite")
    exponent = int(np.frexp(np.float32(largest))[1]) - _TOP if largest else 0
    if exponent not in _EXPONENTS:
        raise ValueError("the vector has values too large to quantise")
    blocks = -(-count // BLOCK)
    scales = np.empty(blocks, np.float16)
    codes = np.empty(-(-count // 2), np.uint8)
    for start in range(0, count, _CHUNK):
        piece = np.ldexp(vector[start : start + _CHUNK], -exponent)
        size = piece.shape[0]
        if size % BLOCK:
            piece = np.concatenate([piece, np.zeros(BLOCK - size % BLOCK, np.float32)])
        rows = piece.reshape(-1, BLOCK)
        scale = (np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(LEVELS)).astype(np.float16)
        scales[start // BLOCK : start // BLOCK + len(scale)] = scale
        wide = scale.astype(np.float32)
        inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide > 0)
        scaled = rows * inverse[:, None]
        np.rint(scaled, out=scaled)
        np.clip(scaled, -LEVELS, LEVELS, out=scaled)
        scaled += np.float32(8)
        halves = scaled.astype(np.uint8).reshape(-1, 2)
        packed = halves[:, 0] | (halves[:, 1] << 4)
        length = -(-size // 2)
        codes[start // 2 : start // 2 + length] = packed[:length]
    return HEADER.pack(MAGIC, VERSION, exponent, count) + scales.tobytes() + codes.tobytes()


def dequantise(data: bytes, n: int) -> np.ndarray:
    """Bytes to a flat fp32 vector of exactly `n` elements.

    Raises ValueError, before anything of size n is allocated, for a wrong header, count, length, or a scale that is
    negative or not finite.
    """
    if not 0 <= n <= MAX_COUNT:
        raise ValueError(f"{n} elements are more than {MAX_COUNT}")
    if len(data) != encoded_size(n):
        raise ValueError(f"{len(data)} bytes where {encoded_size(n)} are needed for {n} elements")
    magic, version, exponent, count = HEADER.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError("not a quantised vector of version 1")
    if count != n:
        raise ValueError(f"{count} elements where {n} are expected")
    if exponent not in _EXPONENTS:
        raise ValueError("exponent out of range")
    blocks = -(-n // BLOCK)
    scales = np.frombuffer(data, "<f2", blocks, HEADER.size)
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise ValueError("a scale is negative or not finite")
    codes = np.frombuffer(data, np.uint8, -(-n // 2), HEADER.size + 2 * blocks)
    out = np.empty(n, np.float32)
    for start in range(0, n, _CHUNK):
        size = min(_CHUNK, n - start)
        packed = codes[start // 2 : start // 2 + -(-size // 2)]
        values = np.full(-(-size // BLOCK) * BLOCK, 8, np.int8)
        values[0 : 2 * len(packed) : 2] = packed & 0x0F
        values[1 : 2 * len(packed) : 2] = packed >> 4
        values -= 8
        scale = scales[start // BLOCK : start // BLOCK + len(values) // BLOCK].astype(np.float32)
        rows = values.reshape(-1, BLOCK).astype(np.float32) * scale[:, None]
        out[start : start + size] = np.ldexp(rows.reshape(-1)[:size], exponent)
    return out
