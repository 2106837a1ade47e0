"""A run that died in the middle of a round and is taken up again."""

from __future__ import annotations

import pytest

from cloudlinkup.errors import ClusterLost, ContributorLost, NotConfirmed
from tasks import verify
from tasks.context import Run
from tasks.train import _one
from tests.conftest import Platform
from tests.tasks.conftest import Rig
from tests.tasks.test_ending import job, lock

__all__ = ["job"]


def reread(rig: Rig) -> None:
    """What a new process has: the store's own words."""
    old = rig.run
    fresh = Run(old.job, old.request_id, "second", old.settings, old.ledger, old.cluster)
    fresh.genesis, fresh.prepared, fresh.published = old.genesis, old.prepared, old.published
    rig.run = fresh


async def test_results_that_came_in_are_kept(rig: Rig):
    """The first contributor delivered, then the flow lost its scheduler; afterwards only the second is asked."""
    rig.run.state.stage = "rounds"
    await rig.begin()
    round_, peers = rig.run.round, await rig.peers()
    assert round_ is not None
    first, second = rig.run.state.seats
    await _one(rig.run, round_, round_.entries[0], peers)
    rig.cluster.fails[second.agent] = ClusterLost("the Dask scheduler is gone")
    with pytest.raises(ClusterLost):
        await _one(rig.run, round_, round_.entries[1], peers)
    rig.cluster.fails.clear()
    reread(rig)
    assert rig.run.round is not None
    assert [entry.outcome for entry in rig.run.round.entries] == ["committed", "ordered"]
    rig.cluster.fails[first.agent] = ContributorLost("gone since")  # what it did is still here
    rig.cluster.calls.clear()
    entries = await rig.send()
    assert [entry.outcome for entry in entries] == ["committed", "committed"]
    assert rig.cluster.calls == [(second.agent, "train")]
    rig.cluster.fails.clear()
    assert (await rig.audit(entries[0])).accepted
    assert rig.run.state.seats[0].has_weights == rig.run.state.generation


async def test_a_contributor_that_moved_to_another_device_is_not_ordered_from(rig: Rig):
    """Its work could not be replayed bit for bit, so an honest one would be rejected."""
    seat = rig.run.state.seats[0]
    seat.device_class = seat.device_class.replace("threads 1", "threads 2")
    entries = await rig.train()
    assert (entries[0].outcome, entries[0].reason) == ("lost", "it came back on another device")
    assert (seat.agent, "train") not in rig.cluster.calls
    assert entries[1].outcome == "committed"


async def test_a_commitment_that_never_becomes_final_is_committed_again(
    job: Run, platform: Platform, rig: Rig, monkeypatch
):
    await lock(job, platform, 3_600)
    await rig.begin()
    assert job.round is not None
    job.round.stage, job.round.commit_slot = "committed", 1  # as if the chain had given the commitment up
    monkeypatch.setattr(verify, "FINAL_WAIT", 0.3)
    with pytest.raises(NotConfirmed):
        await verify._final(job, job.round, 1, bytes(32))
    reread(rig)
    assert rig.run.round is not None
    assert rig.run.round.stage == "trained"
