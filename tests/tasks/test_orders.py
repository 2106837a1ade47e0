"""Whatever one contributor answers, the round goes on with the others, and nothing of it is paid or aggregated."""

from __future__ import annotations

import pytest

from cloudlinkup.wire.calls import BlobRef, CallRequest, CallResult, TrainReply
from cloudlinkup.wire.messages import Commit, Signed, sign
from tasks.gate import suspicious
from tasks.tree import committed, round_leaves
from tests.tasks.conftest import Rig, Tamper


def answer(change) -> Tamper:
    def tamper(request: CallRequest, result: CallResult) -> CallResult:
        if request.kind != "train" or not result.body:
            return result
        reply = TrainReply.unpack(result.body, len(result.body))
        return result.model_copy(update={"body": change(reply)})

    return tamper


def other_blob(reply: TrainReply) -> bytes:
    assert reply.upload is not None
    missing = BlobRef(sha256="ab" * 32, size=reply.upload.size, sealed_key=reply.upload.sealed_key)
    return TrainReply(commit=reply.commit, upload=missing).pack()


def huge_blob(reply: TrainReply) -> bytes:
    assert reply.upload is not None
    return TrainReply(commit=reply.commit, upload=reply.upload.model_copy(update={"size": 2**50})).pack()


def foreign_key(reply: TrainReply) -> bytes:
    assert reply.upload is not None
    return TrainReply(commit=reply.commit, upload=reply.upload.model_copy(update={"sealed_key": b"x" * 80})).pack()


def no_upload(reply: TrainReply) -> bytes:
    return TrainReply(commit=reply.commit, upload=None).pack()


def strange_signature(reply: TrainReply) -> bytes:
    text = reply.commit.text.replace("commit 1", "ümlaut 1")
    return TrainReply(commit=Signed(**{**reply.commit.model_dump(), "text": text}), upload=reply.upload).pack()


BROKEN = [other_blob, huge_blob, foreign_key, no_upload, strange_signature, lambda _: b"\x93\x01", lambda _: b""]


@pytest.mark.parametrize("change", BROKEN)
async def test_a_broken_answer_is_an_outcome(rig: Rig, change):
    hostile, honest = rig.run.state.seats
    rig.cluster.tamper[hostile.agent] = answer(change)
    entries = await rig.train()
    assert [entry.outcome for entry in entries] == ["refused", "committed"]
    assert entries[0].commit is None
    assert entries[0].segments == 0
    assert rig.run.round is not None
    assert committed(rig.run.round) == [entries[1]]
    assert len(round_leaves(rig.run.round)) == 2  # the secret's and the honest one's
    assert suspicious(rig.run, rig.run.round, committed(rig.run.round)) == {}
    assert (await rig.audit(entries[1])).accepted
    assert honest.seat == entries[1].seat


async def test_another_update_than_the_signed_one_is_refused(rig: Rig):
    seat = rig.run.state.seats[0]
    signer = rig.cluster.by_agent[seat.agent].handler.identity.agent

    def another(reply: TrainReply) -> bytes:
        commit = Commit.model_validate_json(reply.commit.text)
        return TrainReply(
            commit=sign(signer, commit.model_copy(update={"upload": "0" * 64})), upload=reply.upload
        ).pack()

    rig.cluster.tamper[seat.agent] = answer(another)
    entries = await rig.train()
    assert (entries[0].outcome, entries[0].commit) == ("refused", None)
    assert "not the one that was signed" in entries[0].reason


async def test_more_segments_than_ordered_are_refused(rig: Rig):
    seat = rig.run.state.seats[0]
    signer = rig.cluster.by_agent[seat.agent].handler.identity.agent

    def more(reply: TrainReply) -> bytes:
        commit = Commit.model_validate_json(reply.commit.text)
        return TrainReply(commit=sign(signer, commit.model_copy(update={"segments": 4})), upload=reply.upload).pack()

    rig.cluster.tamper[seat.agent] = answer(more)
    entries = await rig.train(segments=3)
    assert entries[0].outcome == "refused"
