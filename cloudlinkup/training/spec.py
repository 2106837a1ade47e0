"""What a shard's training is made of, as frozen values with one byte form.

`TrainingSpec` is the same for every shard of a job (its hash stands in every order); `ShardWork` is one shard's.
Both come from the signed order, never from the contributor.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

Task = Literal["classification", "regression", "next_token"]
Precision = Literal["fp32", "bf16"]
Optimizer = Literal["adamw", "muon"]


@dataclass(frozen=True)
class TrainingSpec:
    """`model` is the job's model object as plain JSON; `inputs` features in, `outputs` logits or targets out; for
    next_token, `inputs` is the window's length in tokens and `outputs` the vocabulary's size.

    `micro_batch`: rows of one pass where a step's batch is taken in pieces. `frozen`: SHA-256 (hex) of the safetensors
    file with the tensors that are not trained, where the kind has such."""

    task: Task
    model: dict[str, Any]
    inputs: int
    outputs: int
    batch: int
    lr: float
    seed: int
    precision: Precision = "fp32"
    class_weights: tuple[float, ...] | None = None  # one a class, as torch's cross_entropy takes them
    rounds: Literal["stateless", "kept"] = "stateless"  # what becomes of optimizer state between rounds (`schedule`)
    micro_batch: int | None = None
    frozen: str | None = None
    optimizer: Optimizer = "adamw"

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> TrainingSpec:
        """Raises ValueError or TypeError for anything that is not exactly a TrainingSpec."""
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        if isinstance(weights := raw.get("class_weights"), list):
            raw["class_weights"] = tuple(weights)
        spec = cls(**raw)
        if spec.to_bytes() != data:
            raise ValueError("not in canonical form")
        return spec

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


@dataclass(frozen=True)
class ShardWork:
    """One shard: at most `max_segments` segments of `segment_steps` optimizer steps each.

    `progress_from` and `progress_to` (millionths of the job's samples) position the learning-rate schedule at the
    first step and after the last possible one. `moments`: SHA-256 of the optimizer state that it begins with
    (`states.moments_of`), `steps_before` the optimizer steps that are in it; empty and 0: fresh. `seed` draws the order
    of the rows, anew in each epoch, and `rows_before` says where in it (of all epochs) the shard's first row lies.
    """

    seed: bytes
    segment_steps: int
    max_segments: int
    progress_from: int
    progress_to: int
    moments: bytes = b""
    steps_before: int = 0
    rows_before: int = 0

    @classmethod
    def of(cls, order: Any) -> ShardWork:
        """What of an order positions its training. One that begins afresh may lack the last three fields."""
        return cls(
            seed=bytes.fromhex(order.seed),
            segment_steps=order.segment_steps,
            max_segments=order.max_segments,
            progress_from=order.progress_from,
            progress_to=order.progress_to,
            moments=bytes.fromhex(getattr(order, "moments", None) or ""),
            steps_before=getattr(order, "steps_before", 0),
            rows_before=getattr(order, "rows_before", 0),
        )
