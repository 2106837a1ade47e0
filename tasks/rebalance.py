"""Stage *rebalance*: aggregate what verified, score it, learn the speeds, say who goes on. Ends a round."""

from __future__ import annotations

import asyncio
from copy import copy
from dataclasses import asdict
from statistics import median

from prefect import task
from prefect.cache_policies import NO_CACHE

from cloudlinkup.errors import ProgramError
from cloudlinkup.training.evaluate import evaluate, score
from cloudlinkup.training.headline import better
from cloudlinkup.training.rollback import MOST as MOST_ROLLBACKS
from cloudlinkup.training.rollback import rolls_back
from cloudlinkup.wire.hashes import sha256
from models.again import Waited
from models.correction import Correction
from models.reputation import evidence_hash
from models.telemetry import Attempt, Telemetry
from tasks.ahead import averaged, counts, momentum, take_out, without_misses
from tasks.awards import unawarded
from tasks.context import Run
from tasks.newcomer import one_of_each
from tasks.orders import read_order
from tasks.release import award_entries, dispute_rejected
from tasks.rounds import rows_name
from tasks.segment import stored_facts
from tasks.state import Entry, RoundState, Seat
from tasks.subject import subject
from tasks.trials import advance_trials
from tasks.verify import verify_ahead

HANDLING = 0.1  # seconds of a shard that the gateway's clock cannot tell from training: upload, scheduling, warm-up


@task(name="rebalance", cache_policy=NO_CACHE)
async def rebalance(run: Run) -> None:
    """Idempotent by construction: weights are written as a new generation, then state, then the round's end.

    A round that goes ahead is open afterwards: `close_round` counts its audit and ends it.
    """
    round_ = run.round
    assert round_ is not None
    if round_.stage == "finished":
        return
    # a run that was killed between the two writes below comes here again: what its state counts is not counted twice
    with run.timed("rebalance"):
        if run.state.counted != round_.mark:
            await _count(run, round_)
            run.state.counted = round_.mark
            if round_.ahead:
                run.save_round(round_)
            else:
                await _record(run, round_)
                _count_audit(run, round_)
            run.save()
        if round_.ahead:
            run.open = round_
        else:
            await _end(run, round_)
        run.round = None
    run.event(
        "round",
        round=round_.round,
        rounds=int(run.state.plan["rounds"]),
        steps=run.state.steps_done,
        of=run.state.total_steps,
        metric=run.state.metric,
        score=round(run.state.score, 4),
        accepted=sum(counts(entry) for entry in round_.entries),
        rejected=sum(entry.outcome == "rejected" for entry in round_.entries),
        lost=sum(entry.outcome in ("lost", "timeout") for entry in round_.entries),
        audited=not round_.ahead,
    )


@task(name="audit", cache_policy=NO_CACHE)
async def close_round(run: Run) -> None:
    """Judges, awards and ends the round that went ahead, where there is one; run beside the next one's training."""
    round_ = run.open
    if round_ is None:
        return
    try:
        await verify_ahead(run, round_)
        await award_entries(run, round_)
    except ProgramError as error:
        if error.name != "JobEnded":
            raise
        left = await unawarded(run, round_.round)  # an award may have landed just before the deadline
        for entry in round_.entries:  # nobody is paid for it any more, so nothing of it is delivered
            paid = left is not None and entry.seat not in left
            if entry.outcome == "committed" or (entry.outcome == "accepted" and not paid):
                entry.outcome, entry.reason = "lost", "the deadline passed before its award"
        await dispute_rejected(run, round_)
    await _close(run, round_)


async def give_up(run: Run) -> None:
    """Ends the open round of a job that failed: what it has no award for is not in the weights either."""
    round_ = run.open
    if round_ is None:
        return
    for entry in round_.entries if run.state.awards_round < round_.round else ():
        if counts(entry):
            entry.outcome, entry.reason = "lost", "the job failed before its award"
    await _close(run, round_)


async def _close(run: Run, round_: RoundState) -> None:
    with run.timed("rebalance"):
        if run.state.judged != round_.mark:
            weights = await asyncio.to_thread(without_misses, run, round_)
            await _record(run, round_)
            if weights is not None:
                take_out(run, round_, weights)
            _count_audit(run, round_)
            run.save()
        await _end(run, round_)
        run.open = None


async def _end(run: Run, round_: RoundState) -> None:
    round_.stage = "finished"
    run.save_round(round_)
    (run.folder / rows_name(round_.round)).unlink(missing_ok=True)
    run.showing.exceptional(run, round_)
    await run.showing.show(run, round_)


