"""Stages *order* and *train*: sign one order a seat and raise the caps they may earn; send them all and keep what comes
back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable

from prefect import task
from prefect.cache_policies import NO_CACHE

from cloudlinkup.crypto.seal import encrypt_blob
from cloudlinkup.wire.hashes import sha256
from models.plan import RoundPlan, SeatRound
from tasks.awards import owed, read_job
from tasks.context import Run
from tasks.inclusion import hand_over_open, hand_over_paths, was_told
from tasks.newcomer import share_rows
from tasks.orders import make_order, read_order, send_order
from tasks.peers import Peer, connected
from tasks.pretrained import seal_frozen
from tasks.rounds import keep_rows
from tasks.state import Entry, RoundState, Seat, Start
from tasks.subject import Subject, partition, subject
from tasks.together import every
from tasks.verify import ahead_committed

PEERS_KNOWN = 5.0  # seconds for which a contributor counts as connected, on the device that it was on


@task(name="order", cache_policy=NO_CACHE)
async def order_round(run: Run) -> None:
    """Begins the round that `run.plan` describes, or takes up the one that was under way: nothing is sent yet."""
    with run.timed("order"):
        if run.round is None:
            assert run.plan is not None
            await every(_raise_caps(run, run.plan.seats), _begin(run, run.plan))
        elif run.round.stage == "ordered":
            await _raise_caps(run, run.round.entries)


@task(name="train", cache_policy=NO_CACHE)
async def train_round(run: Run) -> None:
    """Sends the round's orders. Raises ClusterLost when the scheduler is gone; contributors' faults are outcomes of
    their entries."""
    assert run.round is not None
    if run.round.stage != "ordered":
        return
    with run.timed("train"):
        await ahead_committed(run)
        known, run.peers = run.peers, None
        fresh = known is not None and time.monotonic() - known[0] < PEERS_KNOWN
        peers = known[1] if known is not None and fresh else await connected(run)
        await asyncio.gather(*(_one(run, run.round, entry, peers) for entry in run.round.entries))
        await _drop_unbonded(run, run.round)
        run.round.stage = "trained"
        run.save_round()
    run.save()  # with the seconds that it took
    run.event(
        "trained",
        round=run.round.round,
        outcomes={str(entry.seat): entry.outcome for entry in run.round.entries},
        seconds=round(max((entry.seconds for entry in run.round.entries), default=0.0), 2),
    )


async def _begin(run: Run, plan: RoundPlan) -> None:
    """Publishes the weights, signs the orders and stores all of it before anything is sent."""
    await seal_frozen(run)
    common = Start() if run.job.search is not None else await _publish(run, subject(run, None))
    round_ = RoundState(
        round=plan.round,
        secret=secrets.token_hex(32),
        generation=run.state.generation,
        **common.model_dump(),
    )
    seats = {seat.seat: seat for seat in run.state.seats}
    for place in plan.seats:
        if place.twin is not None:
            share_rows(run, seats[place.seat], place.twin)
        start = None if place.trial is None else await _publish(run, subject(run, place.trial))
        round_.entries.append(_entry(run, round_, seats[place.seat], place, start))
    await asyncio.to_thread(keep_rows, run, round_)
    run.state.round_began = run.worked()
    run.save()  # the attempts that the orders used up
    run.round = round_
    run.save_round()


async def _publish(run: Run, of: Subject) -> Start:
    """The network's present weights as sealed blobs: whole, and as what changed since the generation before."""
    assert run.state.terms is not None
    job_id, flat = run.state.terms.job_id, of.published.published.tobytes()
    blob, key = encrypt_blob(flat)
    start = Start(
        weights_hash=sha256(flat),
        snapshot_blob=await run.blobs.put(job_id, blob),
        snapshot_key=key.hex(),
        snapshot_size=len(blob),
    )
    if (delta := run.folder / f"{of.prefix}delta-{of.generation}.bin").exists():
        blob, key = encrypt_blob(delta.read_bytes())
        start.delta_blob, start.delta_key = await run.blobs.put(job_id, blob), key.hex()
        start.delta_size = len(blob)
        start.base_hash = (run.folder / f"{of.prefix}base-{of.generation}.txt").read_text()
    return start


