"""The HTTP face: POST / with one request or a batch, GET /health. Bounded in bytes and in calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.localnet.chain import Chain
from services.localnet.rpc import Rpc, answer, dumps

log = structlog.get_logger(__name__)

MAX_BODY = 256 * 1024
MAX_BATCH = 100
REMEMBER_SECONDS = 5.0


def make_app(chain: Chain) -> Starlette:
    """The ASGI application over an open chain; closes it at shutdown."""
    rpc = Rpc(chain)

    async def post(request: Request) -> Response:
        # A web page can send text/plain to any address without asking; it cannot send this type.
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return PlainTextResponse("send application/json", status_code=415)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return PlainTextResponse(f"a request has at most {MAX_BODY} bytes", status_code=413)
        try:
            parsed = json.loads(bytes(body))
        except (ValueError, RecursionError):
            failure = {"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": None}
            return Response(dumps(failure), media_type="application/json")
        if not isinstance(parsed, list):
            return Response(dumps(answer(rpc, parsed)), media_type="application/json")
        if not parsed or len(parsed) > MAX_BATCH:
            return PlainTextResponse(f"a batch has 1 to {MAX_BATCH} requests", status_code=413)
        return Response(dumps([answer(rpc, one) for one in parsed]), media_type="application/json")

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def remember() -> None:
        while True:
            await asyncio.sleep(REMEMBER_SECONDS)
            chain.remember_time()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(remember())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            chain.close()
            log.info("localnet stopped")

    return Starlette(routes=[Route("/", post, methods=["POST"]), Route("/health", health)], lifespan=lifespan)
