"""Between rounds: who is here now, which rows each holds, how many segments each gets. The loop's condition.

A seat that was lost keeps its place and its verified pay; its rows are sealed anew to those who go on. A contributor
that connected meanwhile takes a free place.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection

import numpy as np

from cloudlinkup.crypto.seal import encrypt_blob
from cloudlinkup.errors import JobFailed, NoContributors
from cloudlinkup.ledger.accounts import Job
from cloudlinkup.offer import open_seconds
from cloudlinkup.training.data import pack_partition
from cloudlinkup.wire.hashes import partition_hash, sha256
from models.again import Waited
from models.correction import Correction
from models.dealing import NOBODY, anew, deal
from models.facts import Prediction
from models.plan import JobPlan, PlannedSeat, RoundPlan, plan_pilot, plan_round
from models.pricing import affordable_steps
from models.race import latecomers
from models.registry import Registry
from models.selection import select
from tasks.allocate import new_seat
from tasks.awards import owed
from tasks.calibrated import replay_classes
from tasks.context import Run
from tasks.escrow import write_seats
from tasks.newcomer import add_shard
from tasks.peers import Peer, connected
from tasks.planning import candidates, limits
from tasks.race import MOST_FAULTS, decide, in_pilot, revive, tell_estimate
from tasks.segment import stored_facts
from tasks.state import Partition, RoundState, Seat
from tasks.trials import plan_trials, seal_trial_rows, work_left

RETURN_WAIT = 60.0  # seconds that a job without contributors waits for one
MOST_EMPTY = 3  # rounds in a row from which nothing came
PILOT_ROWS = 0.5  # of the rows are dealt in the pilot, so that those who are not kept read fewer
ASSIGNMENT = "assignment.npy"  # int32 (rows,): the seat that holds each training row
HOME = "home.npy"  # int32 (rows,): the seat to which it goes back (`models.dealing`)
FORMER = 4  # partitions of a seat that are kept beside the present one, in case that it has the same rows again


async def next_round(run: Run) -> bool:
    """Plans the next round into `run.plan`; False when the job's work is done or its time or money is up.

    A round that was under way goes on as it was planned. Raises NoContributors when nobody is left within a minute,
    JobFailed when three rounds in a row brought nothing.
    """
    plan = JobPlan.model_validate(run.state.plan)
    remaining = run.state.total_steps - run.state.steps_done
    if run.round is not None and run.round.stage == "awarded":
        return True  # what is left of it needs no chain
    if run.round is None and (run.state.raced == "ended" or _out_of_patience(run)):
        return False  # whoever takes it up again needs no contributor for that
    left = remaining >= plan.segment_steps if run.job.search is None else work_left(run)
    if (run.round is None and not left) or await _over(run):
        return False
    if run.round is not None:
        return True
    if run.state.empty_rounds >= MOST_EMPTY:
        raise JobFailed(f"{MOST_EMPTY} rounds in a row brought no work. Fix: look at the contributors' logs")
    with run.timed("plan"):
        job = await _chain(run)
        if _too_late(run, await run.ledger.now()):
            run.state.ended_early = "the deadline is near: what was trained so far is delivered"
            return False
        peers = await _refresh(run, plan)
        pilot = in_pilot(run, plan)
        goes_on = pilot or await decide(run, plan, remaining, lambda kept: _steps_left(run, job, kept), peers)
        tell_estimate(run, plan, remaining)
        if goes_on:
            await _plan(run, plan, job, remaining, peers, pilot=pilot)
    return run.plan is not None and goes_on


async def _plan(run: Run, plan: JobPlan, job: Job, remaining: int, peers: dict[str, Peer], *, pilot: bool) -> None:
    """The next round into `run.plan`; None where the budget is spent."""
    await _deal(run, pilot=pilot)
    beliefs = {seat.seat: Correction(**seat.belief).prediction for seat in run.state.active()}
    most = _affordable(run, job, plan)
    if most is not None and sum(most.values()) < plan.segment_steps:
        run.state.ended_early = "the budget is spent: what was trained so far is delivered"
        run.plan = None
        return
    number = max(run.state.round, job.round) + 1
    if run.job.search is None:
        if pilot:
            run.plan = plan_pilot(plan, number, remaining, beliefs, most_steps=most)
        else:
            split = _plan_round(run, plan, number, remaining, beliefs, most, peers)
            run.plan = add_shard(run, plan, split, peers, _steps_left(run, job) - remaining)
    else:
        run.plan = plan_trials(run, plan, number, beliefs, most)
        if run.plan is None:
            run.state.ended_early = "the budget is spent: what was trained so far is delivered"
    run.save()


def _plan_round(
    run: Run,
    plan: JobPlan,
    number: int,
    remaining: int,
    beliefs: dict[int, Prediction],
    most: dict[int, int] | None,
    peers: dict[str, Peer],
) -> RoundPlan:
    active, now = run.state.active(), time.time()
    hours = {s.seat: open_seconds(peers[s.agent].hello.windows, now) for s in active}
    found = plan_round(
        plan,
        number,
        remaining,
        beliefs,
        most_steps=most,
        unmeasured={s.seat for s in active if not Correction(**s.belief).segments},
        overheads={s.seat: s.transfer for s in active},
        open_seconds={seat: left for seat, left in hours.items() if left is not None},
        again={s.seat for s in active if Waited(s.waited, s.tries).due},
    )
    if not found.seats:  # nobody's hours hold a segment: they finish what they are given
        found = plan_round(plan, number, remaining, beliefs, most_steps=most)
    if found.shrunk:
        run.event("shrunk", round=number, seats=list(found.shrunk))
    return found


async def _over(run: Run) -> bool:
    """Whether the chain takes no more work of this job: its deadline passed, or it was finished before this run.

    A round under way may still be awarded after `finish_job`, until the deadline that this brought forward.
    """
    assert run.state.terms is not None
    job, why = await _chain(run), ""
    if await run.ledger.now() >= job.deadline:
        why = "the deadline passed: what was trained so far is delivered"
    elif run.round is None and job.deadline < run.state.terms.deadline:
        why = "it was finished early: what was trained so far is delivered"
    if why and run.round is not None:
        run.event("round_dropped", round=run.round.round, stage=run.round.stage)
        run.round = None
    run.state.ended_early = run.state.ended_early or why
    return bool(why)


async def _chain(run: Run) -> Job:
    job = await run.ledger.job(run.account)
    if job is None:
        raise JobFailed(f"the job's account {run.account} is gone from the chain")
    return job


def _out_of_patience(run: Run) -> bool:
    """Whether the score on held-out rows has not improved for `train.patience` rounds; says so in the state, unless the
    audit of the last one is to come: it may have to be done again."""
    patience, state = run.job.train.patience, run.state
    if patience is None or state.worse_rounds < patience:
        return False
    if run.open is not None:
        return True
    state.ended_early = f"no better on held-out rows for {patience} rounds: the best round is delivered"
    return True


def _too_late(run: Run, now: int) -> bool:
    """Awards stop at the deadline: a round is begun only when twice the last one's time is left, and an audit's, which
    may have run beside it."""
    assert run.state.terms is not None
    return now + 2 * max(run.state.round_seconds, 1.0) + run.state.judging >= run.state.terms.deadline


def _affordable(run: Run, job: Job, plan: JobPlan) -> dict[int, int] | None:
    """Most steps by seat where the budget binds before the round's size does, split by the speeds; else None."""
    left, active = _steps_left(run, job), run.state.active()
    if left >= plan.local_steps * len(active) * 2:
        return None
    speeds = {seat.seat: 1 / Correction(**seat.belief).prediction.seconds for seat in active}
    total = sum(speeds.values())
    return {seat: int(left * speed / total) for seat, speed in speeds.items()}