def _entry(run: Run, round_: RoundState, seat: Seat, place: SeatRound, start: Start | None) -> Entry:
    """`start`: of the training that the seat goes on with; None where all train one network."""
    order = make_order(
        run,
        round_,
        seat,
        max_segments=place.max_segments,
        span=(place.progress_from, place.progress_to),
        time_box=place.time_box,
        trial=place.trial,
        start=start,
    )
    if place.trial is None:
        has_base = seat.has_weights == run.state.generation - 1
    else:
        has_base = run.state.trials[place.trial].holder == seat.seat
    entry = Entry(
        seat=seat.seat,
        agent=seat.agent,
        attempt=seat.attempts,
        trial=place.trial,
        start=start,
        twin=place.twin,
        order=order,
        snapshot=not ((start or round_).delta_blob and has_base),
        again=place.again,
        max_segments=place.max_segments,
        salt=partition(run, seat, place.trial).salt,
        planned_seconds=place.prediction.seconds * place.steps,
    )
    seat.attempts += 1
    return entry


async def _raise_caps(run: Run, places: Iterable[SeatRound | Entry]) -> None:
    """Each seat's cap covers, on chain and before it works, what it has and what this round can earn it."""
    job, step = await read_job(run), int(run.state.plan["segment_steps"])
    caps = {
        place.seat: job.seats[place.seat].awarded + owed(run, place.seat) + place.max_segments * step * run.state.price
        for place in places
    }
    run.sent("raise_caps", await run.ledger.raise_caps(run.operator, run.account, caps))


async def _drop_unbonded(run: Run, round_: RoundState) -> None:
    """Whoever worked without posting its bond is not paid: the program takes no award for it, nor for the others in
    the same transaction."""
    assert run.state.terms is not None
    if not run.state.terms.bond:
        return
    job = await read_job(run)
    for entry in round_.entries:
        if entry.outcome in ("committed", "empty") and not job.seats[entry.seat].active:
            entry.outcome, entry.reason = "refused", "its bond is not posted"


async def _one(run: Run, round_: RoundState, entry: Entry, peers: dict[str, Peer]) -> None:
    """One shard, from its order to what is kept of the answer. What came in before this run died is not asked again."""
    seat = run.state.seat(entry.seat)
    if entry.outcome not in ("committed", "empty"):
        await _ask(run, round_, entry, peers.get(entry.agent), seat)
    seat.has_weights = run.state.generation if entry.outcome in ("committed", "empty") else -1
    run.save_round()


async def _ask(run: Run, round_: RoundState, entry: Entry, peer: Peer | None, seat: Seat) -> None:
    if peer is None or not peer.fits(seat):
        entry.outcome, entry.reason = "lost", "not connected" if peer is None else "it came back on another device"
        return
    if not await was_told(run, seat):
        await hand_over_open(run, seat)
    offered = False
    while (bad := await send_order(run, round_, entry, peer, seat)) is not None:
        order = read_order(run, entry)
        if bad.reason == "weights" and not entry.snapshot:
            entry.snapshot = True
        elif bad.reason == "moments" and order.moments is not None:  # it lost them: it begins afresh
            seat.moments, seat.moments_steps = "", 0
            run.event("fresh_state", round=round_.round, seat=seat.seat)
        elif bad.reason == "inclusion" and not offered:
            offered = True
            if not await hand_over_open(run, seat) and not await hand_over_paths(run, seat):
                return
        else:
            return
        entry.order = make_order(
            run,
            round_,
            seat,
            max_segments=order.max_segments,
            span=(order.progress_from, order.progress_to),
            time_box=order.time_box,
            trial=entry.trial,
            start=entry.start,
        )
        entry.attempt, entry.outcome = seat.attempts, "ordered"
        seat.attempts += 1
        run.save()
        run.save_round()
