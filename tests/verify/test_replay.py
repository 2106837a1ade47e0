import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.states import hash_state
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import ReplayCosts, plan_openings, plan_replay, replay, second_replay, shard_leaves
from tests.verify.conftest import ORDER, WALLET


class SkipsOneStepInTen(SegmentRunner):
    def step(self, index):
        if index % 10 == 7:
            self._steps += 1  # and counts it
        else:
            super().step(index)


class HalfBatch(SegmentRunner):
    def rows(self, index):
        return super().rows(index)[: self.spec.batch // 2]


class NoWork(SegmentRunner):
    def step(self, index):
        self._steps += 1


class ReusesFirstSegment(SegmentRunner):
    def rows(self, index):
        return super().rows(index % 10)


class OtherRate(SegmentRunner):
    def _adamw(self, lr):
        super()._adamw(lr * 1.01)


class OneLazySegment(SegmentRunner):
    """Concentrated: only segment 4 is not worked."""

    def step(self, index):
        if index // 10 == 3:
            self._steps += 1
        else:
            super().step(index)


LAZY = [SkipsOneStepInTen, HalfBatch, NoWork, ReusesFirstSegment, OtherRate]


@pytest.mark.parametrize("drawn", [{1}, {4}, {6}, {2, 5, 6}, {1, 2, 3, 4, 5, 6}])
@pytest.mark.parametrize("opened", [False, True])
def test_honest_work_is_accepted(scene, honest, drawn, opened):
    before = {k: honest.states[k - 1] for k in drawn} if opened else {}
    result = replay(scene.case(honest, drawn, before_states=before))
    assert result.accepted and set(drawn) <= set(result.checked)
    assert result.replayed == (len(drawn) if opened else max(drawn))


@pytest.mark.parametrize("lazy", LAZY)
@pytest.mark.parametrize("segment", [2, 6])
def test_every_lazy_variant_is_caught_wherever_it_is_drawn(scene, lazy, segment):
    shard = scene.run(lazy)
    opened = {segment: shard.states[segment - 1]}
    for before in ({}, opened):
        # one that repeats its first segment did that one honestly
        result = replay(
            scene.case(shard, {segment}, before_states=before, after_states={segment: shard.states[segment]})
        )
        assert not result.accepted and result.miss is not None and result.miss.what == "leaf"
        assert not second_replay(scene.case(shard, {segment}, before_states=before), result).accepted
    assert result.miss.segment == segment
    assert result.miss.deviation is not None and result.miss.deviation > (0.005 if lazy is OtherRate else 0.02)


def test_a_concentrated_cheat_is_caught_only_where_it_is_drawn_or_passed(scene):
    shard = scene.run(OneLazySegment)
    opened = {k: shard.states[k - 1] for k in range(1, 7)}
    for segment in range(1, 7):
        assert replay(scene.case(shard, {segment}, before_states=opened)).accepted == (segment != 4)
    through = replay(scene.case(shard, {6}))
    assert through.miss is not None and through.miss.segment == 4  # the first wrong one is named


def test_a_reused_result_of_an_earlier_round_is_caught(scene, honest):
    later = replace(scene.work, seed=b"t" * 32, progress_from=300_000, progress_to=500_000)
    result = replay(replace(scene.case(honest, {3}), work=later))
    assert result.miss is not None and result.miss.what == "leaf"


@pytest.mark.parametrize("change", ["data", "targets", "weights", "wallet"])
def test_work_on_other_inputs_or_of_another_wallet_is_caught(scene, honest, change):
    case = scene.case(honest, {1})
    if change == "data":
        case = replace(case, features=scene.features[::-1])
    elif change == "targets":
        case = replace(case, targets=(scene.targets + 1) % 10)
    elif change == "weights":
        case = replace(case, published=scene.published * np.float32(1.001))
    else:
        case = replace(case, claim=replace(honest.claim(), wallet=bytes(32)))
    assert not replay(case).accepted


def test_the_upload_is_tied_to_the_last_segment(scene, honest):
    boosted = quantise(honest.runner.update() * np.float32(3))
    hashed = hashlib.sha256(boosted).digest()
    from cloudlinkup.verify.replay import shard_leaves

    hashes = [hash_state(state) for state in honest.states[1:]]
    leaves = shard_leaves(honest.claim().order_hash, honest.claim().wallet, 10, hashes, hashed)
    claim = replace(honest.claim(), upload_hash=hashed, leaves=tuple(leaves), root=merkle.root(leaves))
    case = scene.case(honest, {6}, claim=claim, upload=boosted)
    result = replay(case)
    assert result.miss is not None and result.miss.what == "upload"
    assert replay(replace(case, drawn=frozenset({5}))).accepted  # which is why the last segment is drawn so often
    # committed honestly, sent otherwise
    for upload in (boosted, None):
        result = replay(scene.case(honest, {6}, upload=upload))
        assert result.miss is not None and result.miss.what == "upload"


def test_an_opening_that_is_not_the_committed_state_is_caught(scene, honest):
    other = scene.run(HalfBatch)
    for opened in (honest.states[2], other.states[3], honest.states[3][:-1], b""):
        result = replay(scene.case(honest, {4}, before_states={4: opened}))
        assert result.miss is not None and result.miss.what == "before"
    result = replay(scene.case(honest, {1}, before_states={1: honest.states[1]}))
    assert result.miss is not None and result.miss.what == "before"


@pytest.mark.parametrize("change", ["order", "segments", "upload", "leaf", "short", "root"])
def test_leaves_that_are_not_the_commitment_are_refused_before_any_replay(scene, honest, change):
    claim = honest.claim()
    claim = {
        "order": replace(claim, order_hash=bytes(32)),
        "segments": replace(claim, segments=5),
        "upload": replace(claim, upload_hash=bytes(32)),
        "leaf": replace(claim, leaves=(*claim.leaves[:3], bytes(32), *claim.leaves[4:])),
        "short": replace(claim, leaves=(*claim.leaves[:-1], b"x")),
        "root": replace(claim, root=bytes(32)),
    }[change]
    result = replay(scene.case(honest, {1}, claim=claim))
    assert result.miss is not None and result.miss.what == "claim" and result.replayed == 0


def test_without_leaves_the_whole_shard_is_replayed(scene, honest):
    result = replay(scene.case(honest, {2}, claim=honest.claim(leaves=False)))
    assert result.accepted and result.replayed == 6
    lazy = scene.run(OneLazySegment)
    result = replay(scene.case(lazy, {2}, claim=lazy.claim(leaves=False)))
    assert result.miss is not None and result.miss.what == "root"


def test_other_threads_are_another_class_and_differ_little(scene, honest):
    result = replay(scene.case(honest, {6}, after_states={k: honest.states[k] for k in range(1, 7)}), threads=2)
    if result.miss is not None:  # small products run on one thread whatever is asked for: then the bits agree
        assert result.miss.deviation is not None and result.miss.deviation < 0.02


def test_nothing_drawn_checks_the_claim_alone(scene, honest):
    assert replay(scene.case(honest, set())).accepted
    with pytest.raises(ValueError):
        replay(scene.case(honest, {7}))


def test_it_travels_to_a_worker_and_thread_settings_do_not_mix(scene, honest):
    case = pickle.loads(pickle.dumps(scene.case(honest, {1, 6})))
    with ThreadPoolExecutor(4) as pool:
        ones = [pool.submit(replay, case, threads=1) for _ in range(6)]
        twos = [pool.submit(replay, case, threads=2) for _ in range(6)]
        assert all(one.result(timeout=60).accepted for one in ones)
        assert len({two.result(timeout=60).accepted for two in twos}) == 1


@given(st.sets(st.integers(1, 50), min_size=1, max_size=4), st.floats(0.001, 10), st.floats(0, 100))
def test_the_cheaper_start_is_planned(drawn, segment_seconds, opening_seconds):
    costs = ReplayCosts(segment_seconds, opening_seconds)
    opened = plan_openings(drawn, costs)
    assert 1 not in opened

    def price(choice):
        total, at = 0.0, 0
        for segment in sorted(drawn):
            total += opening_seconds + segment_seconds if segment in choice else (segment - at) * segment_seconds
            at = segment
        return total

    best = min(price({s for i, s in enumerate(sorted(drawn)) if mask >> i & 1}) for mask in range(2 ** len(drawn)))
    assert price(opened) == pytest.approx(best)


def test_a_plan_for_one_segment():
    costs = ReplayCosts(segment_seconds=1.0, opening_seconds=3.0)
    assert [plan_replay(k, costs) for k in (1, 4, 5)] == ["published", "published", "opening"]
    with pytest.raises(ValueError):
        plan_replay(3, costs, replayed=3)


def test_states_that_are_not_finite_pass_for_no_work(scene, honest):
    """Not-a-number stays not-a-number under every step, so whoever commits to it need not train at all."""
    count = len(scene.published)
    nothing = np.full(3 * count, np.nan, "<f4").tobytes()
    states = [honest.states[0]]
    for k in range(1, 7):
        states.append(honest.states[0][:16] + nothing + (k * scene.work.segment_steps).to_bytes(8, "little"))
    hashes = [hash_state(state) for state in states[1:]]
    upload = hashlib.sha256(honest.upload).digest()
    leaves = shard_leaves(ORDER, WALLET, scene.work.segment_steps, hashes, upload)
    forged = replace(honest, states=states, leaves=leaves)
    result = replay(scene.case(forged, {4}, before_states={4: states[3]}))
    assert result.miss is not None
    assert (result.miss.what, result.miss.detail) == ("before", "the state is not finite")