def _steps_left(run: Run, job: Job, going_on: Collection[int] | None = None) -> int:
    """Steps that the budget still holds beside the caps of those who left, which cannot fall.

    `going_on`: the seats that do not leave; without it, those that are active."""
    assert run.state.terms is not None
    caps = {i: seat.cap for i, seat in enumerate(job.seats)}
    awarded = {i: seat.awarded + owed(run, i) for i, seat in enumerate(job.seats)}
    active = {seat.seat for seat in run.state.active()} if going_on is None else set(going_on)
    held = {i: max(cap, awarded[i]) if i not in active else awarded[i] for i, cap in caps.items()}
    return affordable_steps(run.state.terms.budget, held, awarded, run.state.price, run.state.terms.fee_bps)


# ---------------------------------------------------------------- who


async def _refresh(run: Run, plan: JobPlan) -> dict[str, Peer]:
    """Marks who is here, and returns them; fills free places; waits a while when nobody is."""
    places = min(run.job.contributors.max, len(plan.seats))
    end = time.monotonic() + RETURN_WAIT
    while True:
        peers, gone = await connected(run), run.state.rejected_wallets()
        for seat in run.state.seats:
            if seat.state == "active" and seat.wallet in gone:  # another device of somebody who cheated
                seat.dropped, seat.state = True, "idle"
                run.event("dropped", seat=seat.seat, wallet=seat.wallet)
            elif seat.state != "rejected" and not seat.dropped:
                peer = peers.get(seat.agent)
                here = peer is not None and peer.fits(seat)
                seat.state = "active" if here and seat.faults < MOST_FAULTS else "lost"
        revive(run, peers, places)
        if len(run.state.active()) < places:
            await _seat_newcomers(run, peers, plan)
        if run.state.active():
            run.peers = time.monotonic(), peers
            return peers
        if time.monotonic() >= end:
            raise NoContributors(
                "no contributor is left that may do this job's work; what was verified is paid, the rest returns"
            )
        await asyncio.sleep(1)


