"""Optimizer state kept across rounds: the same bits on replay, and every way to begin with another state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.training.states import (
    fresh_moments,
    hash_state,
    moments_of,
    moments_size,
    moments_steps,
    part_hashes,
    start_hash,
    start_state,
    state_hash,
)
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import NOT_FINITE, Case, Claim, ReplayCosts, plan_openings, replay, shard_leaves
from cloudlinkup.verify.tolerance import replay_within
from tests.verify.conftest import ORDER, WALLET, Scene

SEGMENTS, STEPS = 3, 5


@dataclass
class Round:
    """One round's shard: what it began with, its states, and what was committed."""

    work: ShardWork
    published: np.ndarray
    moments: bytes | None
    states: list[bytes]
    upload: bytes
    end: bytes

    def case(self, scene: Scene, drawn: set[int], **changes) -> Case:
        hashes = [hash_state(state) for state in self.states[1:]]
        uploaded = hashlib.sha256(self.upload).digest()
        leaves = shard_leaves(ORDER, WALLET, STEPS, hashes, uploaded)
        claim = Claim(ORDER, WALLET, merkle.root(leaves), len(hashes), uploaded, tuple(leaves), self.end)
        facts = {"published": self.published, "upload": self.upload, "moments": self.moments}
        case = Case(
            scene.spec, self.work, features=scene.features, targets=scene.targets, claim=claim,
            drawn=frozenset(drawn), **facts,
        )  # fmt: skip
        return replace(case, **changes)


def one_round(
    scene: Scene, number: int, published: np.ndarray, moments: bytes | None, before: int, begins: bytes | None = None
) -> Round:
    """`begins`: what the contributor really begins with, where that is not what the order names."""
    named = b"" if moments is None else hashlib.sha256(moments).digest()
    work = ShardWork(bytes([number]) * 32, STEPS, SEGMENTS, 1_000 * number, 1_000 * number + 900, named, before)
    real = work if begins is None else replace(work, moments=hashlib.sha256(begins).digest())
    runner = SegmentRunner(
        scene.spec, real, published, scene.features, scene.targets, moments=moments if begins is None else begins
    )
    states = [runner.state_bytes()]
    while runner.run_segment():
        states.append(runner.state_bytes())
    end = state_hash(len(published), *part_hashes(states[-1]))
    return Round(work, published, moments, states, quantise(runner.update()), end)


@pytest.fixture(scope="module")
def rounds(scene) -> list[Round]:
    """Four rounds of one seat, each from the weights that the last one ended with and its own last moments."""
    found, published, moments = [], scene.published, None
    for number in range(4):
        found.append(one_round(scene, number, published, moments, number * SEGMENTS * STEPS))
        published = np.frombuffer(found[-1].states[-1], "<f4", len(published), 16).astype(np.float32)
        moments = moments_of(found[-1].states[-1])
    return found


def test_four_rounds_replay_bit_for_bit(scene, rounds):
    for number, one in enumerate(rounds):
        for drawn in ({1}, {3}, {1, 2, 3}):
            result = replay(one.case(scene, drawn))
            assert result.accepted, (number, result.miss)
        assert result.moments is not None and result.moments == moments_of(one.states[-1])
        assert moments_steps(result.moments) == (number + 1) * SEGMENTS * STEPS
        assert replay(one.case(scene, {2})).moments is None  # the end was not reached
        opened = one.case(scene, {3}, before_states={3: one.states[2]}, moments=None)
        assert replay(opened).accepted  # no start is needed
        within = one.case(scene, {1, 3}, before_states={1: one.states[0], 3: one.states[2]})
        result = replay_within(replace(within, after_states={1: one.states[1], 3: one.states[3]}), 1e-9)
        assert result.accepted and result.moments == moments_of(one.states[-1])


def test_it_is_one_adamw_over_all_rounds(scene, rounds):
    """Against torch's own optimizer, whose state goes on where the weights are taken up."""
    weights = torch.tensor(scene.published, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], betas=(0.9, 0.99), eps=1e-8, weight_decay=0)
    from cloudlinkup.training.gradients import make_gradient
    from cloudlinkup.training.schedule import rate

    gradient = torch.zeros_like(weights)
    for one in rounds:
        runner = SegmentRunner(scene.spec, one.work, one.published, scene.features, scene.targets, moments=one.moments)
        network = make_gradient(scene.spec, weights.detach(), gradient)
        for index in range(SEGMENTS * STEPS):
            rows = runner.rows(index)
            network.compute(torch.from_numpy(scene.features[rows]), torch.from_numpy(scene.targets[rows]))
            weights.grad = gradient.clone()
            optimizer.param_groups[0]["lr"] = rate(scene.spec.lr, one.work, index)
            optimizer.step()
    ours = np.frombuffer(rounds[-1].states[-1], "<f4", len(scene.published), 16)
    theirs = weights.detach().numpy()
    assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs - scene.published)


def test_a_start_is_known_by_two_hashes(scene, rounds):
    count = len(scene.published)
    for one in rounds:
        moments = one.moments or fresh_moments(count)
        state = start_state(one.published, moments)
        assert len(moments) == moments_size(count) == 8 * count + 8
        assert state == one.states[0] and hash_state(state) == start_hash(one.published, one.work)
    assert hash_state(b"") != hash_state(bytes(24)) and hash_state(rounds[0].states[0][:-1]) != rounds[0].end


