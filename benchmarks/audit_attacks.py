"""The cheats that `benchmarks/verification.py` holds the audit against: real shards, trained and committed to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import hash_state, read_state
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import Case, Claim, shard_leaves
from cloudlinkup.wire.hashes import digest

SEGMENTS, STEPS, ROUNDS = 10, 10, 20
COST = 0.8  # of a round's pay: what the whole work costs its contributor
LAZY_SEGMENT = 4  # 1-based: the one that a concentrated cheat leaves out
OPENING_LATENCY, OPENING_RATE = 0.25, 12_500_000  # as tasks/audit.py assumes them
ORDER, WALLET = digest("order"), bytes(range(32))


@dataclass(frozen=True)
class Honest:
    """What an order asks for."""

    spec: TrainingSpec
    work: ShardWork
    published: np.ndarray
    features: np.ndarray
    targets: np.ndarray

    def runner(self, kind: type[SegmentRunner] = SegmentRunner, **changes: Any) -> SegmentRunner:
        given = replace(self, **{k: v for k, v in changes.items() if k != "threads"})
        threads = changes.get("threads", 1)
        return kind(given.spec, given.work, given.published, given.features, given.targets, threads=threads)


@dataclass(frozen=True)
class Shard:
    """What a contributor committed to: `states[k]` after k segments."""

    order: Honest
    states: list[bytes]
    upload: bytes

    def case(self, drawn: frozenset[int], *, opened: bool, after: bool = False) -> Case:
        order = self.order
        hashes = [hash_state(state) for state in self.states[1:]]
        uploaded = hashlib.sha256(self.upload).digest()
        leaves = tuple(shard_leaves(ORDER, WALLET, order.work.segment_steps, hashes, uploaded))
        return Case(
            order.spec,
            order.work,
            order.published,
            order.features,
            order.targets,
            Claim(ORDER, WALLET, merkle.root(leaves), len(hashes), uploaded, leaves),
            drawn,
            self.upload,
            {k: self.states[k - 1] for k in drawn} if opened else {},
            {k: self.states[k] for k in drawn} if after else {},
        )


# ---------------------------------------------------------------- attacks


class SkipsSpread(SegmentRunner):
    def step(self, index: int) -> None:
        if index % 10 == 7:
            self._steps += 1  # and counts it
        else:
            super().step(index)


class SkipsConcentrated(SegmentRunner):
    def step(self, index: int) -> None:
        if index // STEPS == LAZY_SEGMENT - 1:
            self._steps += 1
        else:
            super().step(index)


class HalfBatch(SegmentRunner):
    def rows(self, index: int) -> np.ndarray:
        return super().rows(index)[: self.spec.batch // 2]


class FewerSteps(SegmentRunner):
    """Trains six of ten segments and claims ten."""

    def step(self, index: int) -> None:
        if index // STEPS >= 6:
            self._steps += 1
        else:
            super().step(index)


class OtherRate(SegmentRunner):
    def _adamw(self, lr: float) -> None:
        super()._adamw(1.1 * lr)


class ForgesState(SegmentRunner):
    """Jumps to weights of its choice before segment 4, and trains everything after it as ordered."""

    def step(self, index: int) -> None:
        if index == (LAZY_SEGMENT - 1) * STEPS:
            self._w.mul_(-1.0)
        super().step(index)


def trained(runner: SegmentRunner, order: Honest, change: Callable[[np.ndarray], np.ndarray] | None = None) -> Shard:
    """`change` of the weights in the last committed state: what the upload then is the true difference of."""
    states = [order.runner().state_bytes()]
    while runner.run_segment():
        states.append(runner.state_bytes())
    weights = runner.weights()
    if change is not None:
        weights = change(weights).astype(np.float32)
        states[-1] = states[-1][:16] + weights.tobytes() + states[-1][16 + 4 * len(weights) :]
    return Shard(order, states, quantise(np.asarray(weights - order.published, np.float32)))


def _poisoned(order: Honest, seed: int) -> Shard:
    shard = trained(order.runner(), order)
    end = read_state(shard.states[-1], len(order.published))[0]
    return replace(shard, upload=quantise(np.asarray(-3 * (end - order.published), np.float32)))


def _noise(order: Honest, seed: int) -> Shard:
    def change(weights: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(len(weights))
        return weights + noise * np.linalg.norm(weights - order.published) / np.linalg.norm(noise)

    return trained(order.runner(), order, change)


def _stale(order: Honest, seed: int) -> Shard:
    old = order.published - np.random.default_rng(seed).normal(0, 0.01, len(order.published)).astype(np.float32)
    return trained(order.runner(published=old), order)


def _copied(order: Honest, seed: int) -> Shard:
    """Another seat's work of the same round, under its own name: leaves bind the wallet, so it hashes them anew."""
    return trained(order.runner(work=replace(order.work, seed=digest("other seat", seed))), order)


def _wrong_data(order: Honest, seed: int) -> Shard:
    shuffled = np.random.default_rng(seed).permutation(order.features.ravel()).reshape(order.features.shape)
    return trained(order.runner(features=shuffled), order)


def _plain(kind: type[SegmentRunner]) -> Callable[[Honest, int], Shard]:
    return lambda order, _: trained(order.runner(kind), order)


# name, how, work saved as a share of the shard's
ATTACKS: tuple[tuple[str, Callable[[Honest, int], Shard], float], ...] = (
    ("skip 1 step in 10, spread", _plain(SkipsSpread), 0.1),
    ("skip 1 segment in 10, concentrated", _plain(SkipsConcentrated), 0.1),
    ("half batch", _plain(HalfBatch), 0.5),
    ("wrong data", _wrong_data, 0.0),
    ("stale weights", _stale, 0.0),
    ("6 segments claimed as 10", _plain(FewerSteps), 0.4),
    ("copied result", _copied, 1.0),
    ("learning rate x 1.1", _plain(OtherRate), 0.0),
    ("one forged state, honest after it", _plain(ForgesState), 0.0),
    ("poisoned upload after honest work", _poisoned, 0.0),
    ("noise in the end state", _noise, 0.0),
    ("sign flip of the end state", lambda o, _: trained(o.runner(), o, lambda w: 2 * o.published - w), 0.0),
)
