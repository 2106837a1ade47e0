"""A poisoned round in the real loop: paid, taken back, done again from the state before it; and only so often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.rollback import MOST
from tasks.deliver import facts
from tasks.orders import read_order, update_name
from tasks.rebalance import _advance, _learn, _tally
from tests.tasks.conftest import STEP, Rig

SEGMENTS = 3


async def one_round(rig: Rig, number: int, poison: float | None = None) -> None:
    """As the flow counts it. `poison`: what the updates that were accepted become, as if nobody had seen it."""
    run = rig.run
    for entry in await rig.train(segments=SEGMENTS, number=number):
        assert (await rig.audit(entry)).accepted
        entry.outcome = "accepted"
        if poison is not None:
            rng = np.random.default_rng(number)
            update = rng.standard_normal(run.weights.weights.size).astype(np.float32) * np.float32(poison)
            run.write(update_name(number, entry.seat), quantise(update))
    assert run.round is not None
    _advance(run, run.round)
    for entry in run.round.entries:
        _learn(run, entry, 0.0, rolled_back=number in run.state.rolled_back)
        _tally(run, entry)
    for seat in rig.chain.job.seats:
        seat.awarded += SEGMENTS * STEP * run.state.price
    run.state.round = number


def known_good(rig: Rig) -> None:
    """As if the job had come far: what follows is measured against it."""
    rig.run.state.curve = [(10, 1.0)]


@pytest.mark.parametrize("rounds", ["stateless", "kept"])
async def test_a_poisoned_round_is_taken_back_and_done_again(rig: Rig, rounds) -> None:
    run = rig.run
    run.prepared = replace(run.data, spec=replace(run.data.spec, rounds=rounds))
    await one_round(rig, 1)
    known_good(rig)
    before, done = run.weights.to_bytes(), run.state.steps_done
    held = [(seat.moments, seat.moments_steps) for seat in run.state.seats]
    paid = sum(seat.steps for seat in run.state.seats)
    await one_round(rig, 2, poison=5.0)
    assert run.state.rolled_back == [2] and run.state.generation == 1
    assert run.weights.to_bytes() == before and run.state.steps_done == done and run.state.curve == [(10, 1.0)]
    assert sum(seat.steps for seat in run.state.seats) == paid + 2 * SEGMENTS * STEP  # verified, so it stays paid
    assert [(seat.moments, seat.moments_steps) for seat in run.state.seats] == held
    assert "rolled_back" in [event.kind for event in run.store.events(run.request_id)]
    assert facts(run)["rolled_back"] == [2]
    run.state.curve = []
    await one_round(rig, 3)
    orders = [read_order(run, entry) for entry in run.round.entries]  # type: ignore[union-attr]
    assert run.state.generation == 2 and run.state.steps_done == done + 2 * SEGMENTS * STEP
    assert {order.steps_before for order in orders} == {SEGMENTS * STEP if rounds == "kept" else 0}
    batch = run.data.spec.batch
    assert {order.rows_before for order in orders} == {2 * SEGMENTS * STEP * batch}, "not the same rows again"
    kept = Published.from_bytes((run.folder / "weights-2.bin").read_bytes())
    np.testing.assert_array_equal(kept.published, run.weights.published)


async def test_no_more_than_so_often(rig: Rig) -> None:
    run = rig.run
    known_good(rig)
    for number in range(1, MOST + 2):
        await one_round(rig, number, poison=5.0)
    assert run.state.rolled_back == [1, 2]
    assert run.state.generation == 1 and run.state.steps_done == 2 * SEGMENTS * STEP


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scoring such weights
async def test_weights_that_are_no_numbers_are_taken_back_too(rig: Rig) -> None:
    run = rig.run
    entries, size = await rig.train(segments=SEGMENTS, number=1), run.weights.weights.size
    run.published = Published(np.full(size, np.finfo(np.float32).max))
    assert run.round is not None
    for number in range(1, MOST + 2):
        run.round.round = number
        for entry in entries:
            entry.outcome = "accepted"
            run.write(update_name(number, entry.seat), quantise(np.full(size, np.float32(1e34))))
        _advance(run, run.round)
    assert run.state.rolled_back == [1, 2] and run.state.generation == 0
    assert "not_aggregated" in [event.kind for event in run.store.events(run.request_id)]
