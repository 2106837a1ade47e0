"""Stage *verify*: fold the roots, commit them on chain, draw the challenge from a later block, replay, judge.

Order of effects: root and secret are stored, then `commit_round`; results are stored before any award is sent. The
challenge is drawn at `confirmed` and held against the finalized chain before it counts. A round that goes ahead
(`tasks/ahead`) is only committed at first, and judged beside the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE

from cloudlinkup.errors import JobFailed, NotConfirmed
from cloudlinkup.verify import merkle
from models.telemetry import Telemetry
from tasks.ahead import goes_ahead
from tasks.audit import Audit, audit_shard, tell_finished
from tasks.cleared import still_odd
from tasks.context import Run
from tasks.gate import suspicious
from tasks.inclusion import hand_over_all
from tasks.orders import read_order
from tasks.state import Entry, RoundState
from tasks.tree import committed, round_leaves

FINAL_WAIT = 120.0  # seconds for a commitment to become final
POLL = 0.05


@task(name="verify", cache_policy=NO_CACHE)
async def verify_round(run: Run) -> None:
    """Afterwards every entry is accepted, rejected, or was lost before it committed to anything. A round that goes
    ahead is not judged yet, and its commitment is on its way (`ahead_committed`)."""
    round_ = run.round
    assert round_ is not None
    if round_.stage not in ("trained", "committed"):
        return
    with run.timed("verify"):
        leave_out(run, round_)
        # A commitment takes as long as the chain does. Meanwhile come the gates and, where the round goes ahead, its
        # average and the next round's plan and orders, which are not sent before it.
        ahead: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        run.committing = asyncio.create_task(_commit_and_tell(run, round_, ahead))
        odd = await _odd(run, round_)
        ahead.set_result(round_.ahead or (bool(committed(round_)) and goes_ahead(run, round_, odd)))
        if ahead.result():
            round_.ahead = True
            run.save_round(round_)
        else:
            await run.committing
            await _judge(run, round_, odd)
    run.save()  # with the seconds that it took
    _tell_verdicts(run, round_)


async def verify_ahead(run: Run, round_: RoundState) -> None:
    """Judges the round that went ahead, while the next one is under way."""
    await ahead_committed(run)
    with run.timed("verify"):
        await _judge(run, round_, {})
    run.save()
    _tell_verdicts(run, round_)


async def ahead_committed(run: Run) -> None:
    """Returns when the chain has the commitment of the round that went ahead. Raises what that raised."""
    if run.open is not None and run.open.stage == "trained" and (run.committing is None or run.committing.done()):
        run.committing = asyncio.create_task(_commit(run, run.open))  # taken up again, or given up by the chain
    if run.committing is not None:
        await run.committing


async def _commit_and_tell(run: Run, round_: RoundState, ahead: asyncio.Future[bool]) -> None:
    await _commit(run, round_)
    if await ahead:
        hand_over_all(run, round_)


def _tell_verdicts(run: Run, round_: RoundState) -> None:
    if round_.stage != "verified":
        return
    taken = [entry for entry in round_.entries if entry.outcome in ("accepted", "rejected")]
    run.event(
        "verified",
        round=round_.round,
        accepted=[entry.seat for entry in taken if entry.outcome == "accepted"],
        rejected={str(entry.seat): entry.reason for entry in taken if entry.outcome == "rejected"},
        replayed=sum(entry.replayed for entry in taken),
        audit_seconds=round(round_.audit_seconds, 3),
        audit_bytes=round_.audit_bytes,
        risk={str(entry.seat): entry.risk for entry in taken if entry.risk},
    )


async def _odd(run: Run, round_: RoundState) -> dict[int, str]:
    """Seats whose update a gate finds odd and that did not prove itself, with the reason. A round that went ahead had
    none."""
    if round_.ahead:
        return {}
    offered = committed(round_)
    odd = await asyncio.to_thread(suspicious, run, round_, offered) if offered else {}
    if odd and goes_ahead(run, round_, {}):
        odd = await still_odd(run, round_, odd)
    return odd


def leave_out(run: Run, round_: RoundState) -> None:
    """What does not enter the round's tree, or cannot count, by what the audit of the round before found meanwhile."""
    if round_.stage != "trained" or round_.ahead:  # of one that is committed once more it was settled then
        return
    gone = run.state.rejected_wallets()
    for entry in committed(round_):
        seat = run.state.seat(entry.seat)
        if seat.wallet in gone:
            entry.outcome, entry.reason = "refused", "its work of the round before was rejected"
            entry.void = entry.reason
        elif read_order(run, entry).moments not in (None, seat.moments):
            entry.void = "it began with a state that it did not open"