async def _seat_newcomers(run: Run, peers: dict[str, Peer], plan: JobPlan) -> None:
    """Free places go to connected contributors that never had a seat and take the job's price."""
    agents = {seat.agent for seat in run.state.seats}
    gone = run.state.rejected_wallets()
    fresh = [peer for peer in peers.values() if peer.agent not in agents and peer.wallet not in gone]
    if not fresh:
        return
    facts, config = stored_facts(run), await run.ledger.config()
    found = await candidates(fresh, run.settings.home, str(run.owner))
    predictions = Registry(run.settings.home.root / "models").champion().predict(facts, found)
    bounds = limits(
        run.job,
        now=await run.ledger.now(),
        fee_bps=config.fee_bps,
        decimals=run.decimals,
        reference=facts.profile,
        replay=await asyncio.to_thread(
            replay_classes, run.job, run.data, run.settings.home, facts.profile.device_class
        ),
    )
    active = run.state.active()
    free = min(run.job.contributors.max, len(plan.seats)) - len(active)
    held = [seat.wallet for seat in active]
    chosen = select(facts, found, predictions, bounds).chosen
    for ranked in latecomers(chosen, run.state.price, free, held if bounds.by_wallet else None):
        place = PlannedSeat(
            seat=len(run.state.seats),
            agent=ranked.candidate.agent,
            wallet=ranked.candidate.wallet,
            device_class=ranked.candidate.device_class,
            ask=ranked.ask,
            prediction=ranked.prediction,
        )
        run.state.seats = [*run.state.seats, new_seat(place, peers[place.agent])]
        run.event("seated", seat=place.seat, wallet=place.wallet)
    run.save()
    await write_seats(run)


# ---------------------------------------------------------------- rows


async def _deal(run: Run, *, pilot: bool = False) -> None:
    """The rows of the next round: a part of them for each seat, or the same for all in independent trainings."""
    if run.job.search is not None:
        await seal_trial_rows(run, _seal)
        return
    await asyncio.to_thread(_assign_rows, run, pilot=pilot)
    await _seal_partitions(run)


