"""The cell's TLS port: uvicorn, made to notice frozen peers quickly and to leave the process's signals alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from cloudlinkup.errors import Unavailable
from cloudlinkup.wire.frames import MAX_FRAME
from services.cell.config import CellConfig

CLOSING = 0.5  # seconds for peers to answer a close when the cell stops
FIRST_REQUEST = 10.0  # seconds from TCP to the end of the first request's head


class _Http(H11Protocol):
    """Drops whoever connects and asks nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(FIRST_REQUEST, self._asked_anything)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(CLOSING, self.transport.abort)

    def _asked_anything(self) -> None:
        if self.cycle is None and not self.transport.is_closing() and self.transport.get_protocol() is self:
            self.transport.abort()


class _Socket(WebSocketsSansIOProtocol):
    """Aborts where uvicorn closes: a frozen peer never answers a close, which would then take another 30 s."""

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(CLOSING, self.transport.abort)


class _Uvicorn(uvicorn.Server):
    def capture_signals(self) -> Any:
        """They are the cell's: see __main__.py."""
        return contextlib.nullcontext()


class Server:
    """Serves an ASGI application on the gateway's port until `stop`."""

    def __init__(self, config: CellConfig, app: Any) -> None:
        self._listener = listen(config.gateway_host, config.gateway_port)
        self.port: int = self._listener.getsockname()[1]
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                http=_Http,
                ws=_Socket,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_certfile=config.tls_cert,
                ssl_keyfile=config.tls_key,
                ws_max_size=MAX_FRAME,
                ws_ping_interval=config.ping_interval,
                ws_ping_timeout=config.ping_timeout,
                ws_per_message_deflate=False,  # what travels is ciphertext and hashes
                timeout_keep_alive=5,
                timeout_graceful_shutdown=10,
                h11_max_incomplete_event_size=16 * 1024,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once the port is open. Raises Unavailable when it cannot serve."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                raise Unavailable("the gateway did not start") from self._task.exception()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises Unavailable that names a taken port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(f"{host}:{port} cannot be listened on: {error.strerror}. Fix: choose another port") from None
    listener.setblocking(False)
    return listener
