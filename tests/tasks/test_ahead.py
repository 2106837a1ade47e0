"""A round whose audit runs beside the next one, with real contributors on a real chain, killed at every write."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloudlinkup.errors import ProgramError, ShardTimeout
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.training.aggregate import aggregate
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import dequantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.verify.replay import Case, ReplayResult, replay
from models.telemetry import Telemetry
from tasks.awards import owed, read_job
from tasks.context import Run
from tasks.deliver import best_weights
from tasks.orders import update_name
from tasks.rebalance import close_round, give_up, rebalance
from tasks.release import release
from tasks.rounds import drop_rows, next_round
from tasks.state import Entry, RoundState
from tasks.subject import generation
from tasks.together import every
from tasks.train import order_round, train_round
from tasks.verify import ahead_committed, verify_round
from tests.conftest import Platform
from tests.tasks.conftest import STEP, Rig
from tests.tasks.on_chain import PRICE, join
from tests.tasks.test_ending import PLAN, lock


class SkipsSteps(SegmentRunner):
    """Two steps of three are claimed and not done: no update stands out by it."""

    def step(self, index: int) -> None:
        if index % 3:
            self._steps += 1
        else:
            super().step(index)


async def silent(*_: object) -> None:
    pass


def quiet(run: Run) -> None:
    run.showing = SimpleNamespace(show=silent, end=silent, exceptional=lambda *_: None)  # type: ignore[assignment]


@pytest.fixture
async def market(rig: Rig, platform: Platform) -> AsyncIterator[Rig]:
    """Three contributors with a place each in a job that is locked on a real chain, not begun."""
    run = rig.run
    rig.add("three")
    async with Ledger.connect(platform.chain.url, platform.chain.program_id, poll=0.02) as ledger:
        places = await join(rig, platform, ledger, 3)
        run.state.plan = json.loads(PLAN.model_copy(update={"seats": places, "known": (0, 1, 2)}).model_dump_json())
        await lock(run, platform, 3_600)
        quiet(run)
        run.save("rounds")
        yield rig


async def a_round(run: Run) -> RoundState | None:
    """One turn of the flow's loop."""
    if not await next_round(run):
        return None
    await order_round.fn(run)
    await every(train_round.fn(run), close_round.fn(run))
    await verify_round.fn(run)
    round_ = run.round
    await release.fn(run)
    await rebalance.fn(run)
    return round_


def kinds(run: Run) -> list[tuple[str, int]]:
    return [(e.kind, e.data.get("round", 0)) for e in run.store.events(run.request_id)]


def run_entries(run: Run, seat: int) -> list[Entry]:
    """Of all rounds so far."""
    rounds = [RoundState.model_validate_json(text) for text in run.store.rounds(run.request_id)]
    return [entry for round_ in rounds for entry in round_.entries if entry.seat == seat]


def cheat(rig: Rig, seat: int) -> None:
    rig.cluster.by_agent[rig.run.state.seat(seat).agent].handler._factory = SkipsSteps


def averaged(run: Run, round_: RoundState, seats: set[int]) -> np.ndarray:
    size = run.weights.weights.size
    updates = {
        e.seat: (dequantise((run.folder / update_name(round_.round, e.seat)).read_bytes(), size), e.segments * STEP)
        for e in round_.entries
        if e.seat in seats
    }
    return aggregate(updates).update


async def test_training_goes_on_before_the_audit_ends_and_all_of_it_is_paid(market: Rig) -> None:
    run = market.run
    first = await a_round(run)
    assert first is not None and not first.ahead and run.open is None, "nobody has a verified round yet"
    second = await a_round(run)
    assert second is not None and second.ahead and run.open is second
    await ahead_committed(run)
    assert second.stage == "committed"
    assert run.state.generation == 2 and run.round is None
    job = await read_job(run)
    for entry in second.entries:
        earned = sum(e.segments for r in (first, second) for e in r.entries if e.seat == entry.seat) * STEP * PRICE
        assert job.seats[entry.seat].awarded + owed(run, entry.seat) == earned, "what it may earn is set aside"
        assert owed(run, entry.seat) > 0
    third = await a_round(run)
    assert third is not None and run.open is third
    assert {e.outcome for r in (first, second) for e in r.entries} == {"accepted"}
    assert {e.outcome for e in third.entries} == {"committed"}
    at = kinds(run).index
    assert at(("round", 2)) < at(("verified", 2)) < at(("released", 2)) < at(("round", 3))
    while await a_round(run) is not None:
        pass
    await close_round.fn(run)
    assert run.open is None and run.state.steps_done == run.state.total_steps == sum(s.steps for s in run.state.seats)
    job = await read_job(run)
    assert [s.awarded for s in job.seats] == [seat.steps * PRICE for seat in run.state.seats]
    rounds = [RoundState.model_validate_json(text) for text in run.store.rounds(run.request_id)]
    assert {r.stage for r in rounds} == {"finished"} and not rounds[-1].ahead, "the last one waits for its audit"
    assert not list(run.folder.glob("rows-*.npy"))


