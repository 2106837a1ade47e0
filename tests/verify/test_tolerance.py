import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.states import hash_state, read_state
from cloudlinkup.verify import merkle
from cloudlinkup.verify.calibration import (
    CHEAT_SHARE,
    FACTOR,
    Calibration,
    Measured,
    Setting,
    architecture_hash,
    measure,
    pilot,
    store,
    stored,
)
from cloudlinkup.verify.replay import replay, shard_leaves
from cloudlinkup.verify.tolerance import deviation, replay_within
from tests.verify.conftest import ORDER, WALLET
from tests.verify.test_replay import LAZY, HalfBatch, OneLazySegment

TOLERANCE = 0.002
EVERY = {1, 2, 3, 4, 5, 6}


class RoundsOtherwise(SegmentRunner):
    """As another device: the same sums in another order."""

    def rows(self, index):
        return super().rows(index)[::-1].copy()


def opened(scene, shard, drawn, **changes):
    states = {"before_states": {k: shard.states[k - 1] for k in drawn}}
    return scene.case(shard, drawn, **{**states, "after_states": {k: shard.states[k] for k in drawn}, **changes})


@pytest.fixture(scope="module")
def elsewhere(scene):
    return scene.run(RoundsOtherwise)


@pytest.fixture(scope="module")
def measured(scene):
    return measure(scene.spec, scene.features, scene.targets, contributor=Setting(), segments=20)


def test_honest_work_of_another_class_is_accepted_within_the_tolerance_only(scene, elsewhere):
    assert not replay(scene.case(elsewhere, EVERY)).accepted  # bit for bit it is not
    result = replay_within(opened(scene, elsewhere, EVERY), TOLERANCE)
    assert result.accepted and result.replayed == 6
    refused = replay_within(opened(scene, elsewhere, EVERY), 1e-12)
    assert refused.miss is not None and 0 < (refused.miss.deviation or 0) < TOLERANCE


def test_honest_work_with_two_threads_is_accepted_by_one_thread(scene, measured):
    two = scene.run(segments=3, threads=2)
    assert replay_within(opened(scene, two, {1, 2, 3}), measured.tolerance).accepted


@pytest.mark.parametrize("lazy", [kind for kind in LAZY if kind.__name__ != "OtherRate"])
@pytest.mark.parametrize("segment", [2, 6])
def test_every_lazy_variant_is_caught_within_the_tolerance_too(scene, measured, lazy, segment):
    shard = scene.run(lazy)
    for allowed in (TOLERANCE, measured.tolerance):
        result = replay_within(opened(scene, shard, {segment}), allowed)
        assert result.miss is not None and result.miss.what == "leaf" and result.miss.segment == segment
        assert result.miss.deviation is None or result.miss.deviation > 5 * allowed


def test_a_concentrated_cheat_is_caught_where_it_is_drawn(scene):
    shard = scene.run(OneLazySegment)
    assert [replay_within(opened(scene, shard, {k}), TOLERANCE).accepted for k in range(1, 7)] == [
        k != 4 for k in range(1, 7)
    ]


def test_states_that_were_not_committed_are_caught(scene, elsewhere):
    other = scene.run(HalfBatch)
    for which in ("before_states", "after_states"):
        result = replay_within(opened(scene, elsewhere, {3}, **{which: {3: other.states[3]}}), TOLERANCE)
        assert result.miss is not None and result.miss.what == "before"
    for missing in ("before_states", "after_states"):
        with pytest.raises(ValueError):
            replay_within(opened(scene, elsewhere, {3}, **{missing: {}}), TOLERANCE)