def _assign_rows(run: Run, *, pilot: bool = False) -> None:
    """Every training row belongs to an active seat, by its measured speed (`models.dealing`); in the pilot half of
    them, in equal parts."""
    path, active = run.folder / ASSIGNMENT, run.state.active()
    rows, seats = len(run.data.features), [seat.seat for seat in active]
    shares = dict(zip(seats, _row_shares(active).tolist(), strict=True))
    seed = run.data.spec.seed + len(run.state.seats) + run.state.round
    held = np.load(path, allow_pickle=False) if path.exists() else np.full(rows, NOBODY, np.int32)
    home_path = path.with_name(HOME)
    home = np.load(home_path, allow_pickle=False) if home_path.exists() else held
    if pilot and not set(seats) <= set(held.tolist()):  # the pilot's first deal, or one with somebody else
        part = np.random.default_rng(seed).permutation(rows)
        if PILOT_ROWS * rows >= run.data.spec.batch * len(seats):
            part = part[: int(PILOT_ROWS * rows)]
        held = np.full(rows, NOBODY, np.int32)
        held[part] = anew(len(part), shares, seed, run.data.spec.batch)
        home = held
    else:
        dealt = held >= 0 if pilot else np.ones(rows, bool)
        held, home = held.copy(), home.copy()
        held[dealt], home[dealt] = deal(held[dealt], home[dealt], shares, seed=seed, minimum=run.data.spec.batch)
    for place, array in ((home_path, home), (path, held)):  # killed in between, it is dealt the same
        part_file = place.with_name(f"{place.stem}.part.npy")
        np.save(part_file, array, allow_pickle=False)
        part_file.replace(place)


def _row_shares(active: list[Seat]) -> np.ndarray:
    """By measured speed; whoever is not measured counts as the median of those who are."""
    beliefs = [Correction(**seat.belief) for seat in active]
    known = [1 / belief.prediction.seconds for belief in beliefs if belief.segments]
    middle = float(np.median(known)) if known else 1.0
    speeds = np.array([1 / belief.prediction.seconds if belief.segments else middle for belief in beliefs])
    return speeds / speeds.sum()


async def _seal_partitions(run: Run) -> None:
    """Each active seat's rows as one sealed blob, made when it has rows that it did not have before. One that it had is
    in the contributor's cache."""
    assert run.state.terms is not None
    held = np.load(run.folder / ASSIGNMENT, allow_pickle=False)
    for seat in run.state.active():
        rows = np.flatnonzero(held == seat.seat)
        which = sha256(rows.tobytes())
        kept = [one for one in (seat.partition, *seat.former) if one is not None]
        seat.former = [one for one in kept if one.which != which][:FORMER]
        seat.partition = next((one for one in kept if one.which == which), None)
        if seat.partition is None:
            plain = await asyncio.to_thread(pack_partition, run.data.features[rows], run.data.targets[rows])
            seat.partition = await _seal(run, plain, len(rows), which)


async def _seal(run: Run, plain: bytes, rows: int, which: str) -> Partition:
    assert run.state.terms is not None
    salt = os.urandom(16)
    blob, key = await asyncio.to_thread(encrypt_blob, plain)
    return Partition(
        hash=partition_hash(salt, plain).hex(),
        salt=salt.hex(),
        blob=await run.blobs.put(run.state.terms.job_id, blob),
        size=len(blob),
        content_key=key.hex(),
        rows=rows,
        which=which,
    )


def keep_rows(run: Run, round_: RoundState) -> None:
    """What each seat holds in this round, until its audit is over: the next one's rows may be dealt by then."""
    if run.job.search is not None:
        return
    drop_rows(run)
    (run.folder / rows_name(round_.round)).hardlink_to(run.folder / ASSIGNMENT)


def drop_rows(run: Run) -> None:
    """Removes what `keep_rows` kept of rounds that are over: a run that was killed at a round's end left it."""
    needed = {rows_name(round_.round) for round_ in (run.round, run.open) if round_ is not None}
    for place in run.folder.glob(rows_name("*")):
        if place.name not in needed:
            place.unlink(missing_ok=True)


def rows_name(round_: int | str) -> str:
    return f"rows-{round_}.npy"


def partition_rows(run: Run, seat: int, round_: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets) that seat number `seat` holds, or held in `round_`: what the audit replays on."""
    held = np.load(run.folder / (ASSIGNMENT if round_ is None else rows_name(round_)), allow_pickle=False)
    rows = np.flatnonzero(held == seat)
    return run.data.features[rows], run.data.targets[rows]
