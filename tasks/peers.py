"""Who is connected now, in words that we verified ourselves: the flow trusts the gateway for transport alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from cloudlinkup.cluster.dispatch import Contributor, verify_description
from cloudlinkup.errors import ProtocolError
from cloudlinkup.home import Settings
from cloudlinkup.wire.messages import Delegation, Hello
from tasks.context import Run
from tasks.state import Seat


@dataclass(frozen=True)
class Peer:
    """A connected contributor. `hello.sealing_key` is the one of this connection."""

    agent: str
    via: str
    delegation: Delegation
    hello: Hello

    @property
    def wallet(self) -> str:
        return self.delegation.wallet

    def fits(self, seat: Seat) -> bool:
        """Still who was given the seat: the same wallet, on the device class in which its work can be replayed."""
        return self.wallet == seat.wallet and self.hello.hardware.device_class == seat.device_class


def verified(
    described: Iterable[Contributor], *, settings: Settings, genesis: str, allow: Iterable[str]
) -> dict[str, Peer]:
    """Agent key to peer, for everybody whose delegation and hello verify and whom the client's allow-list admits."""
    peers: dict[str, Peer] = {}
    allowed = set(allow)
    for one in described:
        try:
            delegation, hello = verify_description(
                one.description,
                genesis=genesis,
                program=settings.program_id,
                gateway=settings.gateway_url,
                now=int(time.time()),
            )
        except ProtocolError as error:
            structlog.get_logger().warning("contributor_refused", agent=one.agent, why=str(error))
            continue
        if not allowed or delegation.wallet in allowed:
            peers[one.agent] = Peer(one.agent, one.via, delegation, hello)
    return peers


async def connected(run: Run) -> dict[str, Peer]:
    """Who is connected to this job's cell now and may take part. Raises ClusterLost."""
    described = await run.cluster.contributors()
    return verified(described, settings=run.settings, genesis=run.genesis, allow=run.job.contributors.allow)


async def wait_connected(run: Run, want: int, seconds: float, poll: float = 0.5) -> dict[str, Peer]:
    """Like `connected`, once `want` are there or the time is up, whichever is first."""
    end = time.monotonic() + seconds
    while True:
        peers = await connected(run)
        if len(peers) >= want or time.monotonic() >= end:
            return peers
        await asyncio.sleep(poll)
