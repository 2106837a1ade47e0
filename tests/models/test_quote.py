"""The quote for what a client wants, its reasons in words, its audit, its hours and reserves, and that it can be had
again from what it stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import hypot
from pathlib import Path

import pytest

from cloudlinkup.errors import BadInput, NoContributors
from cloudlinkup.training.moments import moments_size
from cloudlinkup.types import U64_MAX
from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.replay import ReplayCosts, plan_openings
from flows.quote import replay_quote
from models.auditing import ANSWER_BYTES, audit_cost, shard_cost, shown_seconds
from models.facts import Candidate, JobFacts, Limits
from models.margin import times_p90, training_spread
from models.plan import plan_job, plan_round
from models.predictor import Predictor
from models.quote import Quote, QuoteInputs, figures, quote_job, requote
from models.reasons import Goal
from models.registry import Registry
from models.selection import select

Make = Callable[..., Candidate]
HOUR = 3_600_000  # base units: 3.6 tokens


def ask(job: JobFacts, limits: Limits, candidates: list[Candidate], goal: Goal = "both") -> Quote:
    return quote_job(QuoteInputs(job=job, candidates=tuple(candidates), limits=limits, goal=goal), Predictor.rank1())


@pytest.fixture
def heavy(job: JobFacts) -> JobFacts:
    """A step of 1.6 s: a job of an hour on one machine."""
    return job.model_copy(update={"profile": job.profile.model_copy(update={"per_sample": 0.05})})


@pytest.fixture
def market(make_candidate: Make) -> list[Candidate]:
    """Two cheap slow ones, two dear fast ones: they differ in price by step as they do in what they ask an hour."""
    return [
        make_candidate(0, 2.0, ask=HOUR // 4),
        make_candidate(1, 2.0, ask=HOUR // 4),
        make_candidate(2, 1.0, ask=HOUR),
        make_candidate(3, 1.0, ask=HOUR),
    ]


def test_each_goal_gets_its_best(heavy: JobFacts, limits: Limits, market: list[Candidate]) -> None:
    cheap, fast = (ask(heavy, limits, market, goal) for goal in ("cheapest", "budget"))
    assert len(cheap.plan.seats) == 2 and len(fast.plan.seats) == 4
    assert cheap.cost_p50 < fast.cost_p50 and cheap.seconds_p90 > fast.seconds_p90
    assert [f.contributors for f in cheap.options] == [4, 2]  # the frontier: fastest first, each next one cheaper

    between = limits.model_copy(update={"deadline_seconds": (cheap.seconds_p90 + fast.seconds_p90) / 2})
    kept = ask(heavy, between, market, "deadline")
    assert kept.seconds_p90 <= between.deadline_seconds and kept.cost_p50 == fast.cost_p50
    assert (
        ask(heavy, limits, market, "deadline").cost_p50 == cheap.cost_p50
    )  # where there is time, the cheap ones do it

    poor = limits.model_copy(update={"budget": cheap.hard_cap})
    assert ask(heavy, poor, market, "budget").plan == cheap.plan
    assert ask(heavy, poor, market).plan == cheap.plan  # what a submitted job gets fits both too


def test_a_goal_says_what_to_write_into_the_job(heavy: JobFacts, limits: Limits, market: list[Candidate]) -> None:
    tight = limits.model_copy(update={"budget": 1, "deadline_seconds": 1.0})
    notes = ask(heavy, tight, market, "cheapest").notes
    assert any("a budget of at least" in n for n in notes) and any("a deadline of at least" in n for n in notes)
    with pytest.raises(BadInput, match="deadline"):
        ask(heavy, tight, market, "deadline")
    with pytest.raises(BadInput, match="budget"):
        ask(heavy, tight, market, "budget")


def test_reserves_are_taken_only_where_the_budget_needs_them(
    heavy: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    flexible = [make_candidate(0, ask=HOUR, reserve=HOUR // 2), make_candidate(1, ask=HOUR, reserve=HOUR // 2)]
    full = ask(heavy, limits, flexible)
    assert not full.at_reserve
    less = ask(heavy, limits.model_copy(update={"budget": full.hard_cap * 3 // 4}), flexible)
    assert less.at_reserve and less.price_per_step * 2 == pytest.approx(full.price_per_step, rel=0.01)
    assert any("reserves" in n for n in less.notes)
    with pytest.raises(BadInput, match="budget"):
        ask(heavy, limits.model_copy(update={"budget": full.hard_cap // 4}), flexible)
    with pytest.raises(BadInput, match="budget"):
        firm = [c.model_copy(update={"reserve": None}) for c in flexible]
        ask(heavy, limits.model_copy(update={"budget": full.hard_cap * 3 // 4}), firm)


def test_the_audit_is_part_of_the_time_and_has_its_own_figures(
    heavy: JobFacts, limits: Limits, market: list[Candidate]
) -> None:
    quote = ask(heavy, limits, market)
    step = heavy.profile.step_seconds(heavy.batch)
    expected = audit_cost(quote.plan, heavy)
    assert quote.audit_seconds == pytest.approx(expected.segments * quote.plan.segment_steps * step)
    assert 0 < quote.audit_seconds < heavy.steps * step and quote.audit_cost is None
    assert quote.audit_bytes == int(expected.bytes) > heavy.features["parameters"] * 12  # states are opened
    training = quote.plan.total_steps / sum(1 / s.prediction.seconds for s in quote.plan.seats)
    shown = shown_seconds(quote.audit_seconds, quote.plan.rounds, training)
    assert 0 < shown < quote.audit_seconds, "the rest of it runs beside the next rounds"
    fixed = limits.setup_seconds + quote.plan.rounds * limits.round_seconds + shown
    assert quote.seconds_p50 == pytest.approx(fixed + training)
    priced = ask(heavy, limits.model_copy(update={"own_hourly": HOUR}), market)
    assert priced.audit_cost == round(HOUR * quote.audit_seconds / 3600)


def test_a_chosen_learning_rate_is_shown_with_what_the_pilot_found(
    heavy: JobFacts, limits: Limits, market: list[Candidate]
) -> None:
    quote = ask(heavy.model_copy(update={"rates": {"0.003": 0.8, "0.01": 0.512345, "0.02": 0.6}}), limits, market)
    assert any("learning rate 0.01, chosen" in note and "0.01: 0.5123" in note for note in quote.notes)
    assert not any("learning rate" in note for note in ask(heavy, limits, market).notes)


def test_kept_state_is_named_and_its_openings_counted(heavy: JobFacts, limits: Limits, market: list[Candidate]) -> None:
    quote = ask(heavy.model_copy(update={"kept": True}), limits, market)
    assert any("train.rounds: kept" in note for note in quote.notes)
    assert not any("train.rounds" in note for note in ask(heavy, limits, market).notes)
    plan, count = quote.plan.model_copy(update={"seats": quote.plan.seats * 4}), heavy.features["parameters"]
    assert len(plan.seats) >= 4  # every second start is then opened
    facts = heavy.model_copy(update={"kept": True})
    first = plan_round(quote.plan, 1, quote.plan.total_steps, quote.plan.predictions)
    fresh = audit_cost(plan.model_copy(update={"kept": False}), facts, first)
    more = audit_cost(plan, facts, first).bytes - fresh.bytes
    assert more > 0
    costs = ReplayCosts(segment_seconds=1.0, opening_seconds=100.0, start_seconds=70.0)
    asked = shard_cost(5, costs, 24 + 12 * int(count), first=False, small=True)
    assert asked.bytes == pytest.approx(ANSWER_BYTES + moments_size(int(count)))


@pytest.mark.parametrize(("first", "small"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("opening", [0.01, 3.3, 100.0])
def test_the_expected_audit_is_the_average_of_real_draws(first: bool, small: bool, opening: float) -> None:
    """Against the protocol's own draw and the auditor's own choice of what to open, 3,000 times."""
    segments, costs = 12, ReplayCosts(segment_seconds=1.0, opening_seconds=opening)
    replayed = opened = 0
    for seed in range(3_000):
        drawn = sorted(draw(seed.to_bytes(32, "little"), segments, newcomer=first, small_job=small))
        states, at = plan_openings(drawn, costs), 0
        for number in drawn:
            replayed += 1 if number in states else number - at
            at = number
        opened += len(states)
    found = shard_cost(segments, costs, 1_000, first=first, small=small)
    assert found.segments == pytest.approx(replayed / 3_000, rel=0.08)
    assert found.bytes == pytest.approx(ANSWER_BYTES + 1_000 * opened / 3_000, rel=0.08)


def test_hours_bound_what_a_contributor_can_do(heavy: JobFacts, limits: Limits, make_candidate: Make) -> None:
    always = [make_candidate(0), make_candidate(1)]
    whole = ask(heavy, limits, always)
    partly = [always[0], make_candidate(1, open_seconds=whole.seconds_p50 / 2)]
    shorter = ask(heavy, limits, partly)
    alone = ask(heavy, limits, always[:1])
    assert whole.seconds_p50 < shorter.seconds_p50 < alone.seconds_p50
    assert "agent-1" in shorter.bottleneck and "hours" in shorter.bottleneck
    with pytest.raises(BadInput, match="hours end"):
        ask(heavy, limits, [make_candidate(0, open_seconds=60.0)])


def test_the_bottleneck_is_named_with_its_reason(
    heavy: JobFacts, job: JobFacts, limits: Limits, make_candidate: Make
) -> None:
    needy = heavy.model_copy(update={"memory": 2**30})
    small = make_candidate(1, 0.1, memory=2**29)
    found = ask(needy, limits, [make_candidate(0, memory=2**31), small]).bottleneck
    assert found.startswith("agent-1 is the bottleneck: memory") and "1.0 GiB" in found
    one, other = make_candidate(0, 0.2), make_candidate(1, 2.0)
    assert ask(heavy, limits, [one, other]).bottleneck.startswith("agent-0 is the bottleneck: speed")
    assert "rounds are the bottleneck" in ask(job, limits, [one, other]).bottleneck
    few = limits.model_copy(update={"max_contributors": 1})
    many = [make_candidate(i, 1.0) for i in range(8)]
    assert "number of places" in ask(heavy, few, many).bottleneck


def test_a_stored_quote_is_had_again(
    heavy: JobFacts,
    limits: Limits,
    market: list[Candidate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path))
    shipped = Registry(tmp_path / "models").champion()
    inputs = QuoteInputs(job=heavy, candidates=tuple(market), limits=limits, goal="deadline")
    quote, path = quote_job(inputs, shipped), tmp_path / "quote.json"
    path.write_text(quote.model_dump_json())
    assert replay_quote(path) == quote
    document = json.loads(path.read_text())
    document["cost_p50"] -= 1
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput, match="another quote"):
        replay_quote(path)
    path.write_text("{}")
    with pytest.raises(BadInput, match="holds no quote"):
        replay_quote(path)
    with pytest.raises(ValueError, match="made with"):
        requote(quote.model_copy(update={"version": "77"}), shipped)


# ---------------------------------------------------------------- bad input


def test_nobody_with_enough_memory_says_how_much_is_needed(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    needy = job.model_copy(update={"memory": 3 * 2**30})
    with pytest.raises(NoContributors, match=r"needs 3\.0 GiB, the most that one offers is 1\.0 GiB. Fix"):
        ask(needy, limits, [make_candidate(0, memory=2**30), make_candidate(1, memory=1)])


@pytest.mark.parametrize("left", [0.0, -5.0, -1e12, 1.0])
def test_a_deadline_that_nobody_can_meet(left: float, job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    """Negative too: the chain's clock may be ahead of the client's."""
    with pytest.raises(BadInput, match="90% confidence") as caught:
        ask(job, limits.model_copy(update={"deadline_seconds": left}), [make_candidate(0)])
    assert caught.value.field == "deadline" and "allow at least" in caught.value.fix


def test_prices_of_nothing_and_beyond_u64(job: JobFacts, limits: Limits, make_candidate: Make) -> None:
    free = ask(job, limits, [make_candidate(0, ask=0)])
    assert free.price_per_step == 1  # the least the chain can pay: never nothing for something
    with pytest.raises(NoContributors, match="more than a token account can hold"):
        ask(job, limits, [make_candidate(0, 4e6, ask=U64_MAX)])
    dear = make_candidate(0, ask=U64_MAX, ask_per="step")
    with pytest.raises(BadInput, match="no token account can hold") as caught:
        ask(job, limits.model_copy(update={"budget": U64_MAX}), [dear])
    assert caught.value.field == "budget"


def test_submitted_with_a_goal_both_limits_bind(heavy: JobFacts, limits: Limits, market: list[Candidate]) -> None:
    def submitted(goal: Goal, bounds: Limits) -> Quote:
        inputs = QuoteInputs(job=heavy, candidates=tuple(market), limits=bounds, goal=goal, submitted=True)
        return quote_job(inputs, Predictor.rank1())

    cheap, fast = (submitted(goal, limits) for goal in ("cheapest", "budget"))
    assert (len(cheap.plan.seats), len(fast.plan.seats)) == (2, 4)
    soon = limits.model_copy(update={"deadline_seconds": (cheap.seconds_p90 + fast.seconds_p90) / 2})
    assert submitted("cheapest", soon).plan == fast.plan, "the least money of what is in time"
    poor = limits.model_copy(update={"budget": cheap.hard_cap})
    assert submitted("budget", poor).plan == cheap.plan and submitted("deadline", poor).plan == cheap.plan
    for goal in ("deadline", "budget", "cheapest"):
        with pytest.raises(BadInput, match="budget"):
            submitted(goal, limits.model_copy(update={"budget": 1}))
        with pytest.raises(BadInput, match="deadline"):
            submitted(goal, limits.model_copy(update={"deadline_seconds": 1.0}))


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_the_price_is_the_least_in_time_and_the_highest_in_budget(
    heavy: JobFacts, limits: Limits, make_candidate: Make, part: float
) -> None:
    """Against every group that some price would bring, of which the sample alone would miss most."""
    crowd = [make_candidate(i, 1.0, ask=HOUR + i * HOUR // 20) for i in range(23)]
    free = limits.model_copy(update={"budget": 2**60, "max_contributors": 23, "by_goodput": False})
    inputs = QuoteInputs(job=heavy, candidates=tuple(crowd), limits=free)
    predictor = Predictor.rank1()
    ranked = select(heavy, crowd, predictor.predict(heavy, crowd), free).chosen
    every: list[tuple[float, int, int]] = []
    for count in range(1, 24):
        plan = plan_job(heavy, ranked[:count], predictor="p", version="0")
        found = figures(plan, ranked[:count], heavy, free)
        assert found is not None
        every.append((found.seconds_p90, found.cost, found.hard_cap))
    times, caps = [t for t, _, _ in every], [cap for _, _, cap in every]
    deadline = min(times) + part * (max(times) - min(times))
    bound = free.model_copy(update={"deadline_seconds": deadline})
    quote = quote_job(inputs.model_copy(update={"limits": bound, "goal": "deadline"}), predictor)
    assert quote.cost_p50 == min(cost for t, cost, _ in every if t <= deadline) and quote.seconds_p90 <= deadline
    budget = min(caps) + int(part * (max(caps) - min(caps)))
    poor = free.model_copy(update={"budget": budget})
    quote = quote_job(inputs.model_copy(update={"limits": poor, "goal": "budget"}), predictor)
    dearest = max((cap, t) for t, _, cap in every if cap <= budget)
    assert quote.seconds_p90 <= dearest[1] and quote.hard_cap <= budget


def test_the_p90_has_what_is_not_training_in_it_by_its_own_spread(
    heavy: JobFacts, limits: Limits, market: list[Candidate]
) -> None:
    exact = limits.model_copy(update={"setup_spread": 0.0, "round_spread": 0.0, "measured_jobs": 3})
    loose = limits.model_copy(update={"setup_spread": 1.0, "round_spread": 0.5})
    narrow, wide = ask(heavy, exact, market), ask(heavy, loose, market)
    assert narrow.seconds_p50 == wide.seconds_p50 < narrow.seconds_p90 < wide.seconds_p90
    own = limits.setup_seconds + narrow.plan.rounds * limits.round_seconds
    training = narrow.plan.total_steps / sum(1 / s.prediction.seconds for s in narrow.plan.seats)
    shown = shown_seconds(narrow.audit_seconds, narrow.plan.rounds, training)
    assert narrow.seconds_p50 == pytest.approx(own + shown + training)
    slower = times_p90(training_spread([s.prediction for s in narrow.plan.seats]))
    assert narrow.seconds_p90 == pytest.approx(narrow.seconds_p50 + training * (slower - 1))
    margins = [limits.setup_seconds * (times_p90(1.0) - 1), (own - limits.setup_seconds) * (times_p90(0.5) - 1)]
    assert wide.seconds_p90 == pytest.approx(wide.seconds_p50 + hypot(*margins, training * (slower - 1)))
    assert max(s.prediction.high / s.prediction.seconds for s in narrow.plan.seats) > slower  # nobody's worst at once
    assert any("by the last 3 jobs here" in note for note in narrow.notes)
    assert any("no job has measured here yet" in note for note in wide.notes)
