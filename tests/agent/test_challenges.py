"""After the commitment: the states that a contributor opens and keeps, the paths it asks for, and how a job ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from solders.pubkey import Pubkey

from cloudlinkup.errors import ContributorRefused, ProtocolError
from cloudlinkup.training.states import hash_state
from cloudlinkup.verify import merkle
from cloudlinkup.wire.calls import FinishCall, TrainReply
from cloudlinkup.wire.hashes import segment_leaf
from cloudlinkup.wire.messages import Order, Signed
from tests.agent.chain_server import ChainServer
from tests.agent.flow import JOB_ID, PAY, SEAT, STEPS, Desk
from tests.agent.test_handler import commit_of, honest, refused


async def test_openings_prove_their_states(desk: Desk) -> None:
    signed, _, reply = await desk.order()
    states, leaves, _ = honest(desk.flow, signed)
    order, commit = Order.model_validate_json(signed.text), commit_of(desk.flow, reply)
    opened = await desk.challenge(desk.flow.challenge(signed, commit, open=(1, 3)))
    assert [o.at for o in opened.openings] == [0, 2]
    assert list(opened.leaves) == leaves
    for opening in opened.openings:
        assert await desk.flow.open(opening.state, order, "opening", opening.at) == states[opening.at]
        steps = [(step.left, step.hash) for step in opening.path]
        assert merkle.check_at(leaves[opening.at], opening.at, len(leaves), steps, bytes.fromhex(commit.root))
    leaf = segment_leaf(bytes(Pubkey.from_string(desk.flow.wallet)), 2, STEPS, hash_state(states[2]))
    assert leaf == leaves[2]
    after = await desk.challenge(desk.flow.challenge(signed, commit, open=(3,), after=True))
    assert [o.at for o in after.openings] == [2, 3]
    with pytest.raises(ContributorRefused, match="no_state"):
        await desk.challenge(desk.flow.challenge(signed, commit, open=(5,)))
    with pytest.raises(ContributorRefused, match="unknown_order"):
        await desk.challenge(desk.flow.challenge(desk.flow.order(round=9), commit))


async def test_the_last_rounds_states_are_kept_for_an_audit_beside_this_one(desk: Desk) -> None:
    orders = []
    for number in (1, 2, 3):
        signed, _, reply = await desk.order(round=number)
        await desk.challenge(desk.flow.challenge(signed, commit_of(desk.flow, reply), more=True))
        assert desk.handler.awaits_audit
        desk.flow.chain.job.seats[SEAT].awarded = 4 * number * STEPS * PAY
        orders.append((signed, reply))
    assert [len(states_of(desk, signed)) > 0 for signed, _ in orders] == [False, True, True]
    desk.flow.chain.job.round = 2
    shown = await desk.challenge(desk.flow.challenge(orders[1][0], commit_of(desk.flow, orders[1][1]), open=(2,)))
    assert [opening.at for opening in shown.openings] == [1]


def states_of(desk: Desk, signed: Signed) -> list[Path]:
    return list((desk.jobs / JOB_ID / "orders" / signed.hash.hex()).glob("state-*"))


async def test_a_missing_inclusion_path_ends_the_credit(desk: Desk, chain: ChainServer) -> None:
    flow = desk.flow
    signed, _, reply = await desk.order()
    await desk.order(attempt=1)  # round 1 is not committed on chain: another attempt at it is no new round
    chain.job.round, chain.job.commit_root = 1, b"\x01" * 32
    assert "no inclusion path" in await refused(desk, "inclusion", flow.order(round=2))
    with pytest.raises(ContributorRefused, match="inclusion"):  # a path to a root that the chain does not show
        call = flow.challenge(signed, commit_of(flow, reply))
        chain.job.commit_root = b"\x02" * 32
        await desk.challenge(call)


async def test_a_root_that_was_left_out_ends_the_work(desk: Desk) -> None:
    flow = desk.flow
    signed, _, reply = await desk.order()
    call = flow.challenge(signed, commit_of(flow, reply).model_copy(update={"root": "00" * 32}))
    with pytest.raises(ContributorRefused, match="inclusion"):
        await desk.challenge(call)
    assert "not in the round" in await refused(desk, "inclusion", flow.order(round=2))


async def test_one_round_of_credit_and_no_more(desk: Desk, chain: ChainServer) -> None:
    flow = desk.flow
    for round_ in (1, 2):
        signed, _, reply = await desk.order(round=round_)
        await desk.challenge(flow.challenge(signed, commit_of(flow, reply)))
    assert "2 rounds" in await refused(desk, "credit", flow.order(round=3))
    chain.job.seats[SEAT].awarded = 4 * STEPS * PAY  # the first of the two is awarded
    await desk.order(round=3)


async def test_finishing_deletes_the_rows_and_keeps_the_evidence(desk: Desk) -> None:
    await desk.order()
    secret = desk.flow.partition[-64:]
    assert any(secret in path.read_bytes() for path in desk.jobs.rglob("*") if path.is_file())
    for path in desk.jobs.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    await desk.handler.finish(FinishCall(job_id=JOB_ID, reason="rejected", evidence=b'{"why": 1}'))
    assert not list(desk.jobs.iterdir())
    assert (desk.identity.folder / "evidence" / f"{JOB_ID}.json").read_bytes() == b'{"why": 1}'
    with pytest.raises(ProtocolError):
        await desk.handler.finish(FinishCall(job_id="../" * 4, reason="done"))


@pytest.mark.parametrize("awarded", [0, 4 * STEPS * PAY])
async def test_what_is_not_awarded_can_be_appealed_after_the_end(desk: Desk, chain: ChainServer, awarded: int) -> None:
    """A client that says "done" without paying does not take the proof along; rows and states go in any case."""
    signed, _, reply = await desk.order()
    chain.job.seats[SEAT].awarded = awarded
    await desk.handler.finish(FinishCall(job_id=JOB_ID, reason="done"))
    assert not list(desk.jobs.iterdir())
    kept = desk.identity.folder / "evidence" / JOB_ID / signed.hash.hex()
    assert kept.exists() == (awarded == 0)
    if not awarded:
        assert Signed.from_bytes((kept / "order.json").read_bytes()) == signed
        assert TrainReply.unpack((kept / "reply").read_bytes(), 10**6) == reply
        leaves = (kept / "leaves").read_bytes()
        root = merkle.root([leaves[i : i + 32] for i in range(0, len(leaves), 32)])
        assert commit_of(desk.flow, reply).root == root.hex()
        assert {path.name for path in kept.iterdir()} == {"order.json", "ack.json", "leaves", "reply"}


async def test_expired_jobs_are_deleted_at_the_start(desk: Desk, chain: ChainServer) -> None:
    chain.job.deadline = int(time.time()) + 100
    await desk.order()
    record = next(desk.jobs.glob("*/seat-*.json"))
    record.write_text(record.read_text().replace(str(chain.job.deadline), str(int(time.time()) - 200_000)))
    desk.handler.clean()
    assert not list(desk.jobs.iterdir())
