"""A partition's rows as bytes, and how rows are dealt to contributors.

The bytes are safetensors with two tensors: `features` fp32 (rows, inputs), and `targets`, int64 (rows,) class numbers
or fp32 (rows, outputs); for next_token both are int32 (rows, length): windows of tokens, and the token that follows
each. Nothing is unpickled, and every size is checked against the spec.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.hashes import digest

MAX_PARTITION = 4 * 2**30  # bytes


def check_rows(features: np.ndarray, targets: np.ndarray, spec: TrainingSpec) -> None:
    """Raises ValueError when shapes, dtypes, class numbers or values do not fit the spec. Names no value."""
    if spec.task == "next_token":
        _check_tokens(features, targets, spec)
        return
    if features.ndim != 2 or features.dtype != np.float32 or features.shape[1] != spec.inputs or not len(features):
        raise ValueError(f"features must be fp32 (rows, {spec.inputs}) with at least one row")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite")
    rows = features.shape[0]
    if spec.task == "classification":
        if targets.shape != (rows,) or targets.dtype != np.int64:
            raise ValueError("targets must be int64 (rows,)")
        if targets.min() < 0 or targets.max() >= spec.outputs:
            raise ValueError(f"targets must be class numbers below {spec.outputs}")
    elif targets.shape != (rows, spec.outputs) or targets.dtype != np.float32 or not np.isfinite(targets).all():
        raise ValueError(f"targets must be finite fp32 (rows, {spec.outputs})")


def _check_tokens(windows: np.ndarray, targets: np.ndarray, spec: TrainingSpec) -> None:
    for name, array in (("features", windows), ("targets", targets)):
        if array.ndim != 2 or array.dtype != np.int32 or array.shape[1] != spec.inputs or not len(array):
            raise ValueError(f"{name} must be int32 (rows, {spec.inputs}) with at least one row")
        if array.min() < 0 or array.max() >= spec.outputs:
            raise ValueError(f"{name} must be token numbers below {spec.outputs}")
    if len(windows) != len(targets):
        raise ValueError("features and targets differ in rows")


def pack_partition(features: np.ndarray, targets: np.ndarray) -> bytes:
    """Rows to bytes. The same rows give the same bytes."""
    return save({"features": np.ascontiguousarray(features), "targets": np.ascontiguousarray(targets)})


def unpack_partition(data: bytes, spec: TrainingSpec, limit: int = MAX_PARTITION) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets) of a packed partition. Raises ValueError for anything that does not fit the spec."""
    if len(data) > limit:
        raise ValueError(f"a partition of {len(data)} bytes is larger than {limit}")
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise ValueError("not a partition: its safetensors do not parse") from None
    if set(tensors) != {"features", "targets"}:
        raise ValueError("a partition holds exactly features and targets")
    features, targets = tensors["features"], tensors["targets"]
    check_rows(features, targets, spec)
    return np.array(features), np.array(targets)  # own, aligned, writable memory


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
