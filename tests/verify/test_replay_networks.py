"""Every kind of network replays bit for bit, from the published weights and from an opened state."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.verify.replay import replay
from tests.training.specs import SPECS, rows_for
from tests.verify.conftest import Scene

WORK = ShardWork(b"n" * 32, 3, 3, 100_000, 300_000)


def scene_of(name: str, **changes) -> Scene:
    spec = replace(SPECS[name], **changes)
    return Scene(spec, WORK, initial_weights(spec), *rows_for(spec, 50))


@pytest.mark.parametrize(
    ("changes", "threads"),
    [({}, 1), ({}, 2), ({"precision": "bf16"}, 1), ({"micro_batch": 3}, 1)],
    ids=["fp32", "fp32 on 2 threads", "bf16", "pieces"],
)
@pytest.mark.parametrize("name", SPECS)
def test_it_replays_bit_for_bit(name: str, changes: dict, threads: int):
    scene = scene_of(name, **changes)
    shard = scene.run(segments=3, threads=threads)
    assert replay(scene.case(shard, {1, 2, 3}), threads=threads).accepted
    opened = scene.case(shard, {3}, before_states={3: shard.states[2]})
    found = replay(opened, threads=threads)
    assert found.accepted and found.replayed == 1


@pytest.mark.parametrize("name", SPECS)
def test_the_smallest_change_is_missed_by_nobody(name: str):
    scene = scene_of(name)
    honest = scene.run(segments=3)
    other = Scene(scene.spec, scene.work, scene.published.copy(), scene.features, scene.targets)
    largest = int(np.abs(scene.published).argmax())
    other.published[largest] = np.nextafter(other.published[largest], np.float32(9))
    assert hashlib.sha256(other.run(segments=1).states[1]).digest() != hashlib.sha256(honest.states[1]).digest()
    assert not replay(other.case(honest, {1})).accepted


@pytest.mark.parametrize("name", ["cnn", "learned"])
def test_the_pieces_of_a_batch_are_part_of_the_spec(name: str):
    """Rounding differs, so whoever splits a batch on its own account is found out."""
    scene, split = scene_of(name), scene_of(name, micro_batch=2)
    assert not replay(scene.case(split.run(segments=2), {1, 2})).accepted
