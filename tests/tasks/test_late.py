"""A round that went ahead, when its end comes late: after the deadline, before an empty round, or in another run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cloudlinkup.errors import ContributorLost, ProgramError
from cloudlinkup.training.outer import Published
from tasks.awards import read_job
from tasks.rebalance import close_round
from tasks.subject import generation
from tests.tasks.conftest import STEP, Rig
from tests.tasks.on_chain import PRICE
from tests.tasks.test_ahead import Killed, a_round, averaged, cheat, market, reopened

__all__ = ["market"]


@pytest.mark.parametrize("landed", [(0, 1, 2), (1,)])
async def test_what_was_paid_just_before_the_deadline_stays_in_the_weights(
    market: Rig, monkeypatch: pytest.MonkeyPatch, landed: tuple[int, ...]
) -> None:
    """An award is many seats', in one transaction or several, and its confirmation may come after the deadline."""
    run = market.run
    await a_round(run)
    before, done = run.weights.weights.copy(), run.state.steps_done
    second = await a_round(run)
    assert second is not None and second.ahead
    real = run.ledger.award

    async def late(key: Any, account: Any, number: int, targets: dict[int, int]) -> list[str]:
        await real(key, account, number, {seat: targets[seat] for seat in landed})
        raise ProgramError(6022, "JobEnded", "the deadline has passed")

    monkeypatch.setattr(run.ledger, "award", late)
    await close_round.fn(run)
    job = await read_job(run)
    assert [s.awarded for s in job.seats] == [seat.steps * PRICE for seat in run.state.seats]
    assert {e.seat for e in second.entries if e.outcome == "accepted"} == set(landed)
    assert run.state.steps_done == done + sum(e.segments for e in second.entries if e.seat in landed) * STEP
    expected = Published(before)
    expected.step(averaged(run, second, set(landed)))
    np.testing.assert_array_equal(run.weights.weights, expected.weights)


async def test_an_empty_round_publishes_what_an_audit_left(market: Rig) -> None:
    """Else the round after it began once more with what was taken out."""
    run = market.run
    await a_round(run)
    cheat(market, 0)
    second = await a_round(run)
    assert second is not None and second.ahead
    honest, real = run.weights.weights.copy(), market.cluster.call

    async def lost(to: str, request: Any, key: str) -> Any:
        if request.kind == "train":
            raise ContributorLost("the line is down")
        return await real(to, request, key)

    market.cluster.call = lost  # type: ignore[method-assign]
    third = await a_round(run)
    assert third is not None and {e.outcome for e in third.entries} == {"lost"}
    assert second.entries[0].outcome == "rejected" and not run.state.unpublished
    market.cluster.call = real  # type: ignore[method-assign]
    fourth = await a_round(run)
    assert fourth is not None and fourth.generation == 3
    begun = generation(run, 3)
    assert np.abs(begun.published - begun.weights).max() < 0.2 * np.abs(begun.published - honest).max()
    assert {e.outcome for e in fourth.entries} <= {"committed", "accepted"}, "its contributors followed"


def dying_at(stage: str, real: Callable[..., None]) -> Callable[..., None]:
    def write(request: str, number: int, text: str) -> None:
        if f'"stage":"{stage}"' in text:
            raise Killed
        real(request, number, text)

    return write


async def test_rows_that_a_kill_left_are_gone_when_the_next_round_begins(market: Rig) -> None:
    run = market.run
    await a_round(run)
    second = await a_round(run)
    assert second is not None and second.ahead
    left = run.folder / "rows-2.npy"
    run.store.save_round = dying_at("finished", run.store.save_round)  # after the audit's count
    with pytest.raises(Killed):
        await close_round.fn(run)
    again = reopened(market)
    assert again.open is None and left.exists()
    third = await a_round(again)
    assert third is not None and not left.exists() and (run.folder / f"rows-{third.round}.npy").exists()
