"""The one task that runs on a contributor's Dask worker: bytes in, bytes out, by name.

The scheduler imports this module when it reads the graph, so it stays light (no torch). Being async, the task is
awaited on the worker's event loop and holds no thread while a contributor trains.
"""

from __future__ import annotations

from typing import Protocol

from distributed import get_worker

from cloudlinkup.errors import ContributorRefused
from cloudlinkup.wire.calls import RESULT_LIMIT, CallRequest, CallResult


class Contributor(Protocol):
    """What a worker carries as its attribute `contributor`: the gateway's channel, or a direct worker's own runner."""

    async def call(self, request: CallRequest) -> CallResult:
        """Raises ContributorLost, ContributorRefused or ShardTimeout."""
        ...


async def call(payload: bytes) -> bytes:
    """A packed CallRequest to a packed CallResult.

    Raises ProtocolError for anything else, ContributorRefused on a worker that is nobody's.
    """
    request = CallRequest.unpack(payload, RESULT_LIMIT)
    contributor: Contributor | None = getattr(get_worker(), "contributor", None)
    if contributor is None:
        raise ContributorRefused("no-contributor", "this Dask worker belongs to no contributor")
    return (await contributor.call(request)).pack()
