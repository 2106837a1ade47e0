"""Trains one accepted shard, in a worker thread: segment by segment, a state and a leaf after each.

It ends when all segments are done, when the time box is over (the segment under way is then dropped) or would be
before one more is done, or when it is told to. A shard that was cut off by a crash goes on after the last state it had
written.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cloudlinkup.agent.duty import Duty
from cloudlinkup.agent.files import OrderFolder
from cloudlinkup.agent.states import StateWriter, Stored
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import hash_state
from cloudlinkup.wire.hashes import order_leaf, segment_leaf, upload_leaf
from cloudlinkup.wire.messages import Order

RunnerFactory = Callable[..., SegmentRunner]


class _Enough(Exception):
    """Leaves the runner between two steps."""


@dataclass
class Stop:
    """How others end a shard: `finish` keeps what is done, `abandon` throws it away. Safe from any thread."""

    event: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False

    def finish(self) -> None:
        self.event.set()

    def abandon(self) -> None:
        self.abandoned = True
        self.event.set()


@dataclass(frozen=True)
class Work:
    """Everything a shard is trained from, checked."""

    order: Order
    order_hash: bytes
    wallet: bytes
    spec: TrainingSpec
    weights: np.ndarray
    features: np.ndarray
    targets: np.ndarray
    time_box: float
    frozen: FrozenWeights | None = None  # what is not trained, where the spec names it
    moments: bytes | None = None  # the optimizer state that the order names


@dataclass(frozen=True)
class Trained:
    """`update`: the quantised update in plain bytes, empty when no segment was finished. `seconds` of wall time."""

    leaves: tuple[bytes, ...]
    segments: int
    update: bytes
    seconds: float


def train_shard(
    work: Work,
    folder: OrderFolder,
    *,
    factory: RunnerFactory,
    device: str,
    threads: int,
    duty: Duty,
    stop: Stop,
    on_segment: Callable[[int], None],
) -> Trained:
    """Blocks until the shard is over. `on_segment` is called in this thread with the segments done so far."""
    order = work.order
    runner = factory(
        work.spec,
        ShardWork.of(order),
        work.weights,
        work.features,
        work.targets,
        device=device,
        threads=threads,
        frozen=work.frozen,
        moments=work.moments,
    )
    begun = time.monotonic()
    leaves = [order_leaf(work.order_hash), *_resume(runner, work, folder)]
    kept, steps_seen, state = runner.segment, 0, runner.state_bytes()

    def between_steps() -> None:
        nonlocal steps_seen
        steps_seen += 1
        duty.pause(stop.event)
        if steps_seen % order.segment_steps == 0:
            return  # the segment is whole: it counts, and the loop below decides
        if stop.event.is_set() or time.monotonic() - begun > work.time_box:
            raise _Enough

    def note(stored: Stored | None) -> None:
        if stored is not None:
            duty.also(stored.seconds)
            if stored.at:
                leaves.append(segment_leaf(work.wallet, stored.at, order.segment_steps, stored.hash))

    runner.between_steps = between_steps
    duty.start()
    took = 0.0  # by the last segment: one that the time box would cut off is not begun, and no time is lost to it
    with StateWriter(folder) as writer:
        if not kept:
            writer.put(0, state)
        while not runner.done and not stop.event.is_set() and time.monotonic() - begun + took <= work.time_box:
            started = time.monotonic()
            try:
                runner.run_segment()
            except _Enough:
                runner.load_state(state)  # stopped inside a segment: go back to where it began
                break
            note(writer.last())
            kept, state = runner.segment, b""  # let go of the last one first: memory used again costs no fresh pages
            state = runner.state_bytes()
            writer.put(kept, state)
            on_segment(kept)
            took = time.monotonic() - started
        update = quantise(runner.update()) if kept else b""
        note(writer.last())
    leaves.append(upload_leaf(hashlib.sha256(update).digest(), kept))
    return Trained(tuple(leaves), kept, update, time.monotonic() - begun)


def _resume(runner: SegmentRunner, work: Work, folder: OrderFolder) -> list[bytes]:
    """Loads the last of the states that a crash left behind; the leaves up to it."""
    leaves: list[bytes] = []
    last: bytes | None = None
    if not folder.same_boot:
        return leaves
    while len(leaves) < work.order.max_segments and (state := folder.state(len(leaves) + 1)) is not None:
        last = state
        leaves.append(segment_leaf(work.wallet, len(leaves) + 1, work.order.segment_steps, hash_state(state)))
    if last is not None:
        try:
            runner.load_state(last)
        except ValueError:
            return []  # not ours, or damaged: begin anew
    return leaves
