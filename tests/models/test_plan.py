"""Pricing, selection, rounds, quote and correction: money in integers, steps never beyond the job."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.errors import BadInput, NoContributors
from cloudlinkup.training.quantize import quantise
from models.correction import Correction
from models.facts import Candidate, JobFacts, Limits, Prediction, TrackRecord
from models.plan import (
    FEWER_BYTES,
    KEPT_SEGMENT,
    MOST_WORK,
    JobPlan,
    PlannedSeat,
    cheap_steps,
    local_steps,
    plan_job,
    plan_pilot,
    plan_round,
)
from models.predictor import Predictor
from models.pricing import affordable_steps, ask_per_step, cleared_price, with_fee
from models.quote import Quote, QuoteInputs, quote_job, stranded_steps
from models.selection import select

u64 = st.integers(0, 2**64 - 1)
Make = Callable[..., Candidate]


# ---------------------------------------------------------------- money


@given(u64, st.integers(0, 1_000))
def test_with_fee_adds_the_exact_floor(amount: int, bps: int) -> None:
    assert with_fee(amount, bps) == amount + amount * bps // 10_000


def test_asks_and_price() -> None:
    # 3.6 tokens of 6 decimals an hour at full duty, 10 ms of wall time at half duty: 5 ms of the device
    assert ask_per_step(3_600_000, 0.010, 0.5) == 5
    assert ask_per_step(1, 0.001, 1.0) == 1  # rounded up: nobody works below its ask
    assert cleared_price([3, 7, 5]) == 7 and cleared_price([0]) == 1


def test_steps_that_the_budget_still_buys() -> None:
    assert affordable_steps(1_000, {0: 400}, {0: 100}, 10, 0) == 60


# ---------------------------------------------------------------- who


def test_every_refusal_has_its_reason(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    candidates = [
        make_candidate(0),
        make_candidate(1, memory=5),
        make_candidate(2, device_class="cuda|another|9.0|torch 2.13.0|threads 1"),
        make_candidate(3, probes=()),
        make_candidate(4, ask=3_600_000_000),
        make_candidate(5, wallet="wallet-0"),
        make_candidate(6, wallet="wallet-0"),
    ]
    needy = job.model_copy(update={"memory": 1})
    candidates = [c if c.agent == "agent-1" else c.model_copy(update={"memory": 10}) for c in candidates]
    bounds = limits.model_copy(update={"replay_classes": (candidates[0].device_class,)})
    found = select(needy, candidates, Predictor.rank1().predict(needy, candidates), bounds)
    reasons = {r.agent: r.reason for r in found.refused}
    assert [r.candidate.agent for r in found.chosen] == ["agent-0", "agent-1", "agent-5"]
    assert "replay" in reasons["agent-2"] and "probe" in reasons["agent-3"]
    assert "median" in reasons["agent-4"] and "its wallet has 2" in reasons["agent-6"]
    poor = [c.model_copy(update={"memory": 0}) for c in candidates]
    assert select(needy, poor, Predictor.rank1().predict(needy, poor), limits).chosen == ()


def test_the_allow_list_is_by_wallet(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    candidates = [make_candidate(i) for i in range(3)]
    only = limits.model_copy(update={"allow": ("wallet-1",)})
    found = select(job, candidates, Predictor.rank1().predict(job, candidates), only)
    assert [r.candidate.agent for r in found.chosen] == ["agent-1"]


def test_a_bad_record_costs_its_place(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    good = TrackRecord(on_time=50, valid=50)
    bad = TrackRecord(on_time=50, late=50, valid=80, rejected=20)
    candidates = [*(make_candidate(i, record=good) for i in range(3)), make_candidate(3, record=bad), make_candidate(4)]
    candidates.append(make_candidate(5, record=good))
    found = select(job, candidates, Predictor.rank1().predict(job, candidates), limits)
    assert [r.candidate.agent for r in found.chosen] == ["agent-0", "agent-1", "agent-2", "agent-5"]


def test_a_short_job_takes_few_contributors(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    short = job.model_copy(update={"samples": 64 * 32})
    candidates = [make_candidate(i) for i in range(4)]
    found = select(short, candidates, Predictor.rank1().predict(short, candidates), limits)
    assert len(found.chosen) == 2 and "too few steps" in found.refused[0].reason


# ---------------------------------------------------------------- rounds


def speeds(values: list[float]) -> dict[int, Prediction]:
    return {
        i: Prediction(agent=f"a{i}", seconds=s, low=s / 2, high=2 * s, base=s, source="rank-1")
        for i, s in enumerate(values)
    }


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40_000), st.lists(st.floats(1e-4, 10), min_size=1, max_size=8), st.data())
def test_a_job_is_finished_and_never_overrun(samples: int, seconds: list[float], data: st.DataObject) -> None:
    """Rounds in which everybody delivers anything between nothing and all: paid steps end exactly at the total."""
    profile = {"overhead": 0.0, "per_sample": 1e-3}
    job = JobFacts.model_validate({"features": {}, "samples": samples, "batch": 8, "profile": profile})
    chosen = _ranked(seconds)
    plan = plan_job(job, chosen, predictor="rank-1", version="0")
    assert plan.total_steps + plan.dropped_steps == job.steps
    assert plan.total_steps % plan.segment_steps == 0 and 1 <= plan.segment_steps <= 10
    assert plan.dropped_steps < 10 and plan.total_steps > 0
    remaining, before = plan.total_steps, 0
    for number in range(1, 120):
        if not remaining:
            break
        alive = {s: p for s, p in speeds(seconds).items() if s == 0 or data.draw(st.booleans())}
        found = plan_round(plan, number, remaining, alive)
        assert 0 < found.steps <= remaining
        assert sum(s.steps for s in found.seats) == found.steps
        assert {s.seat for s in found.seats} | set(found.idle) == set(alive)
        for seat in found.seats:
            assert 0 <= seat.progress_from < seat.progress_to <= 1_000_000
            assert seat.progress_from >= before and 0 < seat.time_box <= 86_400
        before = found.seats[0].progress_from
        lazy = data.draw(st.floats(0, 1))
        remaining -= sum(int(s.max_segments * lazy) * s.segment_steps for s in found.seats)
        if number > 6:  # enough of laziness: finish
            remaining -= min(
                remaining, found.steps - sum(int(s.max_segments * lazy) * s.segment_steps for s in found.seats)
            )
    assert remaining >= 0


def _ranked(seconds: list[float]) -> list:
    from models.selection import Ranked

    found = speeds(seconds)
    return [
        Ranked(Candidate(agent=p.agent, wallet=f"w{i}", device_class="c", ask=1), p, 1, 1.0) for i, p in found.items()
    ]


def test_full_delivery_takes_at_most_the_planned_rounds() -> None:
    profile = {"overhead": 0.0, "per_sample": 1e-3}
    for samples in (8 * 40, 8 * 400, 8 * 1_234, 8 * 50_000):
        job = JobFacts.model_validate({"features": {}, "samples": samples, "batch": 8, "profile": profile})
        plan = plan_job(job, _ranked([1.0, 2.0, 4.0, 8.0]), predictor="p", version="0")
        remaining, number = plan.total_steps, 0
        while remaining:
            number += 1
            split = plan_pilot if number == 1 and plan.pilot_segments else plan_round
            remaining -= split(plan, number, remaining, plan.predictions).steps
        assert 0.6 * plan.rounds <= number <= plan.rounds, "somebody may do more than its share until the bell"
    assert plan.local_steps == 100  # 50,000 steps over 4: at least 40 rounds
    assert plan.rounds >= 40


def test_the_slowest_seat_gets_three_segments_and_shares_follow_speed() -> None:
    job = JobFacts.model_validate(
        {"features": {}, "samples": 32_000, "batch": 32, "profile": {"overhead": 0.0, "per_sample": 1e-3}}
    )
    plan = plan_job(job, _ranked([1.0, 2.0, 4.0, 8.0]), predictor="p", version="0")
    found = plan_round(plan, 1, plan.total_steps, plan.predictions)
    steps = {s.seat: s.steps for s in found.seats}
    assert min(s.max_segments for s in found.seats) >= 3
    assert steps[2] == pytest.approx(2 * steps[3], rel=0.3)
    assert 8 / 15 - 0.05 < steps[0] / found.steps < 8 / 15 + 0.05  # over a third of the work, whatever it weighs
    giant = plan.predictions | {0: speeds([0.01])[0]}
    found = {s.seat: s.steps for s in plan_round(plan, 1, plan.total_steps, giant).seats}
    assert 0.5 < found[0] / sum(found.values()) <= MOST_WORK  # what is paid for counts
    three = {s: p for s, p in plan.predictions.items() if s != 2}
    free = {s.seat: s.steps for s in plan_round(plan, 1, plan.total_steps, three).seats}
    assert free[0] > sum(free.values()) / 2  # with three seats nothing bounds it
    slower = plan.predictions | {0: speeds([100.0])[0]}
    assert {s.seat: s.steps for s in plan_round(plan, 2, 800, slower).seats}.get(0, 0) < steps[0] / 4


def test_kept_state_takes_short_rounds_of_short_segments() -> None:
    profile = {"overhead": 0.0, "per_sample": 1e-3}
    facts = {"features": {}, "samples": 320_000, "batch": 32, "profile": profile, "kept": True}
    long = JobFacts.model_validate(facts)
    plan = plan_job(long, _ranked([1.0, 2.0, 4.0, 8.0]), predictor="p", version="0")
    assert plan.kept and (plan.local_steps, plan.rounds) == (25, 100)
    assert 1 <= plan.segment_steps <= 5
    equal = plan_job(long, _ranked([1.0] * 4), predictor="p", version="0")
    assert equal.segment_steps == 5
    short = plan_job(long.model_copy(update={"samples": 32 * 100}), _ranked([1.0] * 4), predictor="p", version="0")
    assert short.local_steps == 15 and short.total_steps == 100
    assert not plan_job(long.model_copy(update={"kept": False}), _ranked([1.0]), predictor="p", version="0").kept


@pytest.mark.parametrize("parameters", [1_000, 36_000, 2_000_000])
def test_a_text_takes_the_fewest_steps_that_send_a_hundredth_of_the_bytes(parameters: int) -> None:
    profile = {"overhead": 0.0, "per_sample": 1e-3}
    facts = {"features": {}, "samples": 3_200 * 4, "batch": 4, "profile": profile, "kept": True, "text": True}
    plan = plan_job(JobFacts.model_validate(facts), _ranked([1.0, 2.0, 4.0, 8.0]), predictor="p", version="0")
    table = plan_job(
        JobFacts.model_validate(facts | {"text": False}), _ranked([1.0, 2.0, 4.0, 8.0]), predictor="p", version="0"
    )
    update = len(quantise(np.ones(parameters, np.float32)))

    def fewer(steps: int) -> float:  # bytes of data parallel training over ours, of a contributor's round
        return 8 * parameters * steps / (2 * update)

    assert fewer(plan.local_steps) >= FEWER_BYTES > fewer(plan.local_steps - KEPT_SEGMENT)
    assert plan.local_steps < table.local_steps == 25
    assert local_steps(100_000, 4, kept=False, text=True) == local_steps(100_000, 4)  # where the client wants stateless
    assert cheap_steps(200, 1) == 27 and cheap_steps(100, 1) == 14


def test_caps_bind_and_nobody_left_is_an_error() -> None:
    plan = _plan_of([1.0, 1.0])
    found = plan_round(plan, 1, plan.total_steps, plan.predictions, most_steps={0: 20})
    assert next(s for s in found.seats if s.seat == 0).steps <= 20
    nothing = plan_round(plan, 1, plan.total_steps, plan.predictions, most_steps={0: 0, 1: 0})
    assert nothing.steps == 0 and nothing.seats == ()
    with pytest.raises(ValueError, match="no seat"):
        plan_round(plan, 1, 100, {})


def _plan_of(seconds: list[float]) -> JobPlan:
    job = JobFacts.model_validate(
        {"features": {}, "samples": 32_000, "batch": 32, "profile": {"overhead": 0.0, "per_sample": 1e-3}}
    )
    return plan_job(job, _ranked(seconds), predictor="p", version="0")


# ---------------------------------------------------------------- quote


def ask(job: JobFacts, limits: Limits, candidates: list[Candidate]) -> Quote:
    return quote_job(QuoteInputs(job=job, candidates=tuple(candidates), limits=limits), Predictor.rank1())


def test_a_quote_is_reproducible_and_its_cap_holds(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    quote = ask(job, limits, [make_candidate(i, share=s) for i, s in enumerate((1.0, 0.5, 0.25, 0.125))])
    again = quote_job(Quote.model_validate_json(quote.model_dump_json()).inputs, Predictor.rank1())
    assert again == quote
    assert quote.seconds_p50 <= quote.seconds_p90 and quote.cost_p50 <= quote.cost_p90 <= quote.hard_cap
    steps = quote.plan.total_steps + stranded_steps(quote.plan)
    assert quote.hard_cap == with_fee(steps * quote.price_per_step, limits.fee_bps)
    assert quote.plaintext_readers == 4 and any("decrypt" in n for n in quote.notes)
    assert quote.price_per_step == max(s.ask for s in quote.plan.seats)
    assert quote.single_machine_seconds == pytest.approx(2_000 * 1.32e-3)
    assert quote.advice is not None and "own machine" in quote.advice  # 1.3 s there: we are slower


def test_no_advice_against_us_where_we_are_faster(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    heavy = job.model_copy(update={"profile": job.profile.model_copy(update={"per_sample": 0.1})})
    quote = ask(heavy, limits, [make_candidate(i) for i in range(4)])
    assert quote.seconds_p50 < quote.single_machine_seconds and quote.advice is None
    dear = ask(heavy, limits.model_copy(update={"own_hourly": 1}), [make_candidate(i) for i in range(4)])
    assert dear.advice is not None and "costs" in dear.advice


def test_too_small_a_budget_names_the_least_that_would_do(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    candidates = [make_candidate(0, 1.0), make_candidate(1, 2.0)]
    with pytest.raises(BadInput) as caught:
        ask(job, limits.model_copy(update={"budget": 10}), candidates)
    assert caught.value.field == "budget"
    least = caught.value.fix.split("at least ")[1].split(",")[0]
    units = round(float(least) * 10**limits.decimals)
    assert ask(job, limits.model_copy(update={"budget": units}), candidates).hard_cap == units
    with pytest.raises(BadInput):
        ask(job, limits.model_copy(update={"budget": units - 1}), candidates)


def test_a_deadline_before_p90_is_refused(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    candidates = [make_candidate(0)]
    p90 = ask(job, limits, candidates).seconds_p90
    assert ask(job, limits.model_copy(update={"deadline_seconds": p90 + 0.001}), candidates)
    with pytest.raises(BadInput) as caught:
        ask(job, limits.model_copy(update={"deadline_seconds": p90 - 0.001}), candidates)
    assert caught.value.field == "deadline"


def test_nobody_is_said_with_the_reason(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    with pytest.raises(NoContributors, match="no contributor is connected"):
        ask(job, limits, [])
    with pytest.raises(NoContributors, match="allow-list"):
        ask(job, limits.model_copy(update={"allow": ("nobody",)}), [make_candidate(0)])


# ---------------------------------------------------------------- correction


def test_one_observation_outweighs_any_prior() -> None:
    prior = speeds([1.0])[0]
    after = Correction.start(prior).observe(seconds=300.0, steps=100, segments=10)
    assert after.prediction.seconds == pytest.approx(3.0, rel=0.2)
    assert after.prediction.high / after.prediction.low < prior.high / prior.low
    steady = after
    for _ in range(5):
        steady = steady.observe(300.0, 100, 10)
    assert steady.prediction.seconds == pytest.approx(3.0, rel=0.02)
    moved = steady
    for _ in range(6):
        moved = moved.observe(600.0, 100, 10)
    assert moved.prediction.seconds == pytest.approx(6.0, rel=0.15)  # a machine that becomes busy is followed


def test_nothing_done_teaches_nothing() -> None:
    start = Correction.start(speeds([1.0])[0])
    assert start.observe(10.0, 0, 0) is start
    assert math.exp(start.mean) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="positive"):
        start.observe(float("nan"), 10, 1)


def test_a_planned_seat_round_trips() -> None:
    seat = PlannedSeat(seat=0, agent="a", wallet="w", device_class="c", ask=1, prediction=speeds([1.0])[0])
    assert PlannedSeat.model_validate_json(seat.model_dump_json()) == seat


def test_a_blurred_observation_moves_the_belief_less() -> None:
    before = Correction.start(Prediction(agent="a", seconds=0.01, low=0.008, high=0.0125, base=0.01, source="xgboost"))
    sharp, blurred = (before.observe(10.0, 100, 10, blur=blur).prediction.seconds for blur in (0.0, 2.0))
    assert 0.01 < blurred < 0.02 < sharp < 0.1
