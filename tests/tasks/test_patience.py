"""Early stopping on the held-out rows, with real rounds: when it ends, what is delivered, what is still paid."""

from __future__ import annotations

import json

import numpy as np

from cloudlinkup import load_model
from cloudlinkup.training.outer import Published
from tasks.deliver import deliver
from tasks.rebalance import _advance, _learn, _tally
from tasks.rounds import next_round
from tests.tasks.conftest import JOB, Rig


async def one_round(rig: Rig, number: int) -> None:
    run = rig.run
    for entry in await rig.train(number=number):
        entry.outcome = "accepted"
        _learn(run, entry, 0.0)
        _tally(run, entry)
    assert run.round is not None
    _advance(run, run.round)
    run.state.round, run.round = number, None


def impatient(rig: Rig, patience: int | None, least: float) -> None:
    train = rig.run.job.train.model_copy(update={"patience": patience, "min_improvement": least})
    rig.run.job = rig.run.job.model_copy(update={"train": train})
    rig.run.state.plan |= {
        "total_steps": 1_000, "dropped_steps": 0, "batch": JOB["train"]["batch"], "local_steps": 50, "price": 7,
        "seats": (), "predictor": "base", "version": "1",
    }  # fmt: skip


async def test_the_best_round_is_delivered_and_no_further_one_begun(rig: Rig):
    impatient(rig, 1, 1_000.0)  # nothing improves by that much: the first round stays the best
    run = rig.run
    for number in (1, 2):
        assert not run.state.ended_early
        await one_round(rig, number)
    assert (run.state.best_generation, run.state.worse_rounds, run.state.generation) == (1, 1, 2)
    assert not await next_round(run)  # asks no chain and no contributor
    assert run.state.ended_early.startswith("no better on held-out rows for 1 rounds")
    await deliver.fn(run)
    folder = run.folder / "delivered"
    first = Published.from_bytes((run.folder / "weights-1.bin").read_bytes()).published
    np.testing.assert_array_equal(load_model(folder).weights, first)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["score"] == metrics["metrics"]["accuracy"] == run.state.curve[0][1] == run.state.score
    assert "number 1, by these very rows" in metrics["chosen"]
    assert metrics["steps"] == run.state.steps_done == sum(seat.steps for seat in run.state.seats)  # all of it is paid


async def test_improvement_resets_the_count(rig: Rig):
    impatient(rig, 2, 0.0)
    run = rig.run
    await one_round(rig, 1)
    run.state.best_score, run.state.worse_rounds = -1.0, 1  # as if the first had been bad, and one after it too
    await one_round(rig, 2)
    assert (run.state.best_generation, run.state.worse_rounds) == (2, 0)


async def test_without_patience_the_last_round_is_delivered(rig: Rig):
    impatient(rig, None, 0.0)
    run = rig.run
    for number in (1, 2):
        await one_round(rig, number)
    await deliver.fn(run)
    np.testing.assert_array_equal(load_model(run.folder / "delivered").weights, run.weights.published)
    assert run.state.best_score is None
