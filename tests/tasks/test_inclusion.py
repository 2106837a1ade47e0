"""A challenge that got lost on the way does not end an honest contributor's part in the job."""

from __future__ import annotations

import pytest

from cloudlinkup.errors import ShardTimeout
from cloudlinkup.verify import merkle
from tasks.audit import audit_shard
from tasks.inclusion import hand_over_paths
from tasks.state import Entry
from tasks.tree import round_leaves
from tasks.verify import _settle
from tests.tasks.conftest import STEP, Rig


async def lost_challenge(rig: Rig) -> list[Entry]:
    """Round 1 as the flow has it: both seats under one root, and the first one's challenge does not arrive."""
    entries = await rig.train()
    round_ = rig.run.round
    assert round_ is not None
    leaves = round_leaves(round_)
    root = merkle.root(leaves)
    round_.root = root.hex()
    rig.chain.job.round, rig.chain.job.commit_root = 1, root
    rig.cluster.fails[entries[0].agent] = ShardTimeout("the line is down")
    audits = [await audit_shard(rig.run, round_, entry, leaves, bytes(32), whole=False) for entry in entries]
    del rig.cluster.fails[entries[0].agent]
    for entry, found in zip(entries, audits, strict=True):
        _settle(entry, found)
    rig.run.save_round()
    rig.chain.job.seats[entries[1].seat].awarded += 3 * STEP * rig.run.state.price
    rig.run.state.round, rig.run.round = 1, None
    return entries


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment is opened, so that no verdict is possible without the contributor."""
    monkeypatch.setattr("tasks.audit.plan_openings", lambda drawn, costs: frozenset(drawn))


@pytest.mark.usefixtures("opened")
async def test_the_path_is_sent_again_and_the_next_order_taken(rig: Rig) -> None:
    first, second = await lost_challenge(rig)
    assert (first.outcome, second.outcome) == ("timeout", "accepted")
    entries = await rig.train(number=2)
    assert [entry.outcome for entry in entries] == ["committed", "committed"]
    assert [entry.attempt for entry in entries] == [2, 1]  # the first order was refused for want of the path
    sent = [e for e in rig.run.store.events(rig.run.request_id) if e.kind == "path_sent"]
    assert len(sent) == 1
    assert await rig.audit(entries[0])


async def test_so_is_that_of_a_round_that_was_judged_without_its_contributor(rig: Rig) -> None:
    first, second = await lost_challenge(rig)
    assert (first.outcome, second.outcome) == ("accepted", "accepted"), "nothing had to be opened"
    assert (first.unheard, second.unheard) == (True, False)
    rig.chain.job.seats[first.seat].awarded += 3 * STEP * rig.run.state.price
    entries = await rig.train(number=2)
    assert [entry.outcome for entry in entries] == ["committed", "committed"]
    assert [entry.attempt for entry in entries] == [2, 1]


@pytest.mark.usefixtures("opened")
async def test_a_path_to_another_root_than_the_committed_one_is_never_sent(rig: Rig) -> None:
    first, _ = await lost_challenge(rig)
    rig.run.store.save_round(
        rig.run.request_id, 1, rig.run.store.rounds(rig.run.request_id)[0].replace(first.root, "ab" * 32)
    )
    calls = len(rig.cluster.calls)
    assert not await hand_over_paths(rig.run, rig.run.state.seats[0])
    assert len(rig.cluster.calls) == calls
    entries = await rig.train(number=2)
    assert [entry.outcome for entry in entries] == ["refused", "committed"] and "inclusion" in entries[0].reason


@pytest.mark.usefixtures("opened")
async def test_a_contributor_that_is_away_again_is_no_worse_off(rig: Rig) -> None:
    first, _ = await lost_challenge(rig)
    rig.cluster.fails[first.agent] = ShardTimeout("the line is down")
    assert not await hand_over_paths(rig.run, rig.run.state.seats[0])
    del rig.cluster.fails[first.agent]
    assert await hand_over_paths(rig.run, rig.run.state.seats[0])
