"""Who holds which rows: everybody who is active holds some, every row has one holder, and only lost rows move."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from models.correction import Correction
from models.facts import Prediction
from tasks.rounds import ASSIGNMENT, _assign_rows, _seal_partitions, partition_rows
from tasks.state import Seat

if TYPE_CHECKING:
    from tasks.context import Run
    from tests.tasks.conftest import Rig


def deal(run: Run) -> np.ndarray:
    _assign_rows(run)
    return np.load(run.folder / ASSIGNMENT, allow_pickle=False)


def belief(seconds: float) -> dict[str, Any]:
    """What is believed of a contributor that was predicted to take this long for a step."""
    made = Prediction(agent="a", seconds=seconds, low=seconds / 2, high=seconds * 2, base=seconds, source="base")
    return asdict(Correction.start(made))


def seats(run: Run, count: int, dice: random.Random) -> None:
    """That many active seats of different speed."""
    first = run.state.seats[0]
    run.state.seats = [
        first.model_copy(update={"seat": n, "belief": belief(dice.uniform(0.001, 0.1))}) for n in range(count)
    ]


def check(run: Run, held: np.ndarray) -> None:
    active = {seat.seat for seat in run.state.active()}
    assert len(held) == len(run.data.features)
    assert set(held.tolist()) == active, "every row belongs to an active seat, and every active seat has rows"


@pytest.mark.parametrize("seed", range(12))
def test_only_rows_of_those_who_left_move(rig: Rig, seed: int) -> None:
    run, dice = rig.run, random.Random(seed)
    seats(run, dice.randint(2, 12), dice)
    held = deal(run)
    check(run, held)
    while len(active := run.state.active()) > 1:
        for seat in dice.sample(active, dice.randint(1, len(active) - 1)):
            seat.state = dice.choice(["lost", "rejected"])
        left = [seat.seat for seat in run.state.active()]
        after = deal(run)
        check(run, after)
        stayed = np.isin(held, left)
        assert (after[stayed] == held[stayed]).all()
        assert (deal(run) == after).all(), "asked again, nothing moves"
        held = after


def test_a_newcomer_gets_rows(rig: Rig) -> None:
    run = rig.run
    seats(run, 3, random.Random(1))
    deal(run)
    run.state.seats = [*run.state.seats, run.state.seats[0].model_copy(update={"seat": 3})]
    check(run, deal(run))


def test_the_faster_hold_more(rig: Rig) -> None:
    run = rig.run
    seats(run, 2, random.Random(1))
    for seat, seconds in zip(run.state.seats, (0.01, 0.03), strict=True):
        seat.belief = belief(seconds) | {"segments": 3}
    held = deal(run)
    rows = [int((held == seat.seat).sum()) for seat in run.state.seats]
    assert sum(rows) == len(held)
    assert rows[0] > rows[1]


def test_a_claimed_speed_brings_no_rows_and_the_pilot_holds_half_back(rig: Rig) -> None:
    run = rig.run
    seats(run, 2, random.Random(1))
    for seat, seconds in zip(run.state.seats, (1e-6, 0.03), strict=True):
        seat.belief = belief(seconds)
    _assign_rows(run, pilot=True)
    held = np.load(run.folder / ASSIGNMENT, allow_pickle=False)
    rows = [int((held == seat.seat).sum()) for seat in run.state.seats]
    assert rows[0] == rows[1] and sum(rows) == len(held) // 2
    _assign_rows(run, pilot=True)
    assert (np.load(run.folder / ASSIGNMENT, allow_pickle=False) == held).all(), "taken up again, nothing moves"
    after = deal(run)
    assert (after >= 0).all() and (after[held >= 0] == held[held >= 0]).all()


async def test_only_a_changed_partition_is_sealed_again(rig: Rig) -> None:
    run = rig.run
    _assign_rows(run)
    await _seal_partitions(run)

    def sealed() -> list[str]:
        return [seat.partition.blob for seat in run.state.seats if seat.partition is not None]

    first = sealed()
    assert len(set(first)) == 2
    await _seal_partitions(run)
    assert sealed() == first
    run.state.seats[1].state = "lost"
    _assign_rows(run)
    await _seal_partitions(run)
    assert sealed()[0] != first[0]
    features, targets = partition_rows(run, 0)
    assert len(features) == len(targets) == len(run.data.features)


def held_by(seat: Seat, held: np.ndarray) -> set[int]:
    return set(np.flatnonzero(held == seat.seat).tolist())


def test_the_audit_replays_on_the_rows_that_were_handed_out(rig: Rig) -> None:
    run = rig.run
    held = deal(run)
    everything = np.zeros(len(held), int)
    for seat in run.state.active():
        features, _ = partition_rows(run, seat.seat)
        rows = sorted(held_by(seat, held))
        assert (features == run.data.features[rows]).all()
        everything[rows] += 1
    assert (everything == 1).all()
