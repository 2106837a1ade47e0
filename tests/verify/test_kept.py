"""Optimizer state kept across rounds: the same bits on replay, and every way to begin with another state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cloudlinkup.training.moments import moments_size, pack_moments, unpack_moments
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.training.states import hash_state, moments_of, read_state, start_state
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import NOT_FINITE, Case, Claim, ReplayCosts, goes_on, plan_openings, replay, shard_leaves
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
    end = hashlib.sha256(moments_of(states[-1])).digest()
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
        *_, steps = unpack_moments(result.moments, len(scene.published))
        assert steps == (number + 1) * SEGMENTS * STEPS
        assert replay(one.case(scene, {2})).moments is None  # the end was not reached
        opened = one.case(scene, {3}, before_states={3: one.states[2]}, moments=None)
        assert replay(opened).accepted  # no start is needed
        within = one.case(scene, {1, 3}, before_states={1: one.states[0], 3: one.states[2]})
        result = replay_within(replace(within, after_states={1: one.states[1], 3: one.states[3]}), 1e-9)
        assert result.accepted and result.moments == moments_of(one.states[-1])


def test_it_is_one_adamw_over_all_rounds(scene, rounds):
    """Against torch's own optimizer, whose state goes on where the weights are taken up, rounded as it travels."""
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
            optimizer.param_groups[0]["lr"] = rate(scene.spec, one.work, index)
            optimizer.step()
        kept = optimizer.state[weights]
        packed = pack_moments(kept["exp_avg"].numpy(), kept["exp_avg_sq"].numpy(), int(kept["step"]))
        for name, vector in zip(("exp_avg", "exp_avg_sq"), unpack_moments(packed, len(weights))[:2], strict=True):
            kept[name].copy_(torch.from_numpy(vector))
    ours = np.frombuffer(rounds[-1].states[-1], "<f4", len(scene.published), 16)
    theirs = weights.detach().numpy()
    assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs - scene.published)


def test_a_start_is_the_published_weights_and_what_the_moments_say(scene, rounds):
    count = len(scene.published)
    for one in rounds:
        assert start_state(one.published, one.moments) == one.states[0]
        if one.moments is not None:
            assert len(one.moments) == moments_size(count) < 1.7 * count
            weights, first, second, steps = read_state(one.states[0], count)
            m, v, before = unpack_moments(one.moments, count)
            assert (weights == one.published).all() and (first == m).all() and (second == v).all() and steps == before


def packed(state: bytes, count: int, steps: int) -> bytes:
    _, first, second, _ = read_state(state, count)
    return pack_moments(first, second, steps)


