"""A bare HTTP server, and a proxy in front of a real chain that can delay, drop, change or repeat what passes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from tests.conftest import Localnet

Answer = Callable[[bytes], Awaitable[bytes | None]]
Forward = Callable[[], Awaitable[bytes]]
Change = Callable[[str, Any, Forward], Awaitable[bytes | None]]


@asynccontextmanager
async def http_server(answer: Answer, status: str = "200 OK") -> AsyncIterator[str]:
    """None as an answer cuts the connection."""
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        serving.add(me)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
                )
                body = await answer(await reader.readexactly(length))
                if body is None:
                    break
                start = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                writer.write(start.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            serving.discard(me)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(serving):
            task.cancel()


@asynccontextmanager
async def proxy(chain: Localnet, change: Change) -> AsyncIterator[str]:
    """In front of a real chain. `change(method, request, forward)` may call `forward`, once or more, or not."""
    async with httpx.AsyncClient(timeout=60) as client:

        async def answer(body: bytes) -> bytes | None:
            request = json.loads(body)

            async def forward() -> bytes:
                headers = {"content-type": "application/json"}
                return (await client.post(chain.url, content=body, headers=headers)).content

            return await change(request["method"], request, forward)

        async with http_server(answer) as url:
            yield url
