"""What the coordinator holds and publishes.

It keeps the true weights w in fp32 and publishes w^_t = w^_(t-1) + Q(w_t - w^_(t-1)): what one round's quantisation
loses is in the next round's difference, so the error does not grow and costs contributors nothing to carry. Both sides
add the same dequantised delta to the same base, so their bytes agree. A joiner needs one whole snapshot.

Where the job's setting has momentum (`schedule.outer_momentum`), the round's averaged update moves the weights by
Nesterov's rule. The velocity is the coordinator's alone: contributors and auditors only ever see published weights.
"""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cloudlinkup.training.quantize import dequantise, quantise


def apply_delta(base: np.ndarray, delta: bytes) -> np.ndarray:
    """The next published weights from the last ones. Raises ValueError for a delta that is malformed or overflows."""
    with np.errstate(over="ignore"):
        result = base + dequantise(delta, base.shape[0])
    if not np.isfinite(result).all():
        raise ValueError("the delta leads to weights that are not finite")
    return result


class Published:
    """The coordinator's weights. `weights` is fp32 w_t, `published` what everybody starts round t + 1 from.
    `velocity`: of the outer momentum, fp32; None before it begins."""

    def __init__(
        self,
        weights: np.ndarray,
        published: np.ndarray | None = None,
        rounds: int = 0,
        velocity: np.ndarray | None = None,
    ) -> None:
        if weights.ndim != 1 or weights.dtype != np.float32 or not np.isfinite(weights).all():
            raise ValueError("flat, finite fp32 weights are needed")
        if published is None:
            published = weights
        if published.shape != weights.shape or published.dtype != np.float32:
            raise ValueError("published weights differ in shape or dtype")
        if velocity is not None and (velocity.shape != weights.shape or velocity.dtype != np.float32):
            raise ValueError("the velocity differs in shape or dtype")
        self.weights, self.published, self.rounds = weights.copy(), published.copy(), rounds
        self.velocity = None if velocity is None else velocity.copy()

    def step(self, update: np.ndarray, momentum: float = 0.0) -> bytes:
        """Takes a round's averaged update, v = momentum v + update, weights += update + momentum v (the form of torch's
        SGD, outer learning rate 1); returns the delta to send. Without momentum there is no velocity. Raises ValueError
        as `advance`, and changes nothing then."""
        with np.errstate(over="ignore"):
            if not momentum:
                delta = self.advance(self.weights + update)
                self.velocity = None
                return delta
            velocity = (update if self.velocity is None else np.float32(momentum) * self.velocity + update).astype("f4")
            weights = self.weights + update + np.float32(momentum) * velocity
        delta = self.advance(weights)
        self.velocity = velocity
        return delta

    def advance(self, weights: np.ndarray) -> bytes:
        """Takes the round's new weights; returns the delta to send. Raises ValueError when they are not finite."""
        if weights.shape != self.weights.shape or not np.isfinite(weights).all():
            raise ValueError("the new weights differ in shape or are not finite")
        weights = weights.astype(np.float32)
        delta = quantise(weights - self.published)
        self.published = apply_delta(self.published, delta)
        self.weights, self.rounds = weights, self.rounds + 1
        return delta

    def to_bytes(self) -> bytes:
        """For resuming after a crash."""
        tensors = {"weights": self.weights, "published": self.published, "rounds": np.array([self.rounds], np.int64)}
        return save(tensors if self.velocity is None else tensors | {"velocity": self.velocity})

    @classmethod
    def from_bytes(cls, data: bytes) -> Published:
        """Raises ValueError for anything that `to_bytes` did not write."""
        try:
            tensors = load(data)
            velocity = np.array(tensors["velocity"]) if "velocity" in tensors else None
            return cls(
                np.array(tensors["weights"]), np.array(tensors["published"]), int(tensors["rounds"][0]), velocity
            )
        except (SafetensorError, KeyError, IndexError, TypeError):
            raise ValueError("not a coordinator's state") from None