async def _commit(run: Run, round_: RoundState) -> None:
    """Nothing is committed where nothing came: the round's number then stays free."""
    if round_.stage != "trained":
        return
    if not committed(round_):
        round_.stage = "verified"
        run.save_round(round_)
        return
    root = merkle.root(round_leaves(round_))
    round_.root = root.hex()
    run.save_round(round_)
    run.sent("commit_round", await run.ledger.commit_round(run.verifier, run.account, round_.round, root))
    job = await run.ledger.job(run.account)
    if job is None or job.round != round_.round or job.commit_root != root:
        raise JobFailed("the chain holds another commitment of this round")
    round_.commit_slot, round_.stage = job.commit_slot, "committed"
    run.save_round(round_)


async def _judge(run: Run, round_: RoundState, odd: Mapping[int, str]) -> None:
    """Draws, replays, and repeats the draw in the (rare) case that the chain gave up the block it was drawn from.

    `odd`: seats whose update a gate found odd, with the reason. Does nothing for a round that is not committed, as
    nothing came, or that was judged already."""
    if round_.stage != "committed":
        return
    began = time.monotonic()
    entries, leaves = committed(round_), round_leaves(round_)
    if odd:
        run.log.info("odd_updates", round=round_.round, seats={str(seat): why for seat, why in odd.items()})
    misses = await asyncio.gather(*(_misses(run, entry) for entry in entries))
    while True:
        slot, block_hash = await run.ledger.block_hash_at_or_after(
            round_.commit_slot + run.settings.challenge_delay, seconds=FINAL_WAIT
        )
        audits = await asyncio.gather(
            *(
                audit_shard(run, round_, e, leaves, block_hash, whole=e.seat in odd, misses=missed)
                for e, missed in zip(entries, misses, strict=True)
            )
        )
        if await _final(run, round_, slot, block_hash):
            break
        run.event("redrawn", round=round_.round, slot=slot)
    for entry, audit in zip(entries, audits, strict=True):
        _settle(entry, audit)
    round_.audit_bytes = sum(audit.bytes_up + audit.bytes_down for audit in audits)
    round_.audit_seconds = round(round_.cleared_seconds + sum(audit.seconds for audit in audits), 4)
    round_.audit_segments = round_.cleared_segments + sum(audit.replayed for audit in audits)
    round_.stage = "verified"
    run.state.judging = time.monotonic() - began
    run.save_round(round_)
    rejected = [(e, a) for e, a in zip(entries, audits, strict=True) if e.outcome == "rejected"]
    await asyncio.gather(*(_tell_rejected(run, entry, audit) for entry, audit in rejected))


def _settle(entry: Entry, audit: Audit) -> None:
    entry.unheard = audit.unheard
    entry.drawn, entry.replayed, entry.risk = sorted(audit.drawn), entry.cleared + audit.replayed, list(audit.risk)
    entry.bytes_up += audit.bytes_up
    entry.bytes_down += audit.bytes_down
    entry.outcome, entry.reason = ("accepted", "") if audit.accepted else (audit.verdict, audit.reason)


async def _misses(run: Run, entry: Entry) -> float:
    """Failed audits on this contributor's record, as this job's client may count them."""
    record = await Telemetry(run.settings.home.telemetry_db).track_record(
        run.state.seat(entry.seat).wallet, str(run.owner)
    )
    return record.rejected


async def _final(run: Run, round_: RoundState, slot: int, block_hash: bytes) -> bool:
    """True once the commitment is final in its slot and the drawn block is on the final chain."""
    end = asyncio.get_running_loop().time() + FINAL_WAIT
    while True:
        job = await run.ledger.job(run.account, commitment="finalized")
        if job is not None and job.round == round_.round and await run.ledger.slot("finalized") >= slot:
            break
        if asyncio.get_running_loop().time() > end:
            round_.stage = "trained"  # taken up again, it is committed again where the chain has given it up
            run.save_round(round_)
            raise NotConfirmed(f"the commitment of round {round_.round} did not become final in {FINAL_WAIT:g} s")
        await asyncio.sleep(POLL)
    if job.commit_slot != round_.commit_slot:
        round_.commit_slot = job.commit_slot
        run.save_round(round_)
        return False
    return (slot, block_hash) == await run.ledger.block_hash_at_or_after(
        round_.commit_slot + run.settings.challenge_delay, seconds=FINAL_WAIT
    )


async def _tell_rejected(run: Run, entry: Entry, audit: Audit) -> None:
    seat = run.state.seat(entry.seat)
    await tell_finished(run, seat, "rejected", evidence=audit.evidence)
