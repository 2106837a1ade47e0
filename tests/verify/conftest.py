"""A real shard of digits, and what an honest contributor would have committed to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import hash_state
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import Case, Claim, shard_leaves

ORDER, WALLET = hashlib.sha256(b"order").digest(), bytes(range(32))


@dataclass
class Shard:
    """One contributor's run: `states[k]` after k segments, its leaves, root and upload."""

    runner: SegmentRunner
    states: list[bytes]
    leaves: list[bytes]
    upload: bytes

    def claim(self, leaves: bool = True) -> Claim:
        return Claim(
            order_hash=ORDER,
            wallet=WALLET,
            root=merkle.root(self.leaves),
            segments=len(self.states) - 1,
            upload_hash=hashlib.sha256(self.upload).digest(),
            leaves=tuple(self.leaves) if leaves else (),
        )


@dataclass
class Scene:
    spec: TrainingSpec
    work: ShardWork
    published: np.ndarray
    features: np.ndarray
    targets: np.ndarray

    def run(self, kind: Callable[..., SegmentRunner] = SegmentRunner, segments: int = 6, **kwargs) -> Shard:
        """The work of a contributor whose runner is of this kind."""
        runner = kind(self.spec, self.work, self.published, self.features, self.targets, **kwargs)
        states = [runner.state_bytes()]
        for _ in range(segments):
            runner.run_segment()
            states.append(runner.state_bytes())
        upload = quantise(runner.update())
        hashes = [hash_state(state) for state in states[1:]]
        leaves = shard_leaves(ORDER, WALLET, self.work.segment_steps, hashes, hashlib.sha256(upload).digest())
        return Shard(runner, states, leaves, upload)

    def case(self, shard: Shard, drawn: set[int], **changes) -> Case:
        facts = {
            "spec": self.spec,
            "work": self.work,
            "published": self.published,
            "features": self.features,
            "targets": self.targets,
            "claim": shard.claim(),
            "upload": shard.upload,
        }
        return Case(**{**facts, "drawn": frozenset(drawn), **changes})


@pytest.fixture(scope="session")
def scene() -> Scene:
    x, y = load_digits(return_X_y=True)
    model = {"kind": "mlp", "hidden": [32, 16], "activation": "relu"}
    spec = TrainingSpec("classification", model, 64, 10, 32, 0.01, 3)
    work = ShardWork(b"s" * 32, 10, 8, 100_000, 300_000)
    features, targets = (np.asarray(x)[:400] / 16).astype(np.float32), np.asarray(y)[:400].astype(np.int64)
    return Scene(spec, work, initial_weights(spec), features, targets)


@pytest.fixture(scope="session")
def honest(scene) -> Shard:
    return scene.run()
