"""Independent trainings: which there are, who does how much of which, and which stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloudlinkup.errors import BadInput
from cloudlinkup.search import Halving
from cloudlinkup.types import CAPS, canonical_json, parse_job
from models.trials import (
    Standing,
    after_wave,
    boundary,
    expand,
    fold_of_rows,
    halves,
    segment_steps,
    steps_in_all,
    total_steps,
)

JOB = {
    "version": 1,
    "data": {"uri": "t.csv", "format": "csv", "label": "y"},
    "task": "classification",
    "model": {"kind": "mlp", "hidden": [16], "activation": "relu"},
    "train": {"samples": 3_200, "batch": 32},
    "budget": "1",
    "deadline": "2040-01-01T00:00:00Z",
}
GRID = {"kind": "grid", "over": {"train.lr": [0.003, 0.01], "model.hidden": [[8], [16, 8]]}}


def job(search, **changes):
    return parse_job({**JOB, **changes, "search": search})


def test_a_grid_is_every_combination():
    trials = expand(job(GRID))
    assert [t.settings for t in trials] == [
        {"train.lr": lr, "model.hidden": hidden} for lr in (0.003, 0.01) for hidden in ([8], [16, 8])
    ]
    assert [(t.job.train.lr, t.job.model.model_dump()["hidden"]) for t in trials] == [
        (0.003, (8,)), (0.003, (16, 8)), (0.01, (8,)), (0.01, (16, 8)),
    ]  # fmt: skip
    assert all(t.job.search is None and t.fold is None for t in trials)


def test_a_random_search_draws_the_same_again_and_within_its_ranges():
    over = {
        "train.lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "train.batch": {"low": 8, "high": 64, "whole": True},
        "model.activation": ["relu", "gelu"],
    }
    search = {"kind": "random", "trials": 40, "over": over}
    trials = expand(job(search))
    assert expand(job(search)) == trials
    rates = np.log10([t.job.train.lr for t in trials])
    assert rates.min() >= -4 and rates.max() <= -1
    assert 0.25 < (rates < -2.5).mean() < 0.75, "evenly in the logarithm"
    assert all(8 <= t.job.train.batch <= 64 for t in trials)
    assert {t.job.model.model_dump()["activation"] for t in trials} == {"relu", "gelu"}
    other = expand(job(search, train={**JOB["train"], "seed": 1}))
    assert [t.settings for t in other] != [t.settings for t in trials]


def test_folds_and_ensembles():
    assert [(t.fold, t.job.train.seed) for t in expand(job({"kind": "folds", "folds": 3}))] == [
        (0, 0), (1, 0), (2, 0), (None, 0),
    ]  # fmt: skip
    assert [t.fold for t in expand(job({"kind": "folds", "folds": 3, "deliver": "blend"}))] == [0, 1, 2]
    assert [t.job.train.seed for t in expand(job({"kind": "ensemble", "members": 3}))] == [0, 1, 2]


@pytest.mark.parametrize(
    ("search", "field"),
    [
        ({"kind": "grid", "over": {"train.samples": [1, 2]}}, "search.over"),
        ({"kind": "grid", "over": {"data.uri": ["a", "b"]}}, "search.over"),
        ({"kind": "grid", "over": {}}, "search.over"),
        ({"kind": "grid", "over": {"train.lr": []}}, "search.over"),
        ({"kind": "grid", "over": {"train.lr": [0.1]}}, "search.over"),
        ({"kind": "grid", "over": {"train.lr": [0.1, 0.1]}}, "search.over"),
        ({"kind": "grid", "over": {"train.lr": [0.1, 7]}}, "search (train.lr)"),
        ({"kind": "grid", "over": {"train.lr": [0.1, {"low": 1}]}}, "search (train.lr)"),
        ({"kind": "grid", "over": {"model.depth": [1, 2]}}, "search (model"),
        ({"kind": "grid", "over": {"train.seed": list(range(9)), "train.batch": list(range(1, 9))}}, "search.over"),
        ({"kind": "grid", "over": {"train.seed": list(range(65))}}, "search.over"),
        ({"kind": "random", "trials": 65, "over": {"train.lr": [0.1]}}, "search.trials"),
        ({"kind": "random", "trials": 3, "over": {"train.lr": {"low": 1, "high": 0.1}}}, "search.over"),
        ({"kind": "random", "trials": 3, "over": {"train.lr": {"low": 0, "high": 0.1, "log": True}}}, "search"),
        ({"kind": "folds", "folds": 1}, "search.folds"),
        ({"kind": "ensemble", "members": 1}, "search.members"),
        ({"kind": "guess"}, "search"),
        ({**GRID, "halving": {"eta": 1}}, "search.halving.eta"),
        ({**GRID, "deliver": "final"}, "search.deliver"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_field(search, field: str):
    with pytest.raises(BadInput) as caught:
        expand(job(search))
    assert caught.value.field.startswith(field)
    assert caught.value.fix


def test_the_samples_of_all_trainings_together_are_capped():
    with pytest.raises(BadInput) as caught:
        expand(job(GRID, train={"samples": CAPS["samples"] // 3}))
    assert caught.value.field == "train.samples"


def test_a_job_with_a_search_has_one_byte_form():
    assert parse_job({**JOB, "search": GRID}) == job(GRID)
    assert canonical_json(job(GRID)) == canonical_json(parse_job(job(GRID).model_dump(mode="json")))


def test_steps_are_whole_segments():
    trials = expand(job({"kind": "grid", "over": {"train.batch": [32, 30]}}))
    assert segment_steps(trials) == 10
    assert [total_steps(t, 10) for t in trials] == [100, 100]  # 106 whole steps of 30
    short = expand(job({"kind": "ensemble", "members": 2}, train={"samples": 90, "batch": 32}))
    assert segment_steps(short) == 3 and total_steps(short[0], 3) == 3


# ---------------------------------------------------------------- rungs


def test_rungs_are_at_the_same_share_of_the_steps():
    halving = Halving(eta=3, rungs=2)
    assert [boundary(Standing(0, 900), halving, rung, 10) for rung in range(3)] == [100, 300, 900]
    assert steps_in_all([900] * 9, halving, 10) == 2_100


def test_a_training_without_a_score_goes_first_and_equals_by_number():
    halving = Halving(eta=2, rungs=1)
    at = [Standing(0, 100, 50), Standing(1, 100, 50, score=0.5), Standing(2, 100, 50, score=0.5)]
    assert after_wave(at, halving, 0, 10) == ((0,), 1)
    assert after_wave([*at, Standing(3, 100, 40, score=0.1)], halving, 0, 10) == ((), 0), "one has not got there"
    gone, rung = after_wave([replace(at[1], total=20, done=10), replace(at[2], total=20, done=10)], halving, 0, 10)
    assert (gone, rung) == ((2,), 1)


# ---------------------------------------------------------------- rows


def test_folds_are_alike_in_size_and_classes():
    classes = np.array([0] * 90 + [1] * 13)
    folds = fold_of_rows(103, 5, 7, classes)
    assert (fold_of_rows(103, 5, 7, classes) == folds).all()
    counts = np.array([[(folds[classes == c] == k).sum() for k in range(5)] for c in (0, 1)])
    assert (np.ptp(counts, axis=1) <= 1).all() and counts.sum() == 103
    assert (fold_of_rows(103, 5, 8, classes) != folds).any()
    with pytest.raises(BadInput, match="folds"):
        fold_of_rows(9, 5, 0)


@pytest.mark.parametrize("rows", [2, 3, 60])
def test_what_is_reported_on_was_not_chosen_on(rows: int):
    choose, report = halves(rows, 3)
    assert sorted([*choose, *report]) == list(range(rows)) and len(choose) and len(report)
    assert not set(choose) & set(report)
