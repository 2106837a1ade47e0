"""The race and the pilot: nobody is kept or weighs by what it claims, the caps hold, an estimate is a distribution. The
splits are held against the linear program's optimum and, on small cases, against every split there is."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from models.allocator import integer_fill
from models.correction import Correction
from models.estimate import Rest
from models.facts import Candidate, JobFacts, Prediction, TrackRecord
from models.plan import MOST_WORK, JobPlan, plan_job, plan_pilot, plan_round
from models.race import Racer, Waiting, keep, latecomers, regressed, returning, stranded_by_race
from models.selection import Ranked


def speed(number: int, seconds: float, width: float = 1.2) -> Prediction:
    return Prediction(
        agent=f"a{number}", seconds=seconds, low=seconds / width, high=seconds * width, base=seconds, source="observed"
    )


def ranked(seconds: list[float], first: int = 0, ask: int = 5) -> list[Ranked]:
    return [
        Ranked(Candidate(agent=f"a{i}", wallet=f"w{i}", device_class="c", ask=1), speed(i, s), ask, 1.0)
        for i, s in enumerate(seconds, first)
    ]


def planned(seconds: list[float], spare: list[Ranked] | None = None, steps: int = 4_000) -> JobPlan:
    profile = {"overhead": 0.0, "per_sample": 1e-3}
    job = JobFacts.model_validate({"features": {}, "samples": 8 * steps, "batch": 8, "profile": profile})
    return plan_job(job, ranked(seconds), predictor="p", version="0", spare=spare or [])


def racer(number: int, seconds: float, segments: int = 5, record: TrackRecord | None = None) -> Racer:
    return Racer(number, speed(number, seconds), segments, record or TrackRecord(on_time=1, valid=1))


def test_the_pilot_is_the_same_for_a_liar() -> None:
    spare = [*ranked([1.0, 1.0, 1.0, 1.0], 4), *ranked([1.0], 9, ask=6)]
    plan = planned([1e-6, 1.0, 1.0, 1.0], spare)  # the first claims to be a million times faster
    assert [r.seat for r in plan.racers] == [4, 5, 6, 7], "one more does not take the price of the chosen"
    found = plan_pilot(plan, 1, plan.total_steps, {s.seat: s.prediction for s in plan.everybody})
    assert {s.max_segments for s in found.seats} == {plan.pilot_segments} and len(found.seats) == 8
    assert found.steps <= plan.total_steps / 2
    assert stranded_by_race(plan) == 4 * plan.pilot_segments * plan.segment_steps
    later = plan_round(plan, 2, 3_000, {0: speed(0, 1e-6), 1: speed(1, 1.0)}, unmeasured={0})
    assert next(s for s in later.seats if s.seat == 0).steps <= plan.unmeasured_steps


def test_no_pilot_where_everybody_is_known_and_has_a_place() -> None:
    profile = {"overhead": 0.0, "per_sample": 1e-3}
    job = JobFacts.model_validate({"features": {}, "samples": 32_000, "batch": 8, "profile": profile})
    record = TrackRecord(on_time=9, valid=9)
    known = [
        Ranked(r.candidate.model_copy(update={"record": record}), r.prediction, r.ask, r.cost)
        for r in ranked([1.0, 2.0])
    ]
    assert plan_job(job, known, predictor="p", version="0").pilot_segments == 0
    assert plan_job(job, ranked([1.0]), predictor="p", version="0").pilot_segments == 0, "there is nothing to choose"


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4_000),
    st.lists(st.floats(1e-3, 10), min_size=1, max_size=9),
    st.data(),
)
def test_a_round_keeps_every_cap(remaining: int, seconds: list[float], data: st.DataObject) -> None:
    plan = planned([1.0, 1.0, 1.0, 1.0])
    speeds = {i: speed(i, s, data.draw(st.floats(1.0, 4.0))) for i, s in enumerate(seconds)}
    most = {i: data.draw(st.integers(0, 500)) for i in speeds if data.draw(st.booleans())}
    unmeasured = {i for i in speeds if data.draw(st.booleans())}
    hours = {i: data.draw(st.floats(0, 1_000)) for i in speeds if data.draw(st.booleans())}
    before = {i: data.draw(st.floats(0, 20)) for i in speeds}
    found = plan_round(
        plan, 3, remaining, speeds, most_steps=most, unmeasured=unmeasured, overheads=before, open_seconds=hours
    )
    assert found.steps == sum(s.steps for s in found.seats) <= remaining
    assert {s.seat for s in found.seats} | set(found.idle) == set(speeds)
    for one in found.seats:
        assert one.steps <= most.get(one.seat, remaining)
        assert one.seat not in unmeasured or one.steps <= plan.unmeasured_steps
        took = before[one.seat] + one.steps * speeds[one.seat].seconds
        assert took <= hours.get(one.seat, float("inf")) * (1 + 1e-9)
    weights = [s.max_segments for s in found.seats]
    if len(weights) >= 4:
        assert max(weights) <= max(1, sum(weights) * MOST_WORK)


def test_who_may_miss_the_round_gets_less_before_it() -> None:
    plan = planned([1.0, 1.0, 1.0, 1.0])
    sure = {i: speed(i, 1.0, 1.1) for i in range(6)}
    shaky = sure | {2: speed(2, 1.0, 4.0)}
    calm, found = (plan_round(plan, 2, 3_000, speeds) for speeds in (sure, shaky))
    steps = {s.seat: s.steps for s in found.seats}
    assert calm.shrunk == () and found.shrunk == (2,)
    assert steps[2] < steps[0] and found.steps >= calm.steps, "the others have room"
    assert steps[2] * 4.0 <= found.time_box * 1.5


def test_the_quickest_valid_on_time_step_is_kept() -> None:
    good, bad = TrackRecord(on_time=50, valid=50), TrackRecord(on_time=2, late=49, valid=51)
    field = [racer(0, 3.0), racer(1, 1.0), racer(2, 1.0, record=good), racer(3, 0.9, record=bad), racer(4, 0.1, 0)]
    kept = keep(field, 2, rest=Rest(100), seconds_left=1e9)
    assert kept.kept == (2, 1) and set(kept.dropped) == {0, 3, 4} and kept.by == "record"
    assert keep(field[::-1], 2, rest=Rest(100), seconds_left=1e9).kept == kept.kept
    nobody = keep([racer(0, 1.0, 0)], 1, rest=Rest(1), seconds_left=1e9)
    assert nobody.kept == () and nobody.late(1e9)
    with pytest.raises(ValueError, match="place"):
        keep(field, 0, rest=Rest(1), seconds_left=1.0)


def test_the_fastest_where_the_steadiest_would_be_late() -> None:
    good = TrackRecord(on_time=50, valid=50)
    field = [racer(0, 4.0, record=good), racer(1, 4.0, record=good), racer(2, 1.0), racer(3, 1.0)]
    assert keep(field, 2, rest=Rest(100), seconds_left=1_000).kept == (0, 1)
    fast = keep(field, 2, rest=Rest(100), seconds_left=100)
    assert fast.kept == (2, 3) and fast.by == "speed" and not fast.late(100)
    assert keep(field, 2, rest=Rest(100), seconds_left=10).late(10)


def test_who_was_picked_was_partly_lucky() -> None:
    """Of equal machines the quickest measurement moves back to the middle; where all differ it stays what it was."""
    rng = np.random.default_rng(4)
    alike = {
        i: replace(Correction.start(speed(i, 1.0)), mean=float(m), segments=2)
        for i, m in enumerate(rng.normal(0, 0.05, 30))
    }
    apart = {i: replace(b, mean=float(i)) for i, b in alike.items()}
    for beliefs, least, most in ((alike, 0.3, 0.8), (apart, 0.0, 1e-6)):
        found, mean = regressed(beliefs), np.mean([b.mean for b in beliefs.values()])
        first = min(beliefs, key=lambda i: beliefs[i].mean)
        back = (found[first].mean - beliefs[first].mean) / (mean - beliefs[first].mean)
        assert least <= back <= most
    unmeasured = {0: Correction.start(speed(0, 1.0)), **{i: b for i, b in alike.items() if i}}
    assert regressed(unmeasured)[0] == unmeasured[0] and set(regressed(unmeasured)) == set(unmeasured)
    assert regressed({}) == {}


def test_a_pilot_teaches_more_than_any_claim() -> None:
    claimed = Correction.start(speed(0, 1e-3)).observe(10.0, 10, 2)
    assert claimed.prediction.seconds > 0.1


# ---------------------------------------------------------------- optima


def _least_makespan(total: int, v: np.ndarray, caps: np.ndarray, before: np.ndarray) -> float:
    """Of the relaxed split where everybody is used: min t, x_i / v_i + before_i <= t, sum x = total, 0 <= x <= cap."""
    n = len(v)
    best = np.inf
    for used in itertools.product((False, True), repeat=n):
        if not any(used):
            continue
        rows = [[*(1 / v[j] if j == i else 0 for j in range(n)), -1.0] for i in range(n) if used[i]]
        bounds = [(0, float(caps[i]) if used[i] else 0) for i in range(n)]
        found = linprog(
            [0.0] * n + [1.0],
            A_ub=rows,
            b_ub=[-float(before[i]) for i in range(n) if used[i]],
            A_eq=[[1.0] * n + [0.0]],
            b_eq=[float(total)],
            bounds=[*bounds, (0, None)],
        )
        best = min(best, found.fun) if found.success else best
    return float(best)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000))
def test_whole_segments_against_the_program_and_every_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, total = 3, int(rng.integers(1, 9))
    v, before = rng.uniform(0.1, 3, n), rng.uniform(0, 2, n)
    caps = rng.integers(1, 7, n)
    total = min(total, int(caps.sum()))
    units = integer_fill(total, v, caps, before)

    def makespan(split: tuple[int, ...]) -> float:
        return max(b + x / s if x else 0.0 for x, s, b in zip(split, v, before, strict=True))

    splits = itertools.product(*(range(int(c) + 1) for c in caps))
    brute = min(makespan(split) for split in splits if sum(split) == total)
    assert makespan(tuple(int(u) for u in units)) == pytest.approx(brute)
    assert _least_makespan(total, v, caps.astype(float), before) <= brute + 1e-9


def test_one_wallet_s_devices_do_not_win_every_place() -> None:
    field = [replace(racer(n, 1.0 + n), wallet="a" if n < 4 else f"w{n}") for n in range(8)]
    kept = keep(field, 4, rest=Rest(100), seconds_left=1e9)
    assert kept.kept == (0, 1, 4, 5) and set(kept.dropped) == {2, 3, 6, 7}
    assert keep([racer(n, 1.0 + n) for n in range(8)], 4, rest=Rest(100), seconds_left=1e9).kept == (0, 1, 2, 3)
    waiting = [Waiting(n, float(n), True, "a" if n < 2 else f"w{n}") for n in range(4)]
    assert returning(waiting, 2) == (0, 1)
    assert returning(waiting, 2, held=["a", "a", "b", "c"]) == (2, 3)
    late = [replace(r, candidate=r.candidate.model_copy(update={"wallet": "a"})) for r in ranked([1.0, 2.0])]
    assert len(latecomers(late, 5, 2)) == 2 and latecomers(late, 5, 2, held=["a", "a", "b", "c"]) == ()
