"""Who starts next: every term moves it the right way, everybody starts, and no clock can turn it around."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.priority import (
    HALF_LIFE,
    TIERS,
    WAIT,
    WEIGHTS,
    Account,
    Settled,
    Waiting,
    account,
    parts,
    rank,
)

NOW = 1_900_000_000.0


def job(key: str, *, client: str = "c", waited: float = 0.0, left: float = 86_400.0, needs: float = 900.0) -> Waiting:
    return Waiting(key, client, submitted=NOW - waited, deadline=NOW + left, needs=needs)


def test_each_term_moves_a_job_forward() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    accounts = {
        "heavy": Account(usage=10**8),
        "light": Account(usage=10**5),
        "tier": Account(usage=10**5, tier=3),
        "c": Account(usage=10**5),
    }
    for better, worse in (
        (job("b", client="light"), job("a", client="heavy")),
        (job("b", left=1_000), job("a")),
        (job("b", waited=600), job("a")),
        (job("b", client="tier"), job("a", client="light")),
    ):
        places = rank([worse, better], accounts, NOW)
        assert [p.key for p in places] == ["b", "a"] and [p.place for p in places] == [1, 2]
        assert places[0].priority > places[1].priority and "fair share" in places[0].reason


def test_usage_halves_in_fourteen_days_and_fees_and_work_raise_the_share() -> None:
    jobs = [Settled("c", spent=10**7, fee=10**5, at=NOW - HALF_LIFE), Settled("other", spent=10**9, fee=1, at=NOW)]
    found = account("c", jobs, now=NOW)
    assert found.usage == pytest.approx(10**7 / 2) and found.tier == 1
    assert account("c", jobs, contributed=10**7, now=NOW).fair > found.fair > account("other", jobs, now=NOW).fair
    assert account("nobody", jobs, now=NOW) == Account() and Account().fair == 1.0
    assert [account("c", [Settled("c", 0, fee, NOW)], now=NOW).tier for fee in (0, *TIERS)] == [0, 1, 2, 3]


times = st.floats(-1e7, 1e7)
some = st.lists(st.tuples(times, times, st.integers(0, 2)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=80)
@given(some)
def test_due_jobs_come_first_oldest_first_and_the_order_given_is_no_matter(
    entries: list[tuple[float, float, int]],
) -> None:
    """Whatever the clocks say: deadlines that passed, jobs from the future."""
    accounts = {"0": Account(), "1": Account(usage=10**9), "2": Account(usage=0, share=1e12, tier=3)}
    waiting = [
        job(str(i), client=str(client), waited=waited, left=left) for i, (waited, left, client) in enumerate(entries)
    ]
    places = rank(waiting, accounts, NOW)
    shuffled = random.Random(1).sample(waiting, len(waiting))
    assert [p.key for p in rank(shuffled, accounts, NOW)] == [p.key for p in places]
    by_key = {w.key: w for w in waiting}
    due = [p for p in places if p.due]
    assert places[: len(due)] == tuple(due)
    submitted = [by_key[p.key].submitted for p in due]
    assert submitted == sorted(submitted) and all(NOW - s >= WAIT for s in submitted)
    assert all(0.0 <= value <= 1.0 for p in places for value in p.parts.values())


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.lists(st.integers(1, 900), min_size=1, max_size=6), st.integers(0, 2**32))
def test_nobody_starves(slots: int, lengths: list[int], seed: int) -> None:
    """Urgent jobs of the best client come faster than they can be done, for a day; one job of the worst must start.

    After it is due, only what was submitted before it may start before it.
    """
    rng = random.Random(seed)
    accounts = {"worst": Account(usage=10**12), "best": Account(share=1e12, tier=3)}
    low = Waiting("low", "worst", submitted=NOW, deadline=NOW + 10**7)
    waiting, busy, now, number = [low], [0.0] * slots, NOW, 0
    overtakers = 0
    while low in waiting:
        assert now < NOW + 86_400, "it starved"
        for _ in range(slots):
            number += 1
            waiting.append(Waiting(f"h{number}", "best", submitted=now, deadline=now + 1_000))
        for slot in range(slots):
            if busy[slot] <= now and waiting:
                first = rank(waiting, accounts, now)[0]
                started = next(w for w in waiting if w.key == first.key)
                waiting.remove(started)
                overtakers += low in waiting and now - low.submitted >= WAIT
                busy[slot] = now + rng.choice(lengths)
        now += 300
    assert overtakers == 0
    assert now - NOW > WAIT / 2  # it did have to wait: the weights alone would never have let it start


def test_a_clock_that_ran_backwards_changes_nothing_for_the_worse() -> None:
    future = Waiting("future", "c", submitted=NOW + 10**6, deadline=NOW + 2 * 10**6)
    assert parts(future, Account(), NOW)["age"] == 0.0
    assert account("c", [Settled("c", 10**7, 1, NOW + 10**6)], now=NOW).usage == 10**7
    assert parts(job("late", left=-1), Account(), NOW)["urgency"] == 0.0
