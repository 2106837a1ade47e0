"""The gateway's HTTP side: one WebSocket a contributor, and the sealed blobs of its calls.

    /ws               frames of `wire/frames.py`, binary, at most MAX_FRAME bytes
    /blobs/{sha256}   GET with the session's token and a running call that reads it; PUT with a one-use ticket
    /healthz          how many are connected

Contributors speak nothing else to a cell: no Dask, no Prefect, and no byte of theirs is ever unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.errors import ContributorLost, ProtocolError, Unavailable
from cloudlinkup.wire.frames import Refused
from cloudlinkup.wire.messages import Delegation
from services.cell.channel import Channel
from services.cell.config import CellConfig
from services.cell.grants import Grants
from services.cell.hello import NotAdmitted, shake_hands
from services.cell.worker import LINGER, LeanWorker

log = structlog.get_logger()

_PUT_FAILED: dict[type[Exception], tuple[int, str]] = {
    ProtocolError: (422, "hash"),  # or larger than the ticket says
    Unavailable: (503, "store"),
    TimeoutError: (408, "deadline"),
    ClientDisconnect: (400, "broken-off"),
}


@dataclass(eq=False)
class _Seat:
    """A connected contributor. `left` is set once its worker has gone and its name is free again."""

    channel: Channel
    left: asyncio.Event


class Gateway:
    """`scheduler`: the inproc address that workers connect to; `scratch`: a folder for what Dask keeps on disk."""

    def __init__(self, config: CellConfig, scheduler: str, store: BlobStore, scratch: str) -> None:
        self._config = config
        self._scheduler = scheduler
        self._store = store
        self._scratch = scratch
        self._grants = Grants()
        self._seats: dict[str, _Seat] = {}
        self._closing = False
        self.app = Starlette(
            routes=[
                WebSocketRoute("/ws", self._websocket),
                Route("/blobs/{sha256}", self._get_blob, methods=["GET"]),
                Route("/blobs/{sha256}", self._put_blob, methods=["PUT"]),
                Route("/healthz", self._health, methods=["GET"]),
            ]
        )

    @property
    def connected(self) -> int:
        return sum(seat.channel.lost is None for seat in self._seats.values())

    def begin_to_close(self) -> None:
        """Fails all calls and lets nobody in. The server closes the sockets after that, and each worker its own."""
        self._closing = True
        for seat in self._seats.values():
            seat.channel.close("the cell is shutting down")

    async def closed(self) -> None:
        """Returns once every worker has gone."""
        await asyncio.gather(*(seat.left.wait() for seat in list(self._seats.values())))

    # ---------------------------------------------------------------- WebSocket

    async def _websocket(self, socket: WebSocket) -> None:
        async def send(data: bytes) -> None:
            try:
                await socket.send_bytes(data)
            except (WebSocketDisconnect, RuntimeError, OSError):  # starlette raises either after a close
                raise ContributorLost("its connection is closed") from None

        async def receive() -> bytes:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise ContributorLost(f"its connection was closed ({message.get('code', 1005)})")
            data: bytes | None = message.get("bytes")
            if data is None:
                raise ProtocolError("a text frame")
            return data

        await socket.accept()
        try:
            described, delegation, hello = await shake_hands(self._config, send, receive)
            session = self._grants.open_session()
            channel = Channel(described, hello, session, self._grants, send)
            try:
                seat = await self._take_seat(channel)
            except BaseException:
                self._grants.close_session(session)
                raise
            await self._serve(seat, delegation, receive)
        except NotAdmitted as refusal:
            log.info("refused", code=refusal.code, reason=str(refusal))
            with contextlib.suppress(ContributorLost, TimeoutError):
                async with asyncio.timeout(1):
                    await send(Refused(code=refusal.code, message=str(refusal)[:200]).pack())
        except ContributorLost:
            pass  # gone during the handshake, or served and logged
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):  # closed already
            await socket.close(1008)

    async def _take_seat(self, channel: Channel) -> _Seat:
        """Reserves the agent's name. Raises NotAdmitted while it is connected, or where too many are."""
        while (other := self._seats.get(channel.agent)) is not None:
            if other.channel.lost is None:
                raise NotAdmitted("duplicate", "this agent key is connected already")
            await other.left.wait()  # its worker is closing
        if self._closing:
            raise ContributorLost("the cell is shutting down")
        if len(self._seats) >= self._config.most:
            raise NotAdmitted("full", "this gateway has as many contributors as it serves: try later")
        seat = self._seats[channel.agent] = _Seat(channel, asyncio.Event())
        return seat

    async def _serve(self, seat: _Seat, delegation: Delegation, receive: Callable[[], Awaitable[bytes]]) -> None:
        channel, worker = seat.channel, None
        device = "GPU" if channel.hello.hardware.kind == "cuda" else "CPU"
        try:
            try:
                worker = await LeanWorker(self._scheduler, channel.agent, device, channel, self._scratch)
            except (OSError, RuntimeError, ValueError):  # as when an operator's own worker has taken the name
                raise NotAdmitted("scheduler", "the scheduler does not take a worker of this name") from None
            await channel.welcome()
            log.info("connected", agent=channel.agent, wallet=delegation.wallet, device=device)
            while True:
                await channel.receive(await receive())
        except NotAdmitted:
            channel.close("it was not let in")
            raise
        except ContributorLost as gone:
            channel.close(str(gone))
        except ProtocolError as error:
            channel.close(f"broke the protocol: {error}")
        finally:
            channel.close("its connection failed")  # by an error of ours; otherwise the reason stands
            self._grants.close_session(channel.session)
            log.info("disconnected", agent=channel.agent, reason=channel.lost)
            try:
                if worker is not None:
                    await worker.leave(0.0 if self._closing else LINGER)
            finally:
                del self._seats[channel.agent]
                seat.left.set()

    # ---------------------------------------------------------------- blobs

    async def _get_blob(self, request: Request) -> Response:
        name, token = request.path_params["sha256"], _bearer(request)
        if token is None or not self._grants.known(token):
            return _problem(401, "session", "no session of this gateway")
        grant = self._grants.readable(token, name, time.monotonic())
        if grant is None:
            return _problem(403, "no-grant", "no running call of yours reads this blob")
        try:
            size = await self._store.size(grant.job_id, name)
        except (Unavailable, ProtocolError) as error:
            return _problem(404, "absent", str(error))

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in self._store.stream(grant.job_id, name):
                grant.bytes_down += len(chunk)
                yield chunk

        headers = {"content-length": str(size), "cache-control": "no-store"}
        return _InTime(grant.until, chunks(), headers=headers, media_type="application/octet-stream")

    async def _put_blob(self, request: Request) -> Response:
        name, token = request.path_params["sha256"], _bearer(request)
        ticket = None if token is None else self._grants.take(token, name, time.monotonic())
        if ticket is None:
            return _problem(401, "ticket", "no such ticket for this blob: each is good for one PUT")
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or int(length) != ticket.size:
            return _problem(413, "size", f"the ticket is for {ticket.size} bytes, given as Content-Length")

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in request.stream():
                ticket.grant.bytes_up += len(chunk)
                yield chunk

        try:
            async with asyncio.timeout(max(0.0, ticket.grant.until - time.monotonic())):
                await self._store.put_stream(ticket.grant.job_id, name, chunks(), ticket.size)
        except (ProtocolError, Unavailable, TimeoutError, ClientDisconnect) as error:
            status, code = next(found for kind, found in _PUT_FAILED.items() if isinstance(error, kind))
            return _problem(status, code, str(error))
        return Response(status_code=201)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "contributors": self.connected})


class _InTime(StreamingResponse):
    """A stream that is broken off at `until` (monotonic): a slow reader holds nothing beyond its call's deadline."""

    def __init__(self, until: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(TimeoutError, Unavailable):  # Content-Length tells the reader that it is not whole
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                await super().__call__(scope, receive, send)


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


def _problem(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status_code=status)
