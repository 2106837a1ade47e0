"""What a flow needs of a cell: who is connected, and one call to one of them. The only place that knows Dask's errors.

A call names its contributor and never moves to another: neither Dask nor Prefect tries anything again, because the
round loop has to place and price it anew. Blobs travel by reference, so that a call stays small.
Every way to lose a contributor or the scheduler ends as ContributorLost, ShardTimeout or ClusterLost.

Not covered: what the calls mean (`wire/calls.py`), and trust: whoever holds this connection is in the cell's domain.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from distributed import Client
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError
from pydantic import ValidationError

from cloudlinkup.cluster import shard
from cloudlinkup.errors import ClusterError, ClusterLost, ContributorLost, ProtocolError, ShardTimeout, Unavailable
from cloudlinkup.wire.calls import RESULT_LIMIT, CallRequest, CallResult, Description
from cloudlinkup.wire.messages import Delegation, Hello, Signed, agent_key, verify

MARGIN = 5.0  # seconds beyond a call's own deadline, which the gateway holds
DESCRIBE = 5.0  # seconds for a contributor to say who it is
CONNECT = 10.0  # seconds to reach the scheduler
DEVICES = ("GPU", "CPU")  # the resource a training call takes, so that it has the device alone


@dataclass(frozen=True)
class Contributor:
    """One worker's own words, not yet checked: `verify_description` checks `description`.

    `agent` is whom the hello names: the key that signed it, or one device of it. `name` is its Dask worker's name (the
    same, when it came by the gateway).
    """

    agent: str
    name: str
    via: Literal["gateway", "direct"]
    delegation: Signed
    hello: Signed

    @property
    def description(self) -> Description:
        return Description(delegation=self.delegation, hello=self.hello, via=self.via)


def verify_description(
    described: Description, genesis: str, program: str, gateway: str, now: float
) -> tuple[Delegation, Hello]:
    """Both documents, once every signature, name and date in them has been checked. `now`: unix seconds.

    The wallet delegates to the agent key, for this gateway, until later than now; the agent key signed the hello for
    this gateway, with a sealing key that is still valid. Raises ProtocolError. Whether the hello answers a certain
    nonce only the gateway that chose it can check.
    """
    delegation = verify(
        Delegation, described.delegation, signer=described.delegation.signer, genesis=genesis, program=program
    )
    if delegation.wallet != described.delegation.signer:
        raise ProtocolError("the delegation is not signed by the wallet it names")
    if delegation.gateway != gateway:
        raise ProtocolError(f"the delegation is for {delegation.gateway}, not for {gateway}")
    if delegation.expires <= now:
        raise ProtocolError("the delegation has expired: sign a new one with the wallet")
    hello = verify(Hello, described.hello, signer=delegation.agent, genesis=genesis, program=program)
    if agent_key(hello.agent) != delegation.agent:
        raise ProtocolError("the hello is for another agent key than the delegation")
    if hello.gateway != gateway:
        raise ProtocolError(f"the hello is for {hello.gateway}, not for {gateway}")
    if hello.sealing_expires <= now:
        raise ProtocolError("the sealing key has expired: make a new one and say hello again")
    return delegation, hello


@dataclass(frozen=True)
class _Place:
    """Where calls to an agent go."""

    worker: str
    device: str | None  # which of DEVICES the worker offers


class Cluster:
    """A connection to a cell's scheduler: ``async with Cluster.connect("tcp://127.0.0.1:18803") as cluster``."""

    def __init__(self, client: Any) -> None:
        self._client = client  # a distributed.Client, whose stubs know only its blocking half
        self._places: dict[str, _Place] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, address: str) -> AsyncIterator[Cluster]:
        """Raises Unavailable when no scheduler answers within 10 s."""
        try:
            client: Any = Client(
                address, asynchronous=True, set_as_default=False, direct_to_workers=False, timeout=CONNECT
            )
            await client
        except (OSError, TimeoutError):
            raise Unavailable(f"no Dask scheduler answers at {address}. Fix: start the stack, or its cell") from None
        try:
            yield cls(client)
        finally:
            with contextlib.suppress(OSError, TimeoutError):  # it may be gone already
                await client.close(timeout=2)

    async def contributors(self) -> list[Contributor]:
        """Everybody who is connected and answers, by agent name; who fails or leaves meanwhile is left out.

        Raises ClusterLost.
        """
        places = await self._workers()
        found = await asyncio.gather(*(self._describe(place) for place in places))
        known = {c.agent: (c, place) for c, place in zip(found, places, strict=True) if c is not None}
        # a direct worker that is busy may not answer in time, and is still where it was
        kept = {agent: place for agent, place in self._places.items() if place in places}
        self._places = kept | {agent: place for agent, (_, place) in known.items()}
        return [known[agent][0] for agent in sorted(known)]

    async def call(self, agent: str, request: CallRequest, key: str) -> CallResult:
        """One call to one contributor. `key` names it in the Dask dashboard, and may be used again.

        Raises ContributorLost, ContributorRefused, ShardTimeout, ClusterLost.
        """
        place = self._places.get(agent)
        if place is None:  # not described yet by this connection: by the gateway, the name is the agent key
            place = next((p for p in await self._workers() if p.worker == agent), None)
            if place is None:
                raise ContributorLost(f"{agent} is not connected")
        try:
            return await self._submit(place, request, key)
        except ContributorLost:
            self._places.pop(agent, None)  # it may come back with another device
            raise

    async def _describe(self, place: _Place) -> Contributor | None:
        request = CallRequest(kind="describe", body=b"", deadline=DESCRIBE)
        try:
            result = await self._submit(place, request, f"describe-{place.worker}")
            described = Description.unpack(result.body, RESULT_LIMIT)
            name = Hello.model_validate_json(described.hello.text).agent  # as it says; `verify_description` checks it
        except ClusterLost:
            raise
        except (ClusterError, ProtocolError, ValidationError):
            return None
        return Contributor(
            agent=name,
            name=place.worker,
            via=described.via,
            delegation=described.delegation,
            hello=described.hello,
        )

    async def _workers(self) -> list[_Place]:
        if self._client.status != "running":
            raise ClusterLost("the Dask scheduler is gone")
        try:
            identity: dict[str, Any] = await asyncio.wait_for(self._client.scheduler.identity(n_workers=-1), CONNECT)
        except (OSError, TimeoutError):
            raise ClusterLost("the Dask scheduler does not answer") from None
        return [
            _Place(worker["name"], next((d for d in DEVICES if worker["resources"].get(d, 0) >= 1), None))
            for worker in identity["workers"].values()
            if isinstance(worker["name"], str) and worker["status"] == "running"
        ]

    async def _submit(self, place: _Place, request: CallRequest, key: str) -> CallResult:
        # A worker may still be leaving an abandoned call of the same name; under one key Dask would hand its result
        # to the new one. So every call has a key of its own, which begins with the caller's.
        future: Any = self._client.submit(
            shard.call,
            request.pack(),
            key=f"{key}-{uuid.uuid4().hex}",
            workers=[place.worker],
            allow_other_workers=False,
            resources={place.device: 1} if place.device and request.kind == "train" else None,
            retries=0,
            pure=False,
        )
        done = False
        try:
            async with asyncio.timeout(request.deadline + MARGIN):
                packed: bytes = await future
            done = True
            return CallResult.unpack(packed, RESULT_LIMIT)
        except (KilledWorker, NoValidWorkerError, NoWorkerError):
            raise ContributorLost(f"{place.worker} was lost during {request.kind}") from None
        except FutureCancelledError:
            raise ClusterLost(f"the Dask scheduler was lost during {request.kind}") from None
        except TimeoutError:
            raise ShardTimeout(f"no answer to {request.kind} from {place.worker} in {request.deadline:g} s") from None
        except OSError:
            raise ClusterLost(f"the connection to the Dask scheduler broke during {request.kind}") from None
        finally:
            if not done:
                with contextlib.suppress(Exception):  # the scheduler may be gone: there is nothing left to cancel
                    await self._client.cancel([future], force=True)
            future.release()