async def _count(run: Run, round_: RoundState) -> None:
    """What the round's training adds to the job's state, which is saved afterwards."""
    await asyncio.to_thread(_advance if run.job.search is None else advance_trials, run, round_)
    handling = handling_seconds(round_)
    for entry in round_.entries:
        _learn(run, entry, handling, rolled_back=round_.round in run.state.rolled_back)
    ordered = {entry.seat for entry in round_.entries}
    for seat in run.state.active():
        waited = Waited(seat.waited, seat.tries).after(worked=seat.seat in ordered)
        seat.waited, seat.tries = waited.rounds, waited.tries
    if round_.commit_slot or round_.ahead:  # whose commitment may be on its way
        run.state.round = round_.round
    run.state.empty_rounds = 0 if any(counts(entry) for entry in round_.entries) else run.state.empty_rounds + 1
    run.state.round_training = max((entry.seconds for entry in round_.entries if counts(entry)), default=0.0)
    run.state.round_seconds = max(0.0, run.worked() - run.state.round_began)


def _count_audit(run: Run, round_: RoundState) -> None:
    """What its audit adds to it, at one stroke: the state may be saved at any moment for what runs beside it."""
    for entry in round_.entries:
        _tally(run, entry)
    run.state.audit_bytes += round_.audit_bytes
    run.state.audit_segments += round_.audit_segments
    run.state.audit_seconds = round(run.state.audit_seconds + round_.audit_seconds, 4)
    run.state.judged = round_.mark


def _advance(run: Run, round_: RoundState) -> None:
    """The next generation of weights, from the updates that count weighted by their steps; none where the round is
    taken back (`training/rollback.py`): its work is paid, and done again."""
    published, step = run.weights, int(run.state.plan["segment_steps"])
    held = run.data.holdout_features, run.data.holdout_targets
    taken = one_of_each([entry for entry in round_.entries if counts(entry)])
    round_.steps_before = run.state.steps_done
    base, before = sha256(published.published.tobytes()), copy(published)  # whose arrays are replaced, not changed
    if taken:
        delta, why = b"", ""
        try:
            delta = published.step(averaged(run, round_, taken), momentum(run, run.state.steps_done))
        except ValueError as error:  # diverged: verified work stays paid, the weights stay what they were
            why = str(error)
        else:
            last = run.state.curve[-1][1] if run.state.curve else None
            why = rolls_back(last, evaluate(run.data.spec, published.published, *held, run.job.metric, run.frozen))
        if why and len(run.state.rolled_back) < MOST_ROLLBACKS:  # done anew, under a new number
            run.published = before
            run.state.rolled_back = [*run.state.rolled_back, round_.round]
            run.event("rolled_back", round=round_.round, why=why, seats=sorted(entry.seat for entry in taken))
            return
        if not delta:
            run.event("not_aggregated", round=round_.round, why=why)
        else:
            _publish(run, delta, base)
            round_.led_to = published.rounds
        run.state.steps_done += step * sum(entry.segments for entry in taken)
    elif run.state.unpublished:  # the next round is not to begin with what an audit took out
        _publish(run, published.advance(published.weights), base)
    run.state.metric, run.state.score = score(run.data.spec, published.published, *held, run.job.metric, run.frozen)
    run.state.curve = [*run.state.curve, (run.state.steps_done, run.state.score)]
    if taken:
        state = run.state
        round_.best_before = state.best_score, state.best_generation, state.best_round, state.worse_rounds
        _look_for_the_best(run)


def _publish(run: Run, delta: bytes, base: str) -> None:
    """The weights as a new generation, `delta` on top of those whose hash is `base`."""
    published = run.weights
    run.state.generation = published.rounds
    run.write(f"delta-{published.rounds}.bin", delta)
    run.write(f"base-{published.rounds}.txt", base.encode())
    run.write(f"weights-{published.rounds}.bin", published.to_bytes())
    run.state.unpublished = False


def _look_for_the_best(run: Run) -> None:
    """With `train.patience`: the best generation so far, and how many rounds ago it was."""
    state, metric = run.state, run.state.metric
    if run.job.train.patience is None:
        return
    if state.best_score is not None:
        gain = better(metric, state.score) - better(metric, state.best_score)
        if not gain > run.job.train.min_improvement:
            state.worse_rounds += 1
            return
    state.best_score, state.best_generation, state.best_round = state.score, state.generation, len(state.curve)
    state.worse_rounds = 0


def handling_seconds(round_: RoundState) -> float:
    """What a shard costs beside training: about what its order cost before the Ack (transfer, sealing, signing).

    Short shards would else look slow by it, get fewer steps, and look slower still. The median, so that no contributor
    moves it alone.
    """
    return median([entry.ack_seconds for entry in round_.entries if counts(entry)] or [0.0])


