"""Rounds with kept optimizer state in the real round loop: orders, audits, losses, a killed flow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from cloudlinkup.training.moments import moments_size
from cloudlinkup.training.outer import Published
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.evidence import recheck
from cloudlinkup.verify.rates import rate
from cloudlinkup.wire.calls import CallRequest, CallResult, ChallengeReply, TrainReply
from cloudlinkup.wire.hashes import challenge_seed
from cloudlinkup.wire.messages import Commit, sign
from tasks import audit
from tasks.audit import kept_moments
from tasks.context import Run
from tasks.orders import read_order
from tasks.rebalance import _advance, _learn, _tally
from tasks.state import Entry
from tests.tasks.conftest import STEP, Rig

SEGMENTS = 3


@pytest.fixture
def kept(rig: Rig) -> Iterator[Rig]:
    rig.run.prepared = replace(rig.run.data, spec=replace(rig.run.data.spec, rounds="kept"))
    rig.run.state.total_steps = 300
    yield rig


async def judged(rig: Rig, number: int, *, whole: bool = False) -> list[Entry]:
    """One round, audited and counted, all of it as the flow does."""
    run = rig.run
    entries = await rig.train(segments=SEGMENTS, number=number)
    for entry in entries:
        if entry.outcome == "committed":
            found = await rig.audit(entry, whole=whole)
            entry.outcome, entry.reason = ("accepted", "") if found.accepted else (found.verdict, found.reason)
            entry.bytes_up += found.bytes_up
    assert run.round is not None
    _advance(run, run.round)
    for entry in entries:
        _learn(run, entry, 0.0)
        _tally(run, entry)
    for seat in rig.chain.job.seats:
        seat.awarded += SEGMENTS * STEP * run.state.price
    run.state.round, run.round = number, None
    return entries


async def test_each_seat_goes_on_from_its_own_state(kept: Rig) -> None:
    for number in (1, 2, 3, 4):
        entries = await judged(kept, number)
        assert [entry.outcome for entry in entries] == ["accepted", "accepted"]
        orders = [read_order(kept.run, entry) for entry in entries]
        assert [order.steps_before for order in orders] == [(number - 1) * SEGMENTS * STEP] * 2
        rows = (number - 1) * SEGMENTS * STEP * kept.run.data.spec.batch
        assert [order.rows_before for order in orders] == [rows] * 2, "each goes on in its rows"
        assert len({order.seed for order in orders}) == 2
        assert all((order.moments is None) == (number == 1) for order in orders)
        assert len({seat.moments for seat in kept.run.state.seats}) == 2
        # two contributors: the last segment is always replayed, so the next start is here without an opening
        assert all(path.stat().st_size == moments_size(kept.run.weights.weights.size) for path in moments(kept))
    assert len(moments(kept)) == 4
    assert kept.run.state.generation == 4


def moments(rig: Rig) -> list:
    return sorted((rig.run.folder / "moments").glob("*.bin"))


async def test_the_start_is_opened_where_it_is_not_here(kept: Rig) -> None:
    size = moments_size(kept.run.weights.weights.size)
    await judged(kept, 1)
    cheap = await judged(kept, 2)
    shutil.rmtree(kept.run.folder / "moments")
    opened = await judged(kept, 3)
    assert [entry.outcome for entry in opened] == ["accepted", "accepted"]
    for before, after in zip(cheap, opened, strict=True):
        assert size < after.bytes_up - before.bytes_up < size + 1_900


async def test_other_openings_than_the_orders_are_a_failed_round_and_then_it_begins_afresh(kept: Rig) -> None:
    """It is not proof of a cheat: no signature covers an opening."""
    await judged(kept, 1)
    shutil.rmtree(kept.run.folder / "moments")
    seat = kept.run.state.seats[0]

    def swapped(request: CallRequest, result: CallResult) -> CallResult:
        if request.kind != "challenge":
            return result
        reply = ChallengeReply.unpack(result.body, len(result.body))
        return result.model_copy(update={"body": reply.model_copy(update={"openings": ()}).pack()})

    kept.cluster.tamper[seat.agent] = swapped
    one, two = await judged(kept, 2)
    assert (one.outcome, two.outcome) == ("timeout", "accepted") and "are missing" in one.reason
    assert (seat.moments, seat.moments_steps) == ("", 0)
    del kept.cluster.tamper[seat.agent]
    one, two = await judged(kept, 3)
    assert read_order(kept.run, one).moments is None and one.outcome == "accepted"
    assert read_order(kept.run, two).steps_before == 2 * SEGMENTS * STEP


class OtherStart(SegmentRunner):
    """From round 2 on it begins with first moments of its choice; all else is trained as ordered."""

    def step(self, index: int) -> None:
        if index == 0 and self.work.steps_before:
            self._m.copy_(torch.full_like(self._m, 0.3))
        super().step(index)


async def test_forged_moments_at_the_start_are_caught_and_proved(kept: Rig) -> None:
    agent = kept.add("forger", runner_factory=OtherStart)
    await judged(kept, 1)
    entries = await kept.train(segments=SEGMENTS, number=2)
    entry = next(entry for entry in entries if entry.agent == agent)
    verdict = await kept.audit(entry)
    assert verdict.verdict == "rejected" and "segment 1: leaf" in verdict.reason
    folder = kept.run.folder / "evidence" / f"2-{entry.seat}"
    assert (folder / "moments.bin").stat().st_size == moments_size(kept.run.weights.weights.size)
    assert recheck(folder).confirmed
    # a flow that shows other moments than its order names proves nothing
    (folder / "moments.bin").write_bytes(bytes(moments_size(kept.run.weights.weights.size)))
    found = recheck(folder)
    assert not found.confirmed and any("moments.bin" in problem for problem in found.problems)
    (folder / "moments.bin").unlink()
    assert not recheck(folder).confirmed
    entry.outcome = "rejected"
    _learn(kept.run, entry, 0.0)
    _tally(kept.run, entry)
    assert kept.run.state.seat(entry.seat).moments == ""


async def test_a_contributor_that_lost_its_state_gets_a_fresh_order(kept: Rig) -> None:
    await judged(kept, 1)
    seat = kept.run.state.seats[1]
    for path in (kept.folder / "two").rglob("moments-*"):
        path.unlink()
    one, two = await judged(kept, 2)
    assert (one.outcome, two.outcome) == ("accepted", "accepted")
    assert (read_order(kept.run, two).moments, two.attempt) == (None, 2)
    assert read_order(kept.run, one).moments is not None
    assert seat.moments_steps == SEGMENTS * STEP
    _, two = await judged(kept, 3)
    assert read_order(kept.run, two).steps_before == SEGMENTS * STEP


async def test_a_flow_that_was_killed_goes_on_with_the_same_states(kept: Rig) -> None:
    for number in (1, 2):
        await judged(kept, number)
    run = kept.run
    run.save()
    again = Run(run.job, run.request_id, "another run", run.settings, run.ledger, run.cluster)
    again.prepared, again.genesis = run.prepared, run.genesis
    kept_file = again.folder / f"weights-{again.state.generation}.bin"
    again.published = Published.from_bytes(kept_file.read_bytes())
    np.testing.assert_array_equal(again.weights.weights, run.weights.weights)
    kept.run = again
    entries = await judged(kept, 3)
    assert [entry.outcome for entry in entries] == ["accepted", "accepted"]
    assert [read_order(again, entry).steps_before for entry in entries] == [2 * SEGMENTS * STEP] * 2


async def test_an_audit_that_is_done_again_finds_the_start_of_its_own_round(kept: Rig) -> None:
    """A flow killed while it judged has stored the round's end already."""
    await judged(kept, 1)
    entries = await kept.train(segments=SEGMENTS, number=2)
    for _ in range(2):
        for entry in entries:
            assert kept_moments(kept.run, read_order(kept.run, entry)) is not None
            assert (await kept.audit(entry)).accepted


