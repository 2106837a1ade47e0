"""What a contributor shows of its work: results and states sealed to the flow, with the path to its own root."""

from __future__ import annotations

import asyncio
import time

from cloudlinkup.agent.chain import Chain
from cloudlinkup.agent.files import OrderFolder
from cloudlinkup.agent.ports import Io
from cloudlinkup.crypto.seal import encrypt_blob, seal_key
from cloudlinkup.errors import CloudLinkUpError, ContributorRefused
from cloudlinkup.verify import merkle
from cloudlinkup.wire.calls import BlobRef, ChallengeCall, ChallengeReply, Opening, PathStep
from cloudlinkup.wire.hashes import Field, seal_context, sha256
from cloudlinkup.wire.messages import Order

_COMMIT_SEEN = 5.0  # seconds that our own RPC may lag behind the flow's


def seal_for_flow(plain: bytes, order: Order, direction: str, *rest: Field) -> tuple[bytes, BlobRef]:
    """(ciphertext, reference) for the order's result key. `rest` of an opening: segments done at that state."""
    sealed, key = encrypt_blob(plain)
    context = seal_context(direction, order.job_id, order.result_key, order.round, order.seat, order.attempt, *rest)
    for_flow = seal_key(key, bytes.fromhex(order.result_key), context)
    return sealed, BlobRef(sha256=sha256(sealed), size=len(sealed), sealed_key=for_flow)


async def committed(chain: Chain, order: Order, root: bytes) -> bool:
    """Whether the chain has this root. A later commit hides it and a silent RPC proves nothing: both pass."""
    end = time.monotonic() + _COMMIT_SEEN
    while True:
        try:
            job = await chain.job(order.job)
        except CloudLinkUpError:
            return True
        if job is not None and job.round >= order.round:
            return job.round > order.round or job.commit_root == root
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.25)


async def open_states(
    folder: OrderFolder, order: Order, call: ChallengeCall, segments: int, io: Io, start: bytes | None
) -> ChallengeReply:
    """The before-states of `call.open`, their after-states where asked, each once, by segments done; and all leaves.
    Of a start whose optimizer state the order names, that alone (`start`): the published weights are the flow's.

    Raises ContributorRefused (`no_state`) for segments that were not done or states that are gone.
    """
    wanted = {k - 1 for k in call.open} | (set(call.open) if call.after else set())
    if any(k > segments for k in call.open):
        raise ContributorRefused("no_state", f"only {segments} segments were done")
    leaves, openings = folder.leaves(), []
    for at in sorted(wanted):
        carried = at == 0 and order.moments is not None
        state = start if carried else await asyncio.to_thread(folder.state, at)
        if state is None:
            raise ContributorRefused("no_state", f"the state after segment {at} is no longer kept")
        sealed, ref = await asyncio.to_thread(seal_for_flow, state, order, "opening", at)
        await io.put_blob(sealed)
        steps = tuple(PathStep(left=left, hash=sibling) for left, sibling in merkle.path(leaves, at))
        openings.append(Opening(at=at, state=ref, path=steps))
    return ChallengeReply(openings=tuple(openings), leaves=tuple(leaves))
