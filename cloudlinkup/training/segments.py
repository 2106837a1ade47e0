"""A shard's training, segment by segment: what the contributor runs and what the audit replays.

AdamW (0.9, 0.99, eps 1e-8, no decay), and `muon` beside it where the spec says so; learning rate by `schedule`. Its
moments begin at zero, or, of a spec that keeps state across rounds, where the seat's last shard ended. Same spec, work,
start, rows, threads and device class give the same bytes: rows come from raw Philox words, sums from fixed-order
kernels. Step i's rows depend on i alone, so a replay of one segment needs none before it.

A state's bytes and hash: `states`. On CUDA it asks torch for deterministic kernels and no TF32 (process-wide).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from cloudlinkup.training.architectures import parameter_count
from cloudlinkup.training.data import check_rows
from cloudlinkup.training.devices import deterministic
from cloudlinkup.training.gradients import make_gradient
from cloudlinkup.training.muon import direction, matrices
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.schedule import rate
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import parts_of, read_state, start_state
from cloudlinkup.training.threads import torch_threads
from cloudlinkup.wire.hashes import digest

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8


def _nothing() -> None:
    pass


class SegmentRunner:
    """One shard. `between_steps` is called after every step; raise there to stop.

    weights: flat fp32 published weights. features: fp32 (rows, inputs). targets: int64 (rows,) or fp32 (rows, outputs).
    For next_token: int32 (rows, length) both. frozen: the tensors that are not trained, where the spec names a file.
    Raises ValueError when any of them does not fit the spec.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        work: ShardWork,
        weights: np.ndarray,
        features: np.ndarray,
        targets: np.ndarray,
        *,
        device: str = "cpu",
        threads: int = 1,
        frozen: FrozenWeights | None = None,
        moments: bytes | None = None,
    ) -> None:
        count = parameter_count(spec)
        check_rows(features, targets, spec)
        if weights.shape != (count,) or weights.dtype != np.float32:
            raise ValueError(f"weights must be flat fp32 of {count}")
        if work.segment_steps < 1 or work.max_segments < 1 or threads < 1:
            raise ValueError("segment_steps, max_segments and threads must be at least 1")
        self.spec, self.work, self.threads = spec, work, threads
        self.between_steps: Callable[[], None] = _nothing
        deterministic(device)
        self._published = weights.copy()
        self._x = torch.from_numpy(np.array(features)).to(device)
        self._y = torch.from_numpy(np.array(targets)).to(device)
        # torch's own allocations are 64-byte aligned: alignment decides which kernel, so which rounding, is used
        self._w, self._m, self._v = (torch.zeros(count, device=device) for _ in range(3))
        self._w.copy_(torch.from_numpy(self._published))
        self._gradient, self._scratch = torch.zeros_like(self._w), torch.zeros_like(self._w)
        self._matrices = matrices(spec)
        self._network = make_gradient(spec, self._w, self._gradient, frozen)
        self._key = np.frombuffer(digest("epochs", work.seed)[:16], "<u8")
        self._epochs: dict[int, np.ndarray] = {}
        self._steps = work.steps_before
        self._segment = 0
        self._inside = bool(work.moments)  # until it has them
        if moments is not None:
            if hashlib.sha256(moments).digest() != work.moments:
                raise ValueError("the moments are not those of the order")
            self.load_state(start_state(weights, moments))

    # ------------------------------------------------------------ progress

    @property
    def segment(self) -> int:
        """Finished segments."""
        return self._segment

    @property
    def done(self) -> bool:
        return self._segment >= self.work.max_segments

    def run_segment(self) -> int:
        """Runs the next segment and returns its steps; 0, and nothing done, when the shard is finished.

        What `between_steps` or `step` raises goes through, and leaves the state inside the segment: `load_state` of
        where it began comes next. RuntimeError without it.
        """
        if self.done:
            return 0
        if self._inside:
            raise RuntimeError("the runner stands inside a segment, or lacks its moments: load a state first")
        first = self._segment * self.work.segment_steps
        self._inside = True
        with torch_threads(self.threads), torch.no_grad():
            for index in range(first, first + self.work.segment_steps):
                self.step(index)
                self.between_steps()
        self._segment, self._inside = self._segment + 1, False
        return self.work.segment_steps

    # ------------------------------------------------------------ one step

    def rows(self, index: int) -> np.ndarray:
        """Row numbers, int64 (batch,), of the shard's step `index`. Epochs follow each other without a short batch, and
        shards of the same `seed` without a gap."""
        rows, batch = len(self._x), self.spec.batch
        position, pieces, missing = self.work.rows_before + index * batch, [], batch
        while missing:
            epoch, offset = divmod(position, rows)
            piece = self._permutation(epoch)[offset : offset + missing]
            pieces.append(piece)
            position, missing = position + len(piece), missing - len(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _permutation(self, epoch: int) -> np.ndarray:
        found = self._epochs.get(epoch)
        if found is None:
            # the epoch is the counter's highest word, so epochs never overlap; raw words are stable across numpy
            words = np.random.Philox(key=self._key, counter=[0, 0, 0, epoch]).random_raw(len(self._x))
            found = np.argsort(words, kind="stable")
            if len(self._epochs) >= 4:
                self._epochs.clear()
            self._epochs[epoch] = found
        return found

    def step(self, index: int) -> None:
        """The shard's step `index` (0-based): gradient on its rows, one update."""
        rows = torch.from_numpy(self.rows(index)).to(self._x.device)
        self._network.compute(self._x.index_select(0, rows), self._y.index_select(0, rows))
        self._steps += 1
        self._adamw(rate(self.spec, self.work, index))

    def _adamw(self, lr: float) -> None:
        g, scratch = self._gradient, self._scratch
        self._m.lerp_(g, 1 - BETA1)
        self._v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        torch.sqrt(self._v, out=scratch)
        scratch.mul_((1 - BETA2**self._steps) ** -0.5).add_(EPSILON)
        if not self._matrices:
            self._w.addcdiv_(self._m, scratch, value=-lr / (1 - BETA1**self._steps))
            return
        torch.div(self._m, scratch, out=scratch).mul_(1 / (1 - BETA1**self._steps))
        for matrix in self._matrices:
            matrix.of(scratch).copy_(direction(matrix.of(g), matrix.of(self._m), BETA1))
        self._w.add_(scratch, alpha=-lr)

    # ------------------------------------------------------------ state and result

    def finite(self) -> bool:
        """Whether weights and moments are all numbers."""
        return all(bool(torch.isfinite(vector).all()) for vector in (self._w, self._m, self._v))

    def weights(self) -> np.ndarray:
        """A copy of the present flat weights."""
        return np.array(self._w.cpu().numpy())

    def update(self) -> np.ndarray:
        """Present weights minus published ones: what is quantised and uploaded."""
        return self.weights() - self._published

    def _parts(self) -> list[bytes | memoryview]:
        w, m, v = (np.ascontiguousarray(t.cpu().numpy(), "<f4").data.cast("B") for t in (self._w, self._m, self._v))
        return parts_of(w, m, v, self._steps)

    def state_bytes(self) -> bytes:
        """Weights, optimizer and steps, as the module's docstring lays them out."""
        return b"".join(self._parts())

    def state_hash(self) -> bytes:
        """`states.hash_state` of `state_bytes`, without building them."""
        hashed = hashlib.sha256()
        for part in self._parts():
            hashed.update(part)
        return hashed.digest()

    def load_state(self, data: bytes) -> None:
        """Goes to a state that stands between two segments. Raises ValueError for any other bytes."""
        w, m, v, steps = read_state(data, self._w.numel())
        segment, rest = divmod(steps - self.work.steps_before, self.work.segment_steps)
        if rest or not 0 <= segment <= self.work.max_segments:
            raise ValueError("the state does not stand between two segments of this shard")
        for tensor, vector in ((self._w, w), (self._m, m), (self._v, v)):
            tensor.copy_(torch.from_numpy(np.array(vector)))
        self._steps, self._segment, self._inside = steps, segment, False