@pytest.mark.parametrize("forged", ["fresh", "another seat's", "last but one", "huge", "older steps"])
def test_whoever_begins_with_other_moments_is_caught_in_the_first_segment(scene, rounds, forged):
    order = rounds[3]
    assert order.moments is not None
    other = one_round(scene, 9, order.published, rounds[1].moments, SEGMENTS * STEPS)
    count = len(scene.published)
    real = {
        "fresh": bytes(8 * count) + order.moments[-8:],
        "another seat's": moments_of(other.states[-1])[:-8] + order.moments[-8:],
        "last but one": moments_of(rounds[2].states[-2])[:-8] + order.moments[-8:],
        "huge": np.full(2 * count, 1e6, "<f4").tobytes() + order.moments[-8:],
        "older steps": order.moments[:-8] + (10**6).to_bytes(8, "little"),
    }[forged]
    if forged == "older steps":
        with pytest.raises(ValueError, match="between two segments"):
            one_round(scene, 3, order.published, order.moments, order.work.steps_before, begins=real)
        return
    cheat = one_round(scene, 3, order.published, order.moments, order.work.steps_before, begins=real)
    lie = replace(cheat, work=order.work, moments=order.moments)
    for drawn in ({1}, {2}, {3}):  # replayed from the start, all that is passed is checked
        result = replay(lie.case(scene, drawn))
        assert result.miss is not None and (result.miss.what, result.miss.segment) == ("leaf", 1)
    shown = lie.case(scene, {1}, before_states={1: cheat.states[0]})  # and shown, it is not the order's
    assert replay(shown).miss is not None and replay(shown).miss.what == "before"  # type: ignore[union-attr]
    within = replace(shown, after_states={1: cheat.states[1]})
    assert replay_within(within, 0.5).miss.what == "before"  # type: ignore[union-attr]


def test_a_commit_that_lies_about_its_last_state_is_proved_wrong_by_its_signature(scene, rounds):
    """Else the next order would name moments that nobody ended with."""
    one, count = rounds[2], len(scene.published)
    weights, _ = part_hashes(one.states[-1])
    swapped = state_hash(count, weights, hashlib.sha256(moments_of(one.states[1])).digest())
    lie = replace(one, end=swapped)
    for drawn in ({1}, {2}, {3}):
        result = replay(lie.case(scene, drawn))
        assert result.miss is not None and result.miss.what == "end" and result.replayed == 0
    case = lie.case(scene, {1})
    hidden = replace(case, claim=replace(case.claim, leaves=()))
    result = replay(hidden)  # without leaves too: all of it is replayed
    assert result.miss is not None and result.miss.what == "end"
    opened = replace(case, before_states={1: one.states[0]}, after_states={1: one.states[1]})
    assert replay_within(opened, 0.5).miss.what == "end"  # type: ignore[union-attr]


def test_moments_that_are_no_numbers_pass_for_no_work(scene, rounds):
    """Every state after them is not a number either, and commits to steps that nobody has to train."""
    count, steps = len(scene.published), rounds[1].work.steps_before
    nothing = np.full(2 * count, np.nan, "<f4").tobytes() + steps.to_bytes(8, "little")
    work = replace(rounds[1].work, moments=hashlib.sha256(nothing).digest())
    runner = SegmentRunner(scene.spec, work, rounds[1].published, scene.features, scene.targets, moments=nothing)
    states = [runner.state_bytes()]
    while runner.run_segment():
        states.append(runner.state_bytes())
    one = replace(rounds[1], work=work, moments=nothing, states=states, end=hash_state(states[-1]))
    for drawn in ({1}, {2}):
        miss = replay(one.case(scene, drawn)).miss
        assert miss is not None and (miss.what, miss.detail, miss.replayed) == ("before", NOT_FINITE, "")


def test_without_the_moments_nothing_is_judged(scene, rounds):
    case = rounds[2].case(scene, {2}, moments=None)
    assert case.lacks_start
    with pytest.raises(ValueError, match="moments"):
        replay(case)
    runner = SegmentRunner(scene.spec, rounds[2].work, rounds[2].published, scene.features, scene.targets)
    with pytest.raises(RuntimeError, match="moments"):
        runner.run_segment()
    for wrong in (b"", rounds[1].moments, rounds[2].moments[:-1]):  # type: ignore[index]
        with pytest.raises(ValueError, match="moments"):
            replay(replace(case, moments=wrong))
    assert not rounds[0].case(scene, {2}).lacks_start  # a fresh start is known


def test_the_start_is_opened_where_that_is_less_than_a_state():
    costs = ReplayCosts(segment_seconds=1.0, opening_seconds=3.0, start_seconds=2.0)
    assert plan_openings({1}, costs) == frozenset()
    assert plan_openings({2}, costs) == frozenset()  # through segment 1: 1 + 2 s
    assert plan_openings({3}, costs) == frozenset({3})
    assert plan_openings({1, 4}, costs) == frozenset()  # the start is paid for already
    assert plan_openings({3}, ReplayCosts(1.0, 3.0)) == frozenset()