async def test_an_odd_update_that_proves_itself_waits_for_nothing(market: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = market.run
    await a_round(run)
    monkeypatch.setattr("tasks.verify.suspicious", lambda *_: {1: "loss"})
    second = await a_round(run)
    assert second is not None and second.ahead, "it was trained again here, to the very same bytes"
    entry = next(e for e in second.entries if e.seat == 1)
    assert second.cleared_segments == entry.segments > 0 and second.cleared_seconds > 0
    stored = RoundState.model_validate_json(run.store.rounds(run.request_id)[-1])
    assert {e.seat: e.cleared for e in stored.entries} == {0: 0, 1: entry.segments, 2: 0}, "a restart knows it too"
    replayed: list[str] = []

    def counting(case: Case, **options: Any) -> ReplayResult:
        replayed.append(case.claim.root.hex())
        return replay(case, **options)

    monkeypatch.setattr("tasks.audit.replay", counting)
    cheat(market, 1)
    third = await a_round(run)
    assert third is not None and not third.ahead, "what does not prove itself is judged first"
    assert next(e for e in third.entries if e.seat == 1).outcome == "rejected"
    roots = {e.seat: e.root for e in second.entries}
    assert roots[0] in replayed and roots[2] in replayed and roots[1] not in replayed, "once is enough"
    assert entry.outcome == "accepted" and entry.drawn and entry.replayed == entry.segments
    assert second.audit_segments == sum(e.replayed for e in second.entries)
    job = await read_job(run)
    paid = sum(e.segments for e in run_entries(run, 1) if e.outcome == "accepted") * STEP * PRICE
    assert job.seats[1].awarded == paid > entry.segments * STEP * PRICE
    assert run.state.seat(1).state == "rejected" and run.open is None


async def test_a_late_miss_is_taken_out_as_if_it_had_not_been(market: Rig) -> None:
    run = market.run
    await a_round(run)
    before = generation(run, 1)
    cheat(market, 0)
    second = await a_round(run)
    assert second is not None and second.ahead
    both = averaged(run, second, {0, 1, 2})
    np.testing.assert_array_equal(run.weights.weights, before.weights + both)
    published, done = run.weights.published.copy(), run.state.steps_done
    third = await a_round(run)
    assert third is not None
    by_seat = {e.seat: e for e in third.entries}
    assert by_seat[0].outcome in ("refused", "lost") and {e.outcome for e in second.entries} == {"accepted", "rejected"}
    assert second.entries[0].outcome == "rejected" and run.state.seat(0).state == "rejected"
    lost = second.entries[0].segments * STEP
    honest = sum(by_seat[s].segments for s in (1, 2)) * STEP
    assert run.state.steps_done == done - lost + honest
    without = Published(before.weights, published, 2)
    without.weights = before.weights + averaged(run, second, {1, 2})
    without.step(averaged(run, third, {1, 2}))
    np.testing.assert_array_equal(run.weights.weights, without.weights)
    np.testing.assert_array_equal(run.weights.published, without.published)
    assert not run.state.unpublished and ("taken_out", 2) in kinds(run)
    while await a_round(run) is not None:
        pass
    await close_round.fn(run)
    job = await read_job(run)
    assert run.state.steps_done == run.state.total_steps == sum(seat.steps for seat in run.state.seats)
    assert [s.awarded for s in job.seats] == [seat.steps * PRICE for seat in run.state.seats]
    record = await Telemetry(run.settings.home.telemetry_db).attempts()
    assert list(record["outcome"]).count("rejected") == 1


async def test_what_the_last_audit_takes_out_is_not_delivered(market: Rig) -> None:
    """A job that ends while a round is open: by its deadline, or as it failed."""
    run = market.run
    await a_round(run)
    before = run.weights.weights.copy()
    cheat(market, 1)
    second = await a_round(run)
    assert second is not None and second.ahead
    await close_round.fn(run)
    np.testing.assert_array_equal(best_weights(run), before + averaged(run, second, {0, 2}))
    stored = generation(run, run.state.generation)
    np.testing.assert_array_equal(stored.weights, best_weights(run))


async def test_no_work_of_a_round_that_cannot_be_paid_is_in_the_weights(
    market: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = market.run
    await a_round(run)
    before, done = run.weights.weights.copy(), run.state.steps_done
    await a_round(run)

    async def ended(*_: object) -> None:
        raise ProgramError(6022, "JobEnded", "the deadline has passed")

    monkeypatch.setattr("tasks.release.award_round", ended)
    await close_round.fn(run)
    assert run.open is None and run.state.steps_done == done
    np.testing.assert_array_equal(best_weights(run), before)


async def test_a_failed_job_delivers_nothing_that_was_not_awarded(market: Rig) -> None:
    run = market.run
    await a_round(run)
    before = run.weights.weights.copy()
    await a_round(run)
    await give_up(run)
    np.testing.assert_array_equal(best_weights(run), before)
    assert run.open is None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment is opened, so that no verdict is possible without the contributor."""
    monkeypatch.setattr("tasks.audit.plan_openings", lambda drawn, costs: frozenset(drawn))


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("rounds", ["stateless", "kept"])
async def test_who_does_not_open_loses_that_round_and_what_it_built_on_it(market: Rig, rounds: str) -> None:
    run = market.run
    run.prepared = replace(run.data, spec=replace(run.data.spec, rounds=rounds))
    await a_round(run)
    await a_round(run)
    agent, real = run.state.seat(2).agent, market.cluster.call

    async def deaf(to: str, request: Any, key: str) -> Any:
        if to == agent and key.startswith("challenge-") and key.endswith("-2-2"):  # of round 2
            raise ShardTimeout("the line is down")
        return await real(to, request, key)

    market.cluster.call = deaf  # type: ignore[method-assign]
    second = run.open
    third = await a_round(run)
    assert second is not None and third is not None
    assert {e.seat: e.outcome for e in second.entries} == {0: "accepted", 1: "accepted", 2: "timeout"}
    fourth = await a_round(run)
    assert fourth is not None
    late = next(e for e in third.entries if e.seat == 2)
    assert late.outcome == ("timeout" if rounds == "kept" else "accepted"), late.reason
    last = next((e for e in fourth.entries if e.seat == 2), None)
    if rounds == "kept":
        assert last is None, "two faults in a row, and more than it would credit"
    else:
        assert last is not None and (last.outcome, last.reason) == ("accepted", ""), "it goes on,"
        assert not fourth.ahead, "and has no credit left for a round ahead"
    while await a_round(run) is not None:
        pass
    job = await read_job(run)
    assert [s.awarded for s in job.seats] == [seat.steps * PRICE for seat in run.state.seats]
    assert run.state.steps_done == run.state.total_steps == sum(seat.steps for seat in run.state.seats)


async def test_a_commitment_that_the_chain_gave_up_is_made_again_and_the_round_judged(market: Rig) -> None:
    run = market.run
    run.prepared = replace(run.data, spec=replace(run.data.spec, rounds="kept"))
    await a_round(run)
    second = await a_round(run)
    assert second is not None and second.ahead
    second.stage = "trained"  # as NotConfirmed leaves it
    await close_round.fn(run)
    assert {(e.outcome, e.void) for e in second.entries} == {("accepted", "")}


async def test_a_round_that_is_taken_out_leaves_no_mark_on_patience(market: Rig) -> None:
    run = market.run
    train = run.job.train.model_copy(update={"patience": 1, "min_improvement": 0.0})
    run.job = run.job.model_copy(update={"train": train})
    await a_round(run)
    best = run.state.best_score, run.state.best_generation, run.state.best_round, run.state.worse_rounds
    cheat(market, 0)
    second = await a_round(run)
    assert second is not None and second.ahead
    run.state.worse_rounds = 1  # as if its score had been worse
    assert not await next_round(run) and not run.state.ended_early, "not before its audit"
    await close_round.fn(run)
    state = run.state
    assert (state.best_score, state.best_generation, state.best_round, state.worse_rounds) == best
    assert await next_round(run)


async def test_who_refused_for_want_of_credit_is_in_no_round_ahead(market: Rig) -> None:
    run = market.run
    await a_round(run)
    run.state.seat(1).gap = True
    second = await a_round(run)
    assert second is not None and not second.ahead


class Killed(BaseException):
    """As kill -9 at that instruction: nothing after it happens."""


async def finish(run: Run) -> None:
    while await a_round(run) is not None:
        pass
    await close_round.fn(run)


def reopened(market: Rig) -> Run:
    """The job as the next run of it finds it."""
    old = market.run
    run = Run(old.job, old.request_id, "again", old.settings, old.ledger, old.cluster)
    for name in ("operator", "verifier", "sponsor", "cranker", "mint", "owner", "genesis", "decimals", "prepared"):
        setattr(run, name, getattr(old, name))
    run.published = generation(run, run.state.generation)
    quiet(run)
    market.run = run
    return run


async def alive(market: Rig, wound: Callable[[Run], None]) -> int:
    """Runs the job to its end, every time from what was stored; how often it was struck."""
    struck = 0
    while True:
        run = reopened(market)
        wound(run)
        try:
            await finish(run)
        except Killed:
            struck += 1
            await run.let_go()
        else:
            return struck


def dies_after(run: Run, writes: int) -> None:
    """At its `writes`-th write to the store: half of the times before it, half after."""
    left = [writes]

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def write(*args: Any, **options: Any) -> None:
            left[0] -= 1
            if left[0] < 0 or (left[0] == 0 and writes % 2):
                raise Killed
            real(*args, **options)
            if left[0] == 0:
                raise Killed

        return write

    for name in ("save", "save_round"):
        setattr(run.store, name, dying(getattr(run.store, name)))


@pytest.mark.parametrize("dishonest", [False, True])
async def test_killed_at_every_write_it_pays_and_counts_everything_once(market: Rig, dishonest: bool) -> None:
    """The first run dies at its first write, the second at its second, and so on, until one lives."""
    await a_round(market.run)
    if dishonest:
        cheat(market, 0)
    lives = [0]

    def wound(run: Run) -> None:
        lives[0] += 1
        dies_after(run, lives[0])

    struck = await alive(market, wound)
    run = market.run
    assert not run.state.rolled_back  # which would be paid and done again
    assert struck >= 8
    job = await read_job(run)
    assert run.state.steps_done == run.state.total_steps == sum(seat.steps for seat in run.state.seats)
    assert [s.awarded for s in job.seats] == [seat.steps * PRICE for seat in run.state.seats]
    assert (run.state.seat(0).state == "rejected") == dishonest and run.open is None and run.round is None
    rounds = [RoundState.model_validate_json(text) for text in run.store.rounds(run.request_id)]
    assert any(r.ahead for r in rounds)
    counted = sum(e.segments for r in rounds for e in r.entries if e.outcome == "accepted") * STEP
    assert counted == run.state.total_steps
    attempts = await Telemetry(run.settings.home.telemetry_db).attempts()
    good = [n for n, outcome in zip(attempts["steps"], attempts["outcome"], strict=True) if outcome == "accepted"]
    assert sum(good) == counted, "and recorded once"
    drop_rows(run)  # as the job's end does
    assert not list(run.folder.glob("rows-*.npy"))


async def test_killed_at_random_writes_it_ends_the_same(market: Rig) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    await a_round(market.run)
    cheat(market, dice.randrange(3))
    await alive(market, lambda run: dies_after(run, dice.randint(1, 60)))
    run = market.run
    job = await read_job(run)
    assert run.state.steps_done == run.state.total_steps == sum(seat.steps for seat in run.state.seats)
    assert [s.awarded for s in job.seats] == [seat.steps * PRICE for seat in run.state.seats]
