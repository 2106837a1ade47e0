"""The benchmark of quality against bytes: short versions of its runs, its arithmetic, and that kept runs are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import bytes as benchmark
from benchmarks.bytes import WAYS, Outcome, Way, compare, in_one_place, in_rounds
from benchmarks.training_problems import PROBLEMS, Problem


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
    assert stateless.opened == 0 < state.opened < state.sent
    assert stateless.sent < state.sent  # fewer rounds
    assert in_rounds(kept, Way("ours")) == state
    assert in_rounds(kept, Way("ours", churn=1.0)).opened == 0


def test_every_problem_is_one_that_the_product_takes() -> None:
    for name, make in PROBLEMS.items():
        problem = replace(make(3), steps=10)
        assert in_one_place(problem, 4).sent > 0, name


def test_a_run_that_is_kept_is_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def fake(problem: Problem, *_: object) -> Outcome:
        calls.append(problem.name)
        return Outcome(0.9, 100.0, 10.0)

    monkeypatch.setattr(benchmark, "in_one_place", fake)
    monkeypatch.setattr(benchmark, "in_rounds", fake)
    first = compare(["digits"], range(2), tmp_path)
    done = len(calls)
    assert done == 2 * 3 and compare(["digits"], range(2), tmp_path) == first and len(calls) == done
    ours = next(row for row in first if row["way"] == "ours")
    assert ours["difference"] == 0 and ours["ratio"] == 1 and ours["audited"] == pytest.approx(100 / 110)
    assert [way.name for way in WAYS[:3]] == [row["way"] for row in first]