@pytest.mark.parametrize("forged", ["fresh", "another seat's", "last but one", "huge", "older steps"])
def test_whoever_begins_with_other_moments_is_caught_in_the_first_segment(scene, rounds, forged):
    order = rounds[3]
    assert order.moments is not None
    other = one_round(scene, 9, order.published, rounds[1].moments, SEGMENTS * STEPS)
    count = len(scene.published)
    before = order.work.steps_before
    zero = np.zeros(count, np.float32)
    real = {
        "fresh": pack_moments(zero, zero, before),
        "another seat's": packed(other.states[-1], count, before),
        "last but one": packed(rounds[2].states[-2], count, before),
        "huge": pack_moments(zero + np.float32(1e6), zero + np.float32(1e12), before),
        "older steps": packed(rounds[2].states[-1], count, 10**6),
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


def test_a_commit_that_lies_about_its_last_moments_is_caught_where_the_end_is_reached(scene, rounds):
    """As for the upload: else the next order would name moments that nobody ended with."""
    one, count = rounds[2], len(scene.published)
    lie = replace(one, end=hashlib.sha256(packed(one.states[1], count, 45)).digest())
    for drawn in ({3}, {1, 3}):
        result = replay(lie.case(scene, drawn))
        assert result.miss is not None and (result.miss.what, result.miss.segment) == ("end", 3)
    assert replay(lie.case(scene, {1})).accepted  # the end was not reached
    case = lie.case(scene, {1})
    hidden = replace(case, claim=replace(case.claim, leaves=()))
    result = replay(hidden)  # without leaves all of it is replayed
    assert result.miss is not None and result.miss.what == "end"
    opened = replace(lie.case(scene, {3}), before_states={3: one.states[2]}, after_states={3: one.states[3]})
    assert replay_within(opened, 0.5).miss.what == "end"  # type: ignore[union-attr]


@pytest.mark.parametrize("problem", ["no moments", "other steps"])
def test_promised_moments_that_are_none_are_a_miss_of_the_next_round(scene, rounds, problem):
    """Their hash stood in the contributor's own commit, and it acknowledged the order that names them."""
    one, count = rounds[1], len(scene.published)
    nothing = b"x" * moments_size(count) if problem == "no moments" else packed(one.states[0], count, 3)
    work = replace(one.work, moments=hashlib.sha256(nothing).digest())
    case = replace(one, work=work, moments=nothing).case(scene, {1, 2})
    within = replace(case, before_states={1: b"", 2: b""}, after_states={1: b"", 2: b""})
    for miss in (replay(case).miss, replay_within(within, 0.5).miss):
        assert miss is not None and (miss.what, miss.segment, miss.replayed) == ("before", 1, "")


def test_states_that_are_no_numbers_pass_for_no_work(scene, rounds):
    """Every state after one is not a number either, and commits to steps that nobody has to train."""
    one, count = rounds[1], len(scene.published)
    header, steps = one.states[1][:16], one.states[1][-8:]
    nothing = header + np.full(3 * count, np.nan, "<f4").tobytes() + steps
    states = [one.states[0], nothing, nothing[:-8] + one.states[2][-8:], nothing[:-8] + one.states[3][-8:]]
    case = replace(one, states=states).case(scene, {2}, before_states={2: nothing})
    miss = replay(case).miss
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
    opened = {1: rounds[2].states[0], 2: rounds[2].states[1]}
    assert rounds[2].case(scene, {1, 2}, moments=None, before_states=opened).lacks_start  # held against nothing
    assert not rounds[2].case(scene, {2}, moments=None, before_states=opened).lacks_start


def test_the_start_is_opened_where_that_is_less_than_a_state():
    costs = ReplayCosts(segment_seconds=1.0, opening_seconds=3.0, start_seconds=2.0)
    assert plan_openings({1}, costs) == frozenset()
    assert plan_openings({2}, costs) == frozenset()  # through segment 1: 1 + 2 s
    assert plan_openings({3}, costs) == frozenset({3})
    assert plan_openings({1, 4}, costs) == frozenset()  # the start is paid for already
    assert plan_openings({3}, ReplayCosts(1.0, 3.0)) == frozenset()


def test_a_replay_goes_on_where_that_is_less_than_the_next_opening(scene, rounds):
    """Then it checks what it passes, the upload and the promise too, and has what the next round begins with."""
    costs = ReplayCosts(segment_seconds=1.0, opening_seconds=9.0, moments_seconds=2.0)
    assert goes_on({3}, 5, costs) and goes_on({1, 4}, 5, costs) and not goes_on({2}, 5, costs)
    assert goes_on({5}, 5, ReplayCosts(1.0, 9.0)) and not goes_on({4}, 5, ReplayCosts(1.0, 9.0))
    one = rounds[2]
    result = replay(one.case(scene, {1}, to_end=True))
    assert result.accepted and result.checked == (1, 2, 3) and result.moments == moments_of(one.states[-1])
    lie = replay(replace(one, end=bytes(32)).case(scene, {1}, to_end=True))
    assert lie.miss is not None and lie.miss.what == "end"
    assert replay(replace(one, end=bytes(32)).case(scene, {1})).accepted  # not reached
    other = replay(one.case(scene, {1}, to_end=True, upload=b"another"))
    assert other.miss is not None and other.miss.what == "upload"
    opened = one.case(scene, {2}, to_end=True, before_states={2: one.states[1]}, moments=None)
    assert replay(opened).checked == (2, 3)
