"""What a hostile contributor does between its commit and the verdict."""

from __future__ import annotations

import pytest
import torch

from cloudlinkup.agent.hardware import describe
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.verify.calibration import Calibration, Setting, architecture_hash, measure, store
from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.evidence import recheck
from cloudlinkup.verify.rates import rate
from cloudlinkup.wire.calls import BlobRef, CallRequest, CallResult, ChallengeReply, Opening
from cloudlinkup.wire.hashes import challenge_seed
from models.correction import Correction
from tasks import audit
from tasks.calibrated import replay_classes
from tasks.segment import FACTS, stored_facts
from tests.tasks.conftest import STEP, Rig


class ForgesOneState(SegmentRunner):
    """Jumps to weights of its choice at the start of segment 2; all else is trained as ordered."""

    def step(self, index: int) -> None:
        if index == STEP:
            self._w.copy_(torch.full_like(self._w, 20.0))
        super().step(index)


def opened(rig: Rig, change) -> None:
    def tamper(request: CallRequest, result: CallResult) -> CallResult:
        if request.kind != "challenge":
            return result
        reply = change(ChallengeReply.unpack(result.body, len(result.body)))
        return result.model_copy(update={"body": reply if isinstance(reply, bytes) else reply.pack()})

    rig.cluster.tamper[rig.run.state.seats[0].agent] = tamper


def everything_opened(monkeypatch) -> None:
    monkeypatch.setattr(audit, "plan_openings", lambda drawn, costs: frozenset(drawn))


def never_stored(reply: ChallengeReply) -> ChallengeReply:
    ref = BlobRef(sha256="ab" * 32, size=10, sealed_key=reply.openings[0].state.sealed_key)
    first = Opening(at=reply.openings[0].at, state=ref, path=reply.openings[0].path)
    return reply.model_copy(update={"openings": (first, *reply.openings[1:])})


def the_same_many_times(reply: ChallengeReply) -> ChallengeReply:
    return reply.model_copy(update={"openings": (reply.openings[0],) * 16})


def what_nobody_asked_for(reply: ChallengeReply) -> ChallengeReply:
    return reply.model_copy(update={"openings": (reply.openings[0].model_copy(update={"at": 9_999}),)})


@pytest.mark.parametrize(
    "change",
    [
        never_stored,
        the_same_many_times,
        what_nobody_asked_for,
        lambda _: b"",
        lambda _: b"\xdd\xff\xff\xff\xff",
        lambda reply: reply.model_copy(update={"openings": ()}),
    ],
)
async def test_openings_that_are_none_are_a_failed_round(rig: Rig, monkeypatch, change):
    everything_opened(monkeypatch)
    entries = await rig.train()
    opened(rig, change)
    verdict = await rig.audit(entries[0])
    assert (verdict.accepted, verdict.verdict) == (False, "timeout")
    assert (await rig.audit(entries[1])).accepted


async def test_without_leaves_the_whole_shard_is_replayed(rig: Rig):
    entries = await rig.train()
    opened(rig, lambda reply: reply.model_copy(update={"leaves": ()}))
    verdict = await rig.audit(entries[0])
    assert verdict.accepted
    assert verdict.replayed == entries[0].segments


async def test_another_tree_than_the_signed_one_is_rejected(rig: Rig):
    entries = await rig.train()
    opened(rig, lambda reply: reply.model_copy(update={"leaves": (*reply.leaves[:-1], bytes(32))}))
    verdict = await rig.audit(entries[0])
    assert verdict.verdict == "rejected"
    assert verdict.evidence is not None


class SkipsOneStepInTen(SegmentRunner):
    def step(self, index: int) -> None:
        if index % 10 == 3:
            self._steps += 1
        else:
            super().step(index)


