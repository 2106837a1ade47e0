"""An inclusion path that did not arrive with its challenge is handed over again, where its contributor misses it.

A contributor takes no further order while a round that the chain has committed lacks its path: nobody could else know
whether its work was left out. A challenge that got lost on the way would so end an honest contributor's part in the
job. The round it belongs to stays unpaid where an opening was needed: none in time is a failed round. Where none was,
it is judged without its contributor, and paid.
"""

from __future__ import annotations

import asyncio

from cloudlinkup.errors import ClusterError, ClusterLost, ProtocolError
from cloudlinkup.verify import merkle
from cloudlinkup.wire.calls import CallRequest, ChallengeCall, PathStep
from cloudlinkup.wire.hashes import seat_leaf
from tasks.context import Run
from tasks.state import Entry, RoundState, Seat
from tasks.tree import round_leaves, under_the_root

WITHIN = 15.0  # seconds


async def hand_over_paths(run: Run, seat: Seat) -> bool:
    """Sends the paths of the seat's rounds whose challenge it did not answer; whether any was taken."""
    rounds = [RoundState.model_validate_json(text) for text in run.store.rounds(run.request_id)]
    taken = False
    for round_ in rounds:
        for entry in under_the_root(round_):
            if entry.seat == seat.seat and (entry.outcome == "timeout" or entry.unheard):
                taken |= await _hand_over(run, round_, entry)
    return taken


async def hand_over_open(run: Run, seat: Seat) -> bool:
    """The path of the round before, whose audit is yet to come; whether it was taken. Without it the seat takes no
    order."""
    taken = False
    for entry in [] if run.open is None else under_the_root(run.open):
        if run.open is not None and entry.seat == seat.seat:
            taken |= await _hand_over(run, run.open, entry, more=True)
    return taken


def hand_over_all(run: Run, round_: RoundState) -> None:
    """Begins to send the paths of a round that goes ahead, as soon as it is committed. Nobody waits for another's."""
    slow = {order: task for order, task in run.handing.items() if not task.done()}
    run.handing = slow | {
        entry.order.hash.hex(): asyncio.create_task(_hand_over(run, round_, entry, more=True))
        for entry in under_the_root(round_)
    }


async def was_told(run: Run, seat: Seat) -> bool:
    """Whether the seat's contributor has taken the path of the round before; waits for the one on its way."""
    before = [] if run.open is None else under_the_root(run.open)
    mine = [run.handing.get(entry.order.hash.hex()) for entry in before if entry.seat == seat.seat]
    return all([task is not None and await task for task in mine])


async def _hand_over(run: Run, round_: RoundState, entry: Entry, *, more: bool = False) -> bool:
    assert run.state.terms is not None
    leaf = seat_leaf(entry.seat, bytes.fromhex(entry.root))
    leaves = round_leaves(round_, under_the_root(round_))
    root = merkle.root(leaves)
    if root.hex() != round_.root:
        return False
    path = tuple(PathStep(left=left, hash=sibling) for left, sibling in merkle.path(leaves, leaves.index(leaf)))
    call = ChallengeCall(
        order=entry.order.hash.hex(), round=round_.round, seat=entry.seat, root=root, path=path, open=(), more=more
    )
    job_id = run.state.terms.job_id
    request = CallRequest(kind="challenge", body=call.pack(), deadline=WITHIN, job_id=job_id)
    try:
        await run.cluster.call(
            entry.agent, request, f"path-{run.request_id}-{round_.round}-{entry.seat}-{run.state.round}"
        )
    except ClusterLost:
        raise
    except (ClusterError, ProtocolError) as error:
        run.log.info("path_not_taken", round=round_.round, seat=entry.seat, why=str(error)[:120])
        return False
    if not more:
        run.event("path_sent", round=round_.round, seat=entry.seat)
    return True