def test_forged_moments_are_as_far_off_as_forged_weights(scene, honest):
    before, after, count = honest.states[2], honest.states[3], len(scene.published)
    assert deviation(before, after, after, count) == 0
    for vector in range(3):
        raw = bytearray(after)
        place = 16 + 4 * vector * count
        values = np.frombuffer(after, "<f4", count, place)
        raw[place : place + 4 * count] = (values * np.float32(1.5) + np.float32(1e-3)).astype("<f4").tobytes()
        assert deviation(before, after, bytes(raw), count) > 0.1
        raw[place : place + 4 * count] = np.full(count, np.nan, "<f4").tobytes()
        assert deviation(before, after, bytes(raw), count) == float("inf")
    assert deviation(before, after, honest.states[4], count) == float("inf")  # of another segment
    with pytest.raises(ValueError):
        deviation(before, after, after[:-1], count)


def test_the_upload_is_their_end_state_exactly(scene, elsewhere):
    assert replay_within(opened(scene, elsewhere, {6}), TOLERANCE).accepted
    theirs = read_state(elsewhere.states[6], len(scene.published))[0]
    assert elsewhere.upload == quantise(theirs - scene.published)
    boosted = quantise((theirs - scene.published) * np.float32(3))
    hashes = [hash_state(state) for state in elsewhere.states[1:]]
    leaves = shard_leaves(ORDER, WALLET, 10, hashes, hashlib.sha256(boosted).digest())
    claim = replace(
        elsewhere.claim(),
        upload_hash=hashlib.sha256(boosted).digest(),
        leaves=tuple(leaves),
        root=merkle.root(leaves),
    )
    for changes in ({"claim": claim, "upload": boosted}, {"upload": boosted}, {"upload": None}):
        result = replay_within(opened(scene, elsewhere, {6}, **changes), TOLERANCE)
        assert result.miss is not None and result.miss.what == "upload"


def test_a_calibration_tells_honest_from_cheating(scene, measured):
    assert measured.segments == 20
    assert measured.holds and measured.tolerance <= CHEAT_SHARE * measured.cheat
    assert measured.tolerance >= FACTOR * max(measured.worst, measured.reordered)
    assert pilot(scene.spec, scene.features, scene.targets) <= measured.tolerance / 10


def test_what_amplifies_rounding_has_no_tolerance():
    assert not Measured(segments=100, worst=0.01, median=0.001, reordered=0.0, cheat=0.1).holds


def calibration(scene, measured, **changes):
    made = Calibration("a|1", "a|2", architecture_hash(scene.spec), "fp32", measured, measured.tolerance)
    return replace(made, **changes)


def test_it_is_found_for_exactly_its_pair_architecture_and_mode(scene, measured, tmp_path):
    assert stored(tmp_path / "none", auditor="a|1", spec=scene.spec) == {}
    made = calibration(scene, measured)
    store(tmp_path, made)
    assert stored(tmp_path, auditor="a|1", spec=replace(scene.spec, lr=0.02, seed=9)) == {"a|2": made}
    assert stored(tmp_path, auditor="a|2", spec=scene.spec) == {}
    for other in ({"batch": 64}, {"model": {**scene.spec.model, "hidden": [32, 17]}}, {"outputs": 9}):
        assert stored(tmp_path, auditor="a|1", spec=replace(scene.spec, **other)) == {}
    assert store(tmp_path, replace(made, tolerance=made.tolerance / 2)) and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_is_none_counts_for_nothing(scene, measured, tmp_path):
    path = store(tmp_path, calibration(scene, measured))
    document = json.loads(path.read_bytes())
    for changed in (
        {"tolerance": 0.5},
        {"tolerance": -1.0},
        {"version": 2},
        {"measured": {**document["measured"], "worst": 0.1}},
        {"measured": None},
        {"more": 1},
    ):
        path.write_text(json.dumps({**document, **changed}))
        assert stored(tmp_path, auditor="a|1", spec=scene.spec) == {}
    path.write_bytes(b"\xff{")
    assert stored(tmp_path, auditor="a|1", spec=scene.spec) == {}
    with pytest.raises(ValueError):
        store(tmp_path, calibration(scene, measured, tolerance=0.5))
