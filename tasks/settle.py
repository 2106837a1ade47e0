"""Stage *settle*: end the job on chain, pay what matures, return the rest, write the receipt.

It waits only where the windows are at most a minute; otherwise the receipt says what is pending until when, and
anybody may crank it later.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from cloudlinkup.errors import ClusterError
from cloudlinkup.ledger import money
from cloudlinkup.ledger.accounts import Job
from cloudlinkup.sdk.delivered import write_card
from cloudlinkup.types import ContributorLine, Receipt, SignatureLine
from tasks.audit import tell_finished
from tasks.awards import award_late
from tasks.context import Run
from tasks.drift import look_for_drift
from tasks.peers import connected
from tasks.release import pay_matured
from tasks.rounds import drop_rows
from tasks.state import Seat

PATIENCE = 60  # seconds: the longest dispute window that is waited out


@task(name="settle", cache_policy=NO_CACHE)
async def settle(run: Run) -> None:
    """Raises JobFailed when the job has no account on chain."""
    with run.timed("settle"):
        await _drop_peers(run)
        job = await run.ledger.job(run.account)
        if job is not None and await run.ledger.now() < job.deadline:
            await award_late(run)
            run.sent("finish_job", await run.ledger.finish_job(run.operator, run.account))
        job = await run.ledger.job(run.account)
        if job is not None and job.dispute_window <= PATIENCE:
            await _wait_and_pay(run, job)
        job = await run.ledger.job(run.account)
        settled = job is None or await _settled(run, job)
        if run.state.awards:  # disputes that outlasted the deadline: their contributors may appeal
            left = {str(seat): str(award.amount) for seat, award in run.state.awards.items()}
            run.event("not_awarded", seats=left)
    drop_rows(run)
    receipt = await make_receipt(run, settled=settled)
    run.save("settle")
    run.store.finish(run.request_id, receipt.model_dump(mode="json"))
    (run.folder / "delivered").mkdir(exist_ok=True)
    run.write("delivered/receipt.json", (receipt.model_dump_json(indent=2) + "\n").encode())
    await asyncio.to_thread(write_card, run.folder / "delivered")  # with what was verified and paid
    await _artifact(receipt)
    run.event("settled", settled=settled, paid=receipt.paid, refunded=receipt.refunded, fee=receipt.fee)
    await look_for_drift(run.settings.home)


async def _wait_and_pay(run: Run, job: Job) -> None:
    """Cranks as awards mature, closes at T_end, and once more when the last award has matured and no bond is left.

    An arbiter that takes its time is not waited for.
    """
    slow = job.arbiter_window > PATIENCE
    end = money.end_time(job)
    last = (end + job.dispute_window if slow else money.last_time(job)) + 5
    while (now := await run.ledger.now()) <= last:
        if now < job.deadline:
            await award_late(run)
        await pay_matured(run)
        job_now = await run.ledger.job(run.account)
        if job_now is None:
            return
        if now >= end and money.owed(job_now, now) == 0 and not any(s.active and s.bond for s in job_now.seats):
            break
        await asyncio.sleep(0.25)
    run.sent("close_job", await run.ledger.close_job(run.cranker, run.account))


async def _settled(run: Run, job: Job) -> bool:
    """Nothing is owed and the vault is empty: what was not paid went back."""
    return money.owed(job, await run.ledger.now()) == 0 and await run.ledger.vault_balance(job.vault) == 0


async def _drop_peers(run: Run) -> None:
    """Tells connected contributors that the job is over, so that they delete its rows; then deletes its blobs."""
    try:
        peers = await connected(run)
    except ClusterError as error:  # money does not wait for the cell: contributors delete by the deadline themselves
        run.log.warning("nobody_told", why=str(error)[:120])
        peers = {}
    seats = [seat for seat in run.state.seats if seat.agent in peers and seat.state != "rejected"]
    await asyncio.gather(*(tell_finished(run, seat, "done") for seat in seats))
    if run.state.terms is not None:
        await run.blobs.delete_job(run.state.terms.job_id)


async def make_receipt(run: Run, *, settled: bool) -> Receipt:
    """Amounts are the chain's, not ours."""
    job = await run.ledger.job(run.account)
    state, terms = run.state, run.state.terms
    assert terms is not None
    held = await run.ledger.vault_balance(job.vault) if job else 0
    if job is not None:
        state.last_seen = _amounts(job)
    seen = state.last_seen
    seats: list[dict[str, int]] = seen.get("seats", [])
    paid, fee = int(seen.get("paid", 0)), int(seen.get("fee", 0))
    awarded = sum(seat["awarded"] for seat in seats)
    refunded = terms.budget - paid - fee - held
    step = int(state.plan.get("segment_steps", 1)) * run.job.train.batch

    def line(seat: Seat) -> ContributorLine:
        chain = seats[seat.seat] if seat.seat < len(seats) else {"cap": 0, "awarded": 0, "paid": 0}
        return ContributorLine(
            wallet=seat.wallet,
            speed=round(seat.accepted * step / seat.samples_seconds, 1) if seat.samples_seconds else 0.0,
            cap=str(chain["cap"]),
            segments=seat.segments,
            accepted=seat.accepted,
            replayed=seat.replayed,
            rejected=seat.rejected,
            paid=str(chain["paid"]),
            pending=str(chain["awarded"] - chain["paid"]),
            state=seat.state if seat.attempts else "idle",
        )

    quoted = dict(state.quote)
    quoted["stage_seconds"] = state.stage_seconds
    if state.ended_early:
        quoted["ended_early"] = state.ended_early
    if not settled and job is not None:
        until = money.last_time(job)
        quoted["pending_until"] = datetime.fromtimestamp(until, UTC).isoformat()
    return Receipt(
        request_id=run.request_id,
        job_id=terms.job_id,
        flow_run_id=run.flow_run_id,
        mint=str(run.mint),
        decimals=run.decimals,
        budget=str(terms.budget),
        awarded=str(awarded),
        paid=str(paid),
        pending=str(awarded - paid),
        fee=str(fee),
        refunded=str(refunded),
        settled=settled,
        rounds=state.round,
        rolled_back=tuple(state.rolled_back),
        metric=state.metric,
        score=round(state.score, 6),
        metrics={name: round(value, 6) for name, value in state.metrics.items()},
        seconds=round(time.time() - state.started, 2),
        bytes_up=state.bytes_up,
        bytes_down=state.bytes_down,
        audit_bytes=state.audit_bytes,
        audit_seconds=round(state.audit_seconds, 3),
        audit_segments=state.audit_segments,
        audit_cost=str(state.audit_segments * int(state.plan.get("segment_steps", 1)) * state.price),
        predictor=state.predictor,
        quoted=quoted,
        contributors=tuple(line(seat) for seat in state.seats),
        signatures=tuple(SignatureLine(stage=s, signature=x) for s, x in run.store.signatures(run.request_id)),
    )


def _amounts(job: Job) -> dict[str, Any]:
    """What the receipt needs of a Job account, as JSON."""
    return {
        "paid": job.paid_total,
        "fee": job.fee_paid,
        "seats": [{"cap": seat.cap, "awarded": seat.awarded, "paid": seat.paid} for seat in job.seats],
    }


async def _artifact(receipt: Receipt) -> None:
    await acreate_table_artifact(
        key=f"receipt-{receipt.request_id}",
        table=[line.model_dump(mode="json") for line in receipt.contributors],
        description=(
            f"{receipt.metric} {receipt.score}; paid {receipt.paid}, fee {receipt.fee}, refunded {receipt.refunded} "
            f"of {receipt.budget} base units; settled: {receipt.settled}"
        ),
    )