async def test_two_threads_are_audited_by_one_within_a_calibration(rig: Rig):
    """Honest work passes, one step in ten left out does not, and a third person finds the same."""
    own, other = describe("cpu", 1), describe("cpu", 2)
    honest = rig.add("honest", hardware=other, threads=2)
    lazy = rig.add("lazy", hardware=other, threads=2, runner_factory=SkipsOneStepInTen)
    run = rig.run
    facts = stored_facts(run)
    profile = facts.profile.model_copy(update={"device_class": own.device_class})
    run.write(FACTS, facts.model_copy(update={"profile": profile}).model_dump_json().encode())
    data, classes = run.data, (own.device_class, other.device_class)
    assert replay_classes(run.job, data, run.settings.home, own.device_class) == (own.device_class,)
    found = measure(data.spec, data.features, data.targets, contributor=Setting(), segments=10)
    made = Calibration(*classes, architecture_hash(data.spec), "fp32", found, found.tolerance)
    store(run.settings.home.root / "calibrations", made)
    assert set(replay_classes(run.job, data, run.settings.home, own.device_class)) == set(classes)
    tight = Calibration(*classes, architecture_hash(data.spec), "fp32", found, 1e-12)
    store(run.settings.home.root / "calibrations", tight)
    assert replay_classes(run.job, data, run.settings.home, own.device_class) == (own.device_class,), (
        "its pilot deviates more"
    )
    store(run.settings.home.root / "calibrations", made)

    entries = {entry.agent: entry for entry in await rig.train(segments=4)}
    verdict = await rig.audit(entries[honest])
    assert verdict.accepted and verdict.replayed == len(verdict.drawn)
    verdict = await rig.audit(entries[lazy], whole=True)
    assert verdict.verdict == "rejected" and "off by" in verdict.reason
    assert recheck(run.folder / "evidence" / f"1-{entries[lazy].seat}").confirmed
    rig.cluster.tamper[honest] = lambda request, result: (
        result.model_copy(
            update={"body": ChallengeReply.unpack(result.body, 2**20).model_copy(update={"leaves": ()}).pack()}
        )
        if request.kind == "challenge"
        else result
    )
    assert (await rig.audit(entries[honest])).verdict == "timeout"  # across classes nothing is judged without leaves


async def test_an_odd_update_is_replayed_whole(rig: Rig, monkeypatch):
    """A draw that misses the forged state accepts what it leads to; where a gate is raised, nothing is left to luck."""
    everything_opened(monkeypatch)
    forger = rig.add("forger", runner_factory=ForgesOneState)
    entries = await rig.train(segments=4)
    entry = next(entry for entry in entries if entry.agent == forger)
    rig.run.state.seats[entry.seat].rounds_done = 1
    assert rig.run.round is not None
    secret, root = bytes.fromhex(rig.run.round.secret), bytes.fromhex(entry.root)
    at = rate(audit.risk_of(rig.run, rig.run.round, entry, 0.0))
    lucky = next(
        block
        for block in (bytes([i]) * 32 for i in range(256))
        if 2 not in draw(challenge_seed(secret, block, root), 4, newcomer=False, small_job=True, extra=at.extra)
    )
    assert (await rig.audit(entry, block_hash=lucky)).accepted
    found = audit_gate(rig)
    assert list(found) == [entry.seat]
    verdict = await rig.audit(entry, whole=True, block_hash=lucky)
    assert verdict.verdict == "rejected"
    assert "segment 2" in verdict.reason
    assert recheck(rig.run.folder / "evidence" / f"1-{entry.seat}").confirmed


async def test_what_is_known_of_a_contributor_raises_its_rate(rig: Rig):
    entries = await rig.train(segments=6)
    rig.run.state.terms = rig.run.state.terms.model_copy(update={"budget": 10**9})  # type: ignore[union-attr]
    for seat in rig.run.state.seats:
        seat.rounds_done = 1
    one, two = entries
    low = Correction(**rig.run.state.seats[0].belief).prediction.low
    paces = [low * entry.segments * STEP / entry.seconds for entry in entries]
    assert [entry.pace for entry in entries] == pytest.approx(paces)
    one.pace = two.pace = 0.9  # as predicted
    known = await rig.audit(one)
    assert known.accepted and not known.risk and 1 <= len(known.drawn) <= 2
    assert known.seconds > 0
    two.pace *= 10
    hasty = await rig.audit(two)
    assert hasty.accepted and len(hasty.drawn) >= 3 and "faster" in hasty.risk[0]
    rig.run.state.seats[0].unopened = 3
    missed = await rig.audit(one)
    assert len(missed.drawn) >= 4 and known.drawn <= missed.drawn and "misses" in missed.risk[0]


async def test_honest_work_passes_a_whole_replay(rig: Rig):
    entries = await rig.train()
    verdict = await rig.audit(entries[0], whole=True)
    assert verdict.accepted
    assert verdict.replayed == entries[0].segments


def audit_gate(rig: Rig) -> dict[int, str]:
    from tasks.gate import suspicious
    from tasks.tree import committed

    assert rig.run.round is not None
    return suspicious(rig.run, rig.run.round, committed(rig.run.round))
