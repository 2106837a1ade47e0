"""Optimizer state on its way from one round to the next: AdamW's moments in 12.5 bits a parameter instead of 64.

A seat that keeps its state goes on from what these bytes say, not from the exact moments it ended with, and so does the
audit: what an audit opens is a fifth of it. Measured on a table and a text, rounding once a round costs no quality
(`benchmarks/bytes.py`); 8-bit states in every step are known to serve (Dettmers et al., 8-bit Optimizers, 2021).

Little-endian bytes, for n parameters:

    0   4  magic "CLMO"
    4   4  u32 version, 1
    8   8  u64 n
    16  8  u64 optimizer steps since the moments were zero
    24  ..  the first moments as `quantize` writes n numbers
    ..  2  i16 exponent e: the scales below count in units of 2^e
    ..  2 * ceil(n / 64)  fp16 scales, finite and not negative
    ..  n                 codes: sqrt(second moment) = code * scale * 2^e, in blocks of 64

Every second moment that was not zero keeps a code of at least 1, and a first moment whose second is zero is read as
zero: AdamW divides one by the root of the other. Plain elementwise IEEE arithmetic: the same bytes everywhere.
"""

from __future__ import annotations

import struct

import numpy as np

from cloudlinkup.training.quantize import BLOCK, dequantise, encoded_size, quantise

_HEADER = struct.Struct("<4sIQQ")
_EXPONENT = struct.Struct("<h")
_MAGIC, _VERSION = b"CLMO", 1
_TOP = 13  # the largest root is scaled to 2^12..2^13: its scale fits fp16, and blocks 2^-29 smaller still have one
_EXPONENTS = range(-90, 52)  # roots of every fp32 number whose square stays finite
_MOST = np.float32(2.0**126)  # of a second moment


def moments_size(parameters: int) -> int:
    """Bytes of the packed moments: what carrying a seat's state over, or showing it, costs."""
    blocks = -(-parameters // BLOCK)
    return _HEADER.size + encoded_size(parameters) + _EXPONENT.size + 2 * blocks + parameters


def pack_moments(first: np.ndarray, second: np.ndarray, steps: int) -> bytes:
    """Flat fp32 moments of one length, and their optimizer steps. Raises ValueError for what no training leads to:
    values that are not finite, negative second moments."""
    if second.shape != first.shape or second.dtype != np.float32:
        raise ValueError("the moments differ in shape or dtype")
    if not np.isfinite(second).all() or (second < 0).any() or (second > _MOST).any():
        raise ValueError("second moments must be finite, not negative and below 2^126")
    header = _HEADER.pack(_MAGIC, _VERSION, len(second), steps)
    roots = np.sqrt(second)
    largest = float(roots.max(initial=0.0))
    exponent = int(np.frexp(np.float32(largest))[1]) - _TOP if largest else 0
    rows = np.zeros((-(-len(roots) // BLOCK), BLOCK), np.float32)
    rows.reshape(-1)[: len(roots)] = np.ldexp(roots, -exponent)
    scales = (rows.max(axis=1, initial=0.0) / np.float32(255)).astype(np.float16)
    wide = scales.astype(np.float32)
    inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide > 0)
    codes = np.clip(np.rint(rows * inverse[:, None]), rows > 0, 255).astype(np.uint8)
    body = [_EXPONENT.pack(exponent), scales.tobytes(), codes.reshape(-1)[: len(roots)].tobytes()]
    return b"".join([header, quantise(first), *body])


def unpack_moments(data: bytes, parameters: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(first moments, second moments, steps), flat fp32, finite. Raises ValueError for any other bytes, before anything
    of their size is allocated."""
    if len(data) != moments_size(parameters):
        raise ValueError(f"moments of {len(data)} bytes where {moments_size(parameters)} are needed")
    magic, version, count, steps = _HEADER.unpack_from(data)
    if (magic, version, count) != (_MAGIC, _VERSION, parameters):
        raise ValueError("not moments of version 1 for this network")
    place = _HEADER.size + encoded_size(parameters)
    first = dequantise(data[_HEADER.size : place], parameters)
    (exponent,) = _EXPONENT.unpack_from(data, place)
    if exponent not in _EXPONENTS:
        raise ValueError("the moments' exponent is out of range")
    blocks = -(-parameters // BLOCK)
    scales = np.frombuffer(data, "<f2", blocks, place + _EXPONENT.size)
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise ValueError("a scale of the moments is negative or not finite")
    codes = np.frombuffer(data, np.uint8, parameters, place + _EXPONENT.size + 2 * blocks)
    with np.errstate(over="ignore"):
        scale = np.repeat(scales.astype(np.float32), BLOCK)[:parameters]
        second = np.square(np.ldexp(codes.astype(np.float32) * scale, exponent))
    if not np.isfinite(second).all():
        raise ValueError("the moments are too large")
    first[second == 0] = 0
    return first, second, steps
