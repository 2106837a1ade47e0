"""A partition's rows as bytes, and how rows are dealt to contributors.

The bytes are safetensors with two tensors: `features` fp32 (rows, inputs), and `targets`, int64 (rows,) class numbers
or fp32 (rows, outputs). For next_token both are int32 (rows, length) in memory: windows of tokens, and the token that
follows each. They travel once, as one tensor `tokens` (rows, length + 1) of the smallest of u8, u16 and i32 that holds
them: a window and the token after it. Nothing is unpickled, and every size is checked against the spec.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.hashes import digest

MAX_PARTITION = 4 * 2**30  # bytes
CHECKED = 65_536  # rows looked at in one go: the table may be larger than memory


def check_rows(features: np.ndarray, targets: np.ndarray, spec: TrainingSpec) -> None:
    """Raises ValueError when shapes, dtypes, class numbers or values do not fit the spec. Names no value."""
    if spec.task == "next_token":
        _check_tokens(features, targets, spec)
        return
    if features.ndim != 2 or features.dtype != np.float32 or features.shape[1] != spec.inputs or not len(features):
        raise ValueError(f"features must be fp32 (rows, {spec.inputs}) with at least one row")
    if not _finite(features):
        raise ValueError("features must be finite")
    rows = features.shape[0]
    if spec.task == "classification":
        if targets.shape != (rows,) or targets.dtype != np.int64:
            raise ValueError("targets must be int64 (rows,)")
        if targets.min() < 0 or targets.max() >= spec.outputs:
            raise ValueError(f"targets must be class numbers below {spec.outputs}")
    elif targets.shape != (rows, spec.outputs) or targets.dtype != np.float32 or not _finite(targets):
        raise ValueError(f"targets must be finite fp32 (rows, {spec.outputs})")


def _finite(rows: np.ndarray) -> bool:
    return all(bool(np.isfinite(rows[at : at + CHECKED]).all()) for at in range(0, len(rows), CHECKED))


def _check_tokens(windows: np.ndarray, targets: np.ndarray, spec: TrainingSpec) -> None:
    for name, array in (("features", windows), ("targets", targets)):
        if array.ndim != 2 or array.dtype != np.int32 or array.shape[1] != spec.inputs or not len(array):
            raise ValueError(f"{name} must be int32 (rows, {spec.inputs}) with at least one row")
        if array.min() < 0 or array.max() >= spec.outputs:
            raise ValueError(f"{name} must be token numbers below {spec.outputs}")
    if len(windows) != len(targets):
        raise ValueError("features and targets differ in rows")


def pack_partition(features: np.ndarray, targets: np.ndarray) -> bytes:
    """Rows to bytes. The same rows give the same bytes. Raises ValueError for windows whose targets are not the tokens
    that follow."""
    if features.dtype == np.int32:
        return save({"tokens": _narrowest(join_windows(features, targets))})
    return save({"features": np.ascontiguousarray(features), "targets": np.ascontiguousarray(targets)})


def unpack_partition(data: bytes, spec: TrainingSpec, limit: int = MAX_PARTITION) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets) of a packed partition. Raises ValueError for anything that does not fit the spec."""
    if len(data) > limit:
        raise ValueError(f"a partition of {len(data)} bytes is larger than {limit}")
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise ValueError("not a partition: its safetensors do not parse") from None
    if spec.task == "next_token":
        features, targets = _windows(tensors, spec)
    else:
        if set(tensors) != {"features", "targets"}:
            raise ValueError("a partition holds exactly features and targets")
        features, targets = tensors["features"], tensors["targets"]
    check_rows(features, targets, spec)
    return np.array(features), np.array(targets)  # own, aligned, writable memory


def unpacked_size(packed: int, spec: TrainingSpec) -> int:
    """Most bytes that a partition of `packed` bytes takes as arrays: two int32 for a token that travelled as u8."""
    return 8 * packed if spec.task == "next_token" else packed


def split_windows(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets), views of int32 (rows, length + 1)."""
    return windows[:, :-1], windows[:, 1:]


def join_windows(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """int32 (rows, length + 1), a copy: the windows and the token after each. Raises ValueError where the targets are
    not the tokens that follow."""
    fit = features.ndim == 2 and features.shape == targets.shape and targets.dtype == np.int32 and features.shape[1] > 0
    if not fit or not np.array_equal(features[:, 1:], targets[:, :-1]):
        raise ValueError("the targets of token windows are not the tokens that follow")
    return np.concatenate([features, targets[:, -1:]], axis=1)


def _narrowest(tokens: np.ndarray) -> np.ndarray:
    most = int(tokens.max(initial=0))
    return tokens.astype(np.uint8 if most < 2**8 else np.uint16 if most < 2**16 else np.int32)


def _windows(tensors: dict[str, np.ndarray], spec: TrainingSpec) -> tuple[np.ndarray, np.ndarray]:
    if set(tensors) != {"tokens"}:
        raise ValueError("a partition of text holds exactly tokens")
    tokens = tensors["tokens"]
    if tokens.ndim != 2 or tokens.dtype not in (np.uint8, np.uint16, np.int32) or tokens.shape[1] != spec.inputs + 1:
        raise ValueError(f"tokens must be u8, u16 or i32 (rows, {spec.inputs + 1})")
    return split_windows(tokens.astype(np.int32))


def shard_rows(n_rows: int, shares: Sequence[float], seed: int, minimum: int = 1) -> list[np.ndarray]:
    """Deals rows 0..n_rows-1, shuffled, to one partition per share: disjoint, covering, each at least `minimum` rows.

    Sizes follow `shares` (any positive scale) by largest remainder. Shuffled, because robust aggregation compares
    contributors and so needs their rows to be alike. Raises ValueError when there are too few rows or a bad share.
    """
    parts = len(shares)
    weights = np.asarray(shares, np.float64)
    if not parts or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError("shares must be finite, not negative, and not all zero")
    if minimum < 1 or n_rows < parts * minimum:
        raise ValueError(f"{n_rows} rows are too few for {parts} partitions of at least {minimum}")
    # whole rows first: what is above the minimum is dealt by share, so the minimum always holds
    ideal = np.maximum(weights / weights.sum() * n_rows - minimum, 0.0)
    spare = n_rows - parts * minimum
    exact = ideal / ideal.sum() * spare if ideal.sum() > 0 else np.full(parts, spare / parts)
    sizes = np.floor(exact).astype(np.int64)
    left = spare - int(sizes.sum())
    order = np.argsort(-(exact - sizes), kind="stable")
    for k in range(left):
        sizes[order[k % parts]] += 1
    sizes += minimum
    key = np.frombuffer(digest("rows", seed)[:16], "<u8")
    shuffled = np.argsort(np.random.Philox(key=key).random_raw(n_rows), kind="stable")
    return np.split(shuffled, np.cumsum(sizes)[:-1])