async def test_momentum_begins_after_the_start_and_is_stored(kept: Rig, monkeypatch) -> None:
    run = kept.run
    run.state.total_steps = 100  # a round is 30 steps: the second begins at 30%
    await judged(kept, 1)
    assert run.weights.velocity is None
    await judged(kept, 2)
    assert run.weights.velocity is not None
    stored = Published.from_bytes((run.folder / "weights-2.bin").read_bytes())
    np.testing.assert_array_equal(stored.velocity, run.weights.velocity)


async def test_without_leaves_the_whole_shard_is_replayed_from_the_moments(kept: Rig, monkeypatch) -> None:
    await judged(kept, 1)
    shutil.rmtree(kept.run.folder / "moments")
    monkeypatch.setattr(audit, "plan_openings", lambda drawn, costs: frozenset(drawn))
    seat = kept.run.state.seats[0]

    def hides(request: CallRequest, result: CallResult) -> CallResult:
        if request.kind != "challenge":
            return result
        reply = ChallengeReply.unpack(result.body, len(result.body))
        return result.model_copy(update={"body": reply.model_copy(update={"leaves": ()}).pack()})

    kept.cluster.tamper[seat.agent] = hides
    one, two = await judged(kept, 2)
    assert (one.outcome, two.outcome) == ("accepted", "accepted"), (one.reason, two.reason)


async def test_a_promise_of_other_moments_is_found_where_the_replay_goes_on(kept: Rig) -> None:
    """Of four contributors not every last segment is drawn: going on to the end is cheaper than an opening, and finds
    what the draw did not."""
    kept.add("three")
    kept.add("four")
    await judged(kept, 1)
    seat, run = kept.run.state.seats[0], kept.run
    signer = kept.cluster.by_agent[seat.agent].handler.identity.agent

    def promises_others(request: CallRequest, result: CallResult) -> CallResult:
        if request.kind != "train":
            return result
        reply = TrainReply.unpack(result.body, len(result.body))
        commit = Commit.model_validate_json(reply.commit.text).model_copy(update={"end_moments": "ab" * 32})
        signed = TrainReply(commit=sign(signer, commit), upload=reply.upload)
        return result.model_copy(update={"body": signed.pack()})

    kept.cluster.tamper[seat.agent] = promises_others
    entry = (await kept.train(segments=SEGMENTS, number=2))[0]
    assert run.round is not None
    secret, root = bytes.fromhex(run.round.secret), bytes.fromhex(entry.root)
    at = rate(audit.risk_of(run, run.round, entry, 0.0))
    blocks = (bytes([i]) * 32 for i in range(256))
    told = {"newcomer": at.newcomer, "small_job": at.small_job, "extra": at.extra}
    if not at.extra:  # it worked no faster than it should, on this machine at this moment
        block = next(b for b in blocks if SEGMENTS not in draw(challenge_seed(secret, b, root), SEGMENTS, **told))
    else:
        block = next(blocks)
    verdict = await kept.audit(entry, block_hash=block)
    assert verdict.verdict == "rejected" and f"segment {SEGMENTS}: end" in verdict.reason
    assert recheck(run.folder / "evidence" / "2-0").confirmed
