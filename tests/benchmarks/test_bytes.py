"""The benchmark of quality against bytes: short versions of its runs, its arithmetic, and that kept runs are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bytes as benchmark
from benchmarks import training_problems
from benchmarks.bytes import WAYS, Outcome, Way, audited, compare, in_one_place, in_rounds
from benchmarks.training_problems import PROBLEMS, Problem
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.states import state_size
from models.auditing import ANSWER_BYTES


@pytest.fixture(scope="module")
def short() -> Problem:
    return replace(PROBLEMS["digits"](5), steps=200)


def test_data_parallel_sends_eight_bytes_a_parameter_worker_and_step(short: Problem) -> None:
    count = 64 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10
    four, one = in_one_place(short, 4), in_one_place(short, 1)
    assert four.sent == 8 * count * 4 * 200 and one.sent == 0
    assert min(four.score, one.score) > 0.85


def test_rounds_of_both_settings_learn_and_count_what_they_send(short: Problem) -> None:
    kept = replace(short, spec=replace(short.spec, rounds="kept"))
    stateless, state = in_rounds(short, Way("ours")), in_rounds(kept, Way("ours"))
    assert min(stateless.score, state.score) > 0.85
    assert stateless.sent < state.sent  # fewer rounds
    again = in_rounds(kept, Way("ours"))
    assert (again.score, again.sent, again.opened) == (state.score, state.sent, state.opened)


def test_what_the_audit_opens_depends_on_how_long_a_replay_takes() -> None:
    segments, count, rounds = np.array([2, 3, 6, 7]), 10_000, 5
    quick, slow = (audited(segments, rounds, count, each, kept=True) for each in (0.001, 1e9))
    assert quick == ANSWER_BYTES * 4 * rounds  # all of it is replayed from what is published
    each = (slow - quick) / state_size(count) / 4 / rounds
    assert 0.5 < each < 1.5  # the drawn segment unless it is the first, and the last one every second time


def test_every_problem_is_one_that_the_product_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_problems, "CACHE", tmp_path)
    monkeypatch.setattr(training_problems, "BASE_STEPS", 20)  # else the base takes two minutes
    for name, make in PROBLEMS.items():
        problem = replace(make(3), steps=10)
        assert in_one_place(problem, 4).sent > 0, name


def test_adapters_learn_what_their_base_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_problems, "CACHE", tmp_path)
    monkeypatch.setattr(training_problems, "BASE_STEPS", 20)
    problem = replace(PROBLEMS["lora"](3), steps=60)
    before = benchmark.score(problem, initial_weights(problem.spec))
    after = in_rounds(problem, Way("ours"))
    assert after.score < before - 0.05  # of a base that has hardly begun itself
    assert after.sent < 8 * len(initial_weights(problem.spec)) * 4 * 60 / 50  # fifty times fewer bytes than DDP


def test_a_run_that_is_kept_is_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def fake(problem: Problem, *_: object) -> Outcome:
        calls.append(problem.name)
        return Outcome(0.9, 100.0, 10.0)

    monkeypatch.setattr(benchmark, "in_one_place", fake)
    monkeypatch.setattr(benchmark, "in_rounds", fake)
    first = compare(["digits"], range(2), tmp_path)
    done = len(calls)
    assert done == 2 * 4 and compare(["digits"], range(2), tmp_path) == first and len(calls) == done
    ours = next(row for row in first if row["way"] == "ours")
    assert ours["difference"] == 0 and ours["ratio"] == 1 and ours["audited"] == pytest.approx(100 / 110)
    assert [way.name for way in WAYS[:4]] == [row["way"] for row in first]
