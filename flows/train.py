"""The life of one job, as prose. Each stage is a Prefect task that first reads the store and the chain.

A run that died anywhere is simply started again with the same request id: stages that are done return at once, the
round that was under way goes on from its last stored step, and no effect on money happens twice.
Not covered: what a dead run leaves when nobody submits it again; `sweep_escrows` finishes that once the deadline on
chain has passed.
"""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from cloudlinkup.errors import BadInput, CloudLinkUpError, JobFailed, NotConfirmed, Unavailable
from cloudlinkup.types import JobSpec
from tasks.allocate import allocate
from tasks.context import Run, open_run
from tasks.deliver import deliver
from tasks.escrow import escrow_lock
from tasks.rebalance import close_round, give_up, rebalance
from tasks.release import release
from tasks.rounds import next_round
from tasks.segment import segment
from tasks.settle import settle
from tasks.together import every
from tasks.train import order_round, train_round
from tasks.verify import verify_round


@flow(name="train", persist_result=False, validate_parameters=True)
async def train(job: JobSpec, request_id: str | None = None) -> None:
    """Trains `job` on contributors and pays for what verified. `request_id`: the client's UUID, or this run's id."""
    run_id = str(flow_run.get_id())
    async with open_run(job, request_id or run_id, run_id) as run:
        try:
            await _stages(run)
        except CloudLinkUpError as error:
            await _close_books(run, error)
            raise
        except Exception as error:
            run.store.fail(run.request_id, unexpected(error), final=False)
            raise


async def _stages(run: Run) -> None:
    await segment(run)
    await allocate(run)
    if run.state.stage not in ("deliver", "settle"):  # else it ended already, and its account may be gone
        await escrow_lock(run)
        while await _goes_on(run):
            await order_round(run)
            await every(train_round(run), close_round(run))
            await verify_round(run)
            await release(run)
            await rebalance(run)
    await deliver(run)
    await settle(run)


async def _goes_on(run: Run) -> bool:
    """Whether there is a further round; asked once more when the last one's audit is over, which may leave work."""
    if await next_round(run):
        return True
    if run.open is None:
        return False
    await close_round(run)
    return await next_round(run)


async def _close_books(run: Run, error: CloudLinkUpError) -> None:
    """What verified stays paid, the rest returns to the client; a fault of the stack leaves everything to a retry."""
    locked = run.state.terms is not None and run.state.stage not in ("segment", "allocate")
    final = isinstance(error, BadInput | JobFailed)
    if final and locked:
        run.state.ended_early = str(error)
        run.save()  # whoever takes this up again begins no further round once the job is finished on chain
        if run.prepared is not None:
            try:
                await close_round(run)
            except (NotConfirmed, Unavailable) as failed:  # it may yet be paid: submitted again, it goes on here
                run.store.fail(run.request_id, describe(failed), final=False)
                return
            except CloudLinkUpError as failed:
                run.log.warning("given_up", why=str(failed)[:120])
                await give_up(run)
    run.store.fail(run.request_id, describe(error), final=final and not locked)
    if final and locked:
        if run.prepared is not None and run.state.generation:
            await deliver(run)  # what the rounds before it trained is paid for
        await settle(run)
        run.store.fail(run.request_id, describe(error), final=True)


def unexpected(error: Exception) -> dict[str, object]:
    """A fault of ours, as the job store keeps it: its kind alone, as its message may hold anything."""
    message = (
        f"unexpected {type(error).__name__}; what was verified stays paid. "
        "Fix: submit it again with the same request id; the flow run's log says where"
    )
    return {"error": type(error).__name__, "message": message, "exit_code": 1}


def describe(error: CloudLinkUpError) -> dict[str, object]:
    """An error as the job store keeps it; messages never hold rows or secrets."""
    known: dict[str, object] = {"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    if isinstance(error, BadInput):
        known |= {"field": error.field, "problem": error.problem, "fix": error.fix}
    return known
