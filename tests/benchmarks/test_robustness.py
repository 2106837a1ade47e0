"""The benchmark of hostile updates: its rounds are the product's, and what is found later is taken out again."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import robustness as benchmark
from benchmarks.hostile import ATTACKS, RULES
from benchmarks.robustness import SPEEDS, Case, hostile_seats, planned, train
from cloudlinkup.training.schedule import choose_rounds
from models.plan import local_steps


@pytest.mark.parametrize(("rounds", "kept"), [(8, False), (24, False), (8, True), (24, True)])
def test_rounds_are_as_long_as_the_planner_makes_them(rounds: int, kept: bool) -> None:
    segment, segments = planned(rounds, SPEEDS, kept)
    steps = segment * sum(segments)
    assert local_steps(rounds * steps, len(SPEEDS), kept) == pytest.approx(steps / len(SPEEDS), abs=segment / 2)
    assert min(segments) >= 3 and segment <= (5 if kept else 10)


def test_auto_chooses_the_rounds_that_the_published_tables_are_of() -> None:
    for problem, rounds, kept in (("digits", 8, False), ("mc", 24, False), ("mc", 24, True)):
        segment, segments = planned(rounds, SPEEDS, kept)
        rows = len(benchmark.rows_of(problem, 0).features)
        samples = rounds * segment * sum(segments) * 32
        assert (choose_rounds("classification", samples, rows) == "kept") == kept


def test_the_honest_alone_are_one_run_for_all_who_leave_out_the_same() -> None:
    keys = {attack: Case("digits", attack, "honest", 0).key for attack in ATTACKS}
    seats = {attack: str(hostile_seats(attack, np.random.default_rng([0, 7]))) for attack in ATTACKS}
    del keys["none"], seats["none"]
    assert len(set(keys.values())) == 3
    assert len({(key, seats[attack]) for attack, key in keys.items()}) == 3
    assert Case("digits", "noise", "product", 0).key != Case("digits", "adapted", "product", 0).key


@pytest.mark.parametrize("kept", [False, True])
def test_the_audit_finds_them_and_takes_out_what_they_did(kept: bool) -> None:
    honest, none = train(Case("digits", "sign flip, half", "honest", 0, 5, kept))
    mean, let_in = train(Case("digits", "sign flip, half", "mean", 0, 5, kept))
    product, found = train(Case("digits", "sign flip, half", "product", 0, 5, kept))
    assert none.poisoned == 0 and let_in.poisoned == 5
    assert found.convicted and found.poisoned < 4
    assert mean < honest - 0.1 and product > mean + 0.1 and product > honest - 0.05


def test_every_rule_says_how_many_its_mean_is_of() -> None:
    drawn = np.random.default_rng(1)
    updates = {seat: (drawn.standard_normal(128).astype(np.float32) + 1, 5 * seat + 5) for seat in range(10)}
    for name, rule in RULES.items():
        mean, shares = rule(updates, lambda update: float(np.linalg.norm(update)), np.zeros(128, np.float32))
        assert mean.shape == (128,) and sum(shares) == pytest.approx(1), name
