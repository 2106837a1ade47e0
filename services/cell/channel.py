"""Calls over one contributor's connection: send, wait for ack and reply, count, and give up in time.

It is the `contributor` of a Dask worker (`cluster/shard.py`). Times are the gateway's own monotonic clock; bytes are
the payloads of frames plus the blobs moved for the call, without WebSocket and TLS overhead.

Not covered: reading the socket and who is at its other end (`gateway.py`, `hello.py`); what a reply means (the flow
checks every signature and hash in it again).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from cloudlinkup.errors import CloudLinkUpError, ContributorLost, ContributorRefused, ProtocolError, ShardTimeout
from cloudlinkup.wire.calls import MAX_BODY, CallRequest, CallResult, Description
from cloudlinkup.wire.frames import (
    AckFrame,
    AskTicket,
    Call,
    Cancel,
    Drain,
    Failed,
    HelloFrame,
    Refused,
    Reply,
    Ticket,
    Welcome,
    read_for_gateway,
)
from cloudlinkup.wire.messages import Ack, BadShard, Hello, Signed, agent_key, verify
from cloudlinkup.wire.packed import Packed
from services.cell.grants import Grant, Grants
from services.cell.worker import current_key

NEW_WORK = ("describe", "train")  # what a draining contributor no longer gets; it may still finish what it has done

log = structlog.get_logger()


@dataclass(eq=False)
class _Pending:
    """A call that was sent. `outcome`: the reply's body, or why there is none."""

    request: CallRequest
    key: str
    grant: Grant
    started: float
    ack: asyncio.Future[Signed]
    outcome: asyncio.Future[bytes]
    seconds_to_ack: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    def fail(self, error: CloudLinkUpError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Channel:
    """`send` hands one frame to the socket and raises ContributorLost when it is closed."""

    def __init__(
        self,
        described: Description,
        hello: Hello,
        session: str,
        grants: Grants,
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self.described = described
        self.hello = hello
        self.agent: str = hello.agent
        self.session = session
        self.draining = False
        self._welcomed = asyncio.Event()  # until then the agent awaits no call
        self.lost: str | None = None  # why, once it is
        self._grants = grants
        self._send = send
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0

    # ---------------------------------------------------------------- from Dask

    async def call(self, request: CallRequest) -> CallResult:
        """Raises ContributorLost, ContributorRefused or ShardTimeout."""
        started = time.monotonic()
        if self.lost is not None:
            raise ContributorLost(f"{self.agent}: {self.lost}")
        if self.draining and request.kind in NEW_WORK:
            raise ContributorRefused("draining", f"{self.agent} takes no new calls")
        if request.kind == "describe":
            return CallResult(body=self.described.pack(), seconds=0.0, bytes_up=0, bytes_down=0)
        loop = asyncio.get_running_loop()
        pending = _Pending(
            request=request,
            key=current_key.get(),
            grant=self._grants.grant(self.session, request, started + request.deadline),
            started=started,
            ack=loop.create_future(),
            outcome=loop.create_future(),
        )
        self._last_id = number = self._last_id + 1
        self._pending[number] = pending
        failure: BaseException | None = None
        try:
            return await self._wait(number, pending)
        except BaseException as error:
            failure = error
            raise
        finally:
            del self._pending[number]
            self._grants.revoke(pending.grant)
            pending.ack.cancel()
            if not pending.outcome.cancel() and not pending.outcome.cancelled():
                pending.outcome.exception()  # seen: it was raised, or an earlier failure was
            if failure is not None and self.lost is None and not isinstance(failure, ContributorRefused):
                with contextlib.suppress(ContributorLost, TimeoutError):
                    async with asyncio.timeout(1):
                        await self._send(Cancel(id=number).pack())
            log.info(
                "call ended",
                agent=self.agent,
                kind=request.kind,
                job=request.job_id,
                seconds=round(time.monotonic() - started, 3),
                outcome=type(failure).__name__ if failure else "reply",
            )

    async def _wait(self, number: int, pending: _Pending) -> CallResult:
        request = pending.request
        frame = Call(id=number, kind=request.kind, body=request.body, deadline=request.deadline)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + request.deadline):
                await self._welcomed.wait()
                await self._post(pending, frame)
                if request.ack_within is not None:
                    await asyncio.wait(
                        {pending.ack, pending.outcome},
                        timeout=request.ack_within,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if not pending.ack.done() and not pending.outcome.done():
                        raise ShardTimeout(f"{self.agent} did not acknowledge within {request.ack_within:g} s")
                body = await pending.outcome
        except TimeoutError:
            raise ShardTimeout(f"{self.agent} did not answer {request.kind} in {request.deadline:g} s") from None
        return CallResult(
            body=body,
            ack=pending.ack.result() if pending.ack.done() else None,
            seconds_to_ack=pending.seconds_to_ack,
            seconds=time.monotonic() - pending.started,
            bytes_up=pending.bytes_up + pending.grant.bytes_up,
            bytes_down=pending.bytes_down + pending.grant.bytes_down,
        )

    def abandon(self, key: str) -> None:
        """The flow gave up the call with this Dask key: its rights end, and the agent is told."""
        for number, pending in self._pending.items():
            if pending.key == key and not pending.outcome.done():
                pending.fail(ContributorLost("the flow gave this call up"))
                log.info("call given up", agent=self.agent, id=number)

    # ---------------------------------------------------------------- from the socket

    async def receive(self, data: bytes) -> None:
        """One frame of the contributor's. Raises ProtocolError for what ends the connection."""
        frame = read_for_gateway(data)
        if isinstance(frame, HelloFrame):
            raise ProtocolError("a second hello")
        if isinstance(frame, Drain):
            self.draining = True
            log.info("contributor drains", agent=self.agent)
            return
        if frame.id > self._last_id:
            raise ProtocolError(f"no call {frame.id} was sent")
        pending = self._pending.get(frame.id)
        if pending is None:  # it ended, and the answer crossed our cancel
            if isinstance(frame, AskTicket):
                await self._send(Refused(code="ended", message="this call has ended", id=frame.id).pack())
            return
        pending.bytes_up += len(data)
        if isinstance(frame, AckFrame):
            self._on_ack(pending, frame.signed)
        elif isinstance(frame, AskTicket):
            await self._on_ask(frame, pending)
        elif isinstance(frame, Reply):
            self._on_reply(pending, frame.body)
        else:
            assert isinstance(frame, Failed)
            pending.fail(ContributorRefused(frame.code, frame.message))

    async def welcome(self) -> None:
        """Tells the agent that it is in, and lets calls begin."""
        await self._send(Welcome(session=self.session).pack())
        self._welcomed.set()

    def close(self, reason: str) -> None:
        """The connection is gone: pending calls fail now."""
        if self.lost is None:
            self.lost = reason
            for pending in self._pending.values():
                pending.fail(ContributorLost(f"{self.agent}: {reason}"))

    def _on_ack(self, pending: _Pending, signed: Signed) -> None:
        if pending.request.ack_within is None or pending.ack.done():
            raise ProtocolError("an acknowledgement that nobody awaits")
        names = {"signer": agent_key(self.agent), "genesis": self.hello.genesis, "program": self.hello.program}
        accepted = True
        try:
            verify(Ack, signed, **names)
        except ProtocolError:
            verify(BadShard, signed, **names)
            accepted = False
        pending.seconds_to_ack = time.monotonic() - pending.started
        pending.ack.set_result(signed)
        if not accepted and not pending.outcome.done():
            pending.outcome.set_result(b"")  # refused before any work: no reply follows

    def _on_reply(self, pending: _Pending, body: bytes) -> None:
        if len(body) > MAX_BODY:
            raise ProtocolError(f"a reply of {len(body)} bytes where at most {MAX_BODY} are allowed")
        if pending.request.ack_within is not None and not pending.ack.done():
            raise ProtocolError("a reply before the acknowledgement")
        if not pending.outcome.done():
            pending.outcome.set_result(body)

    async def _on_ask(self, ask: AskTicket, pending: _Pending) -> None:
        token = self._grants.issue(pending.grant, ask.sha256, ask.size)
        if token is None:
            refused = Refused(code="no-grant", message="this call may not store (more) blobs of that size", id=ask.id)
            await self._post(pending, refused)
        else:
            await self._post(pending, Ticket(id=ask.id, sha256=ask.sha256, token=token))

    async def _post(self, pending: _Pending, frame: Packed) -> None:
        data = frame.pack()
        pending.bytes_down += len(data)
        await self._send(data)
