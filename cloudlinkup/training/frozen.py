"""Tensors that are not trained, out of their safetensors file: its header is checked first, then they are mapped.

Nothing is copied or widened here: fp16 stays fp16, and bf16, which numpy does not know, comes as its uint16 bit
patterns. The file may be larger than memory; who uses a tensor copies it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # networks use this file
    from cloudlinkup.training.networks.kind import FrozenWeights

MAX_HEADER = 16 * 2**20  # bytes
MAX_FILE = 8 * 2**30  # bytes
_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_PIECE = 2**24  # numbers looked at in one go


def open_frozen(path: Path, expected: Mapping[str, tuple[int, ...]]) -> FrozenWeights:
    """The tensors by their expected names, as read-only views of the mapped file.

    A file written without the network's own prefix ("transformer.", "model.") is read as if it had it; tensors that
    are computed or tied rather than stored (attention masks, rotary frequencies, a tied lm_head) are passed over.
    Raises ValueError for a file that is no safetensors, or does not hold exactly the expected shapes in fp32, fp16 or
    bf16. Values are not looked at: see `check_finite`.
    """
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"the weights' file is larger than {MAX_FILE // 2**30} GiB")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"the weights' header is larger than {MAX_HEADER // 2**20} MiB")
        header = file.read(length)
    try:
        with safe_open(path, "np") as checked:  # the library checks that the header and the file fit each other
            stored = set(checked.keys())
        told = json.loads(header)
    except (SafetensorError, ValueError, RecursionError):
        raise ValueError("the weights' file is no valid safetensors") from None
    names = _names(stored, expected)
    if missing := sorted(set(expected) - names.keys()):
        raise ValueError(f"the weights' file has no tensor {missing[0]}, which the config asks for")
    if unknown := sorted(name for name in stored - set(names.values()) if not _passed_over(name)):
        raise ValueError(f"the weights' file has a tensor {unknown[0][:100]}, which the config does not have")
    data = np.memmap(path, np.uint8, "r")
    found: dict[str, np.ndarray] = {}
    for name, shape in expected.items():
        entry = told[names[name]]
        if tuple(entry["shape"]) != shape:
            raise ValueError(
                f"{name} has shape {tuple(entry['shape'])} in the weights' file, and {shape} by the config"
            )
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name} is stored as {entry['dtype']}: only {', '.join(_TYPES)} are read")
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = np.asarray(data[begin:end]).view(_TYPES[entry["dtype"]]).reshape(shape)
    return found


def largest_file(expected: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that a file of these tensors can take: all in fp32, with what is passed over, and the longest header."""
    largest = max((prod(shape) for shape in expected.values()), default=0)
    return 8 + MAX_HEADER + 4 * (sum(prod(shape) for shape in expected.values()) + 2 * largest)


def _names(stored: set[str], expected: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Expected names to those in the file."""
    prefix = next(iter(expected)).partition(".")[0] + "." if expected else ""
    plain = not any(name.startswith(prefix) for name in stored)
    wanted = {name: name.removeprefix(prefix) if plain else name for name in expected}
    return {name: there for name, there in wanted.items() if there in stored}


def _passed_over(name: str) -> bool:
    return name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")) or name == "lm_head.weight"


def check_finite(frozen: FrozenWeights) -> None:
    """Raises ValueError where a value is infinite or not a number. Reads all of the file."""
    for name, tensor in frozen.items():
        flat = tensor.reshape(-1)
        for start in range(0, len(flat), _PIECE):
            piece = flat[start : start + _PIECE]
            # bf16: all bits of the exponent
            bad = (piece & 0x7F80 == 0x7F80).any() if piece.dtype == np.uint16 else not np.isfinite(piece).all()
            if bad:
                raise ValueError(f"{name} holds values that are not finite in the weights' file")


def widened(tensor: np.ndarray) -> np.ndarray:
    """A copy in fp32; exact."""
    if tensor.dtype == np.uint16:
        return (tensor.astype("<u4") << 16).view("<f4")
    return tensor.astype("<f4")


def file_hash(path: Path) -> str:
    """SHA-256 in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