def training_seconds(entry: Entry, handling: float) -> float:
    """The gateway's time less the handling, but at least a third of it, and above 0 whatever a clock said."""
    return max(entry.seconds - handling, entry.seconds / 3, 1e-6)


def _full_steps(run: Run, entry: Entry, step: int) -> int:
    """The entry's steps, in steps of the costliest of the job's trainings: speeds are of those."""
    return max(1, round(entry.segments * step * subject(run, entry.trial).weight))


def _learn(run: Run, entry: Entry, handling: float, *, rolled_back: bool = False) -> None:
    """What the seat's next order goes by: speed and state. `rolled_back`: the round was taken back, and with it the
    optimizer state that its shard ended with; the seat goes on from the one that it began with."""
    seat = run.state.seat(entry.seat)
    step = int(run.state.plan["segment_steps"])
    good = counts(entry)  # else it begins afresh: what it ended with was not judged
    if not (good and rolled_back):
        seat.moments = entry.end_moments if good else ""
        seat.moments_steps = read_order(run, entry).steps_before + entry.segments * step if good else 0
    if good:
        seat.rows_before += entry.segments * step * run.data.spec.batch
        seconds = training_seconds(entry, handling)
        seat.samples_seconds += seconds
        seat.transfer = entry.ack_seconds
        belief = Correction(**seat.belief).observe(
            seconds, _full_steps(run, entry, step), entry.segments, blur=HANDLING / seconds
        )
        seat.belief = asdict(belief)
    elif entry.outcome == "empty":
        box = read_order(run, entry).time_box
        if entry.seconds >= 0.9 * box:  # too slow for one segment: at least that slow
            seat.belief = asdict(Correction(**seat.belief).unfinished(box, step))


def _tally(run: Run, entry: Entry) -> None:
    """The seat's account of this round: counts, and whether it goes on."""
    seat = run.state.seat(entry.seat)
    run.state.bytes_up += entry.bytes_up
    run.state.bytes_down += entry.bytes_down
    seat.replayed += entry.replayed
    seat.segments += entry.segments
    if entry.outcome == "accepted":
        seat.faults = 0
        seat.rounds_done += 1
        seat.accepted += entry.segments
        seat.steps += entry.segments * int(run.state.plan["segment_steps"])
        return
    if seat.moments == entry.end_moments:  # what it ended with was not judged, or is not to be gone on from
        seat.moments, seat.moments_steps = "", 0
    seat.gap = seat.gap or (entry.outcome == "refused" and entry.reason.startswith("credit"))
    if entry.outcome == "rejected":
        seat.rejected += entry.segments
        seat.state = "rejected"
    elif entry.outcome in ("timeout", "refused", "empty") and not _tried_in_vain(entry):
        seat.faults += 1
        seat.unopened += entry.outcome == "timeout" and entry.commit is not None and not entry.void


async def _record(run: Run, round_: RoundState) -> None:
    handling = handling_seconds(round_)
    telemetry = Telemetry(run.settings.home.telemetry_db)
    by_seat: dict[int, Seat] = {seat.seat: seat for seat in run.state.seats}
    for entry in round_.entries:
        if not _tried_in_vain(entry):
            await telemetry.record_attempt(_attempt(run, round_, entry, by_seat[entry.seat], handling))


def _tried_in_vain(entry: Entry) -> bool:
    """Whether it was as slow as expected when it was measured again: no fault, nor late work on its record."""
    return entry.again and entry.outcome == "empty"


def _attempt(run: Run, round_: RoundState, entry: Entry, seat: Seat, handling: float) -> Attempt:
    """The attempt's facts; its time is what the gateway saw, not what the contributor claims."""
    assert run.state.terms is not None
    order = read_order(run, entry)
    plan = run.state.plan
    return Attempt(
        request_id=run.request_id,
        job_id=run.state.terms.job_id,
        round=round_.round,
        seat=entry.seat,
        attempt=entry.attempt,
        wallet=seat.wallet,
        agent=seat.agent,
        device_class=seat.device_class,
        predictor=plan["predictor"],
        version=plan["version"],
        predicted=entry.planned_seconds / (entry.max_segments * order.segment_steps),
        job=subject(run, entry.trial).facts or stored_facts(run),
        probes=tuple(seat.probes),
        share=seat.share,
        steps=entry.segments * order.segment_steps,
        segments=entry.segments,
        seconds=training_seconds(entry, handling),
        bytes_up=entry.bytes_up,
        bytes_down=entry.bytes_down,
        outcome=entry.outcome,
        replayed=entry.replayed,
        price=order.pay_per_step,
        score=run.state.score,
        client=str(run.owner),
        evidence=(
            evidence_hash(run.folder / "evidence" / f"{round_.round}-{entry.seat}")
            if entry.outcome == "rejected"
            else ""
        ),
    )
