"""Solana's JSON-RPC by httpx alone: one bounded request, and what its answer means. Believes nobody.

The messages name the address without what may be a key in it. Not covered: retries.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import ssl
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from solders.pubkey import Pubkey

from cloudlinkup.errors import LedgerError, Unavailable
from cloudlinkup.ledger.accounts import JOB_HEAD, MAX_SEATS, SEAT_BYTES

TIMEOUT = 8.0
_MOST_BYTES = 2 * (JOB_HEAD + MAX_SEATS * SEAT_BYTES)  # base64 of the largest account, and the JSON around it


def shown(url: str) -> str:
    """The address without what may be a key in it: providers put theirs into the path, the query or the user part."""
    parts = urlsplit(url)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


class Refused(LedgerError):
    """The node's own error. `data` as it gave it, for what it says about a transaction."""

    def __init__(self, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.data = data


class Unreached(Unavailable):
    """Nothing was sent: there was no connection."""


@cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the root certificates takes 30 ms of CPU, which each question would pay, an http one too."""
    return httpx.create_ssl_context()


async def call(rpc_url: str, method: str, params: list[Any], seconds: float = TIMEOUT) -> Any:
    """The result. Raises Unavailable when nobody answers in time, Refused or LedgerError for anything but a result."""
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    body = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),  # the whole answer, not each piece of it
            httpx.AsyncClient(timeout=seconds, verify=_tls()) as client,
            client.stream("POST", rpc_url, json=question) as answer,
        ):
            answer.raise_for_status()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise LedgerError(f"the RPC at {shown(rpc_url)} answered with more than {_MOST_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)
        raise (Unreached if isinstance(error, unsent) else Unavailable)(
            f"the chain's RPC at {shown(rpc_url)} does not answer ({type(error).__name__}). "
            "Fix: start it, or name another RPC address"
        ) from None
    try:
        document = json.loads(bytes(body))
        if "result" in document:
            return document["result"]
        error = document["error"]
        words = f": {str(error['message'])[:200]}" if "message" in error else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LedgerError(f"the RPC at {shown(rpc_url)} refused {method}") from None
    raise Refused(f"the RPC at {shown(rpc_url)} refused {method}{words}", error.get("data"))


async def account(rpc_url: str, address: Pubkey, seconds: float = TIMEOUT) -> tuple[str, int, bytes] | None:
    """(owner, lamports, data) at `confirmed`, or None when there is no such account."""
    options = {"encoding": "base64", "commitment": "confirmed"}
    answer = await call(rpc_url, "getAccountInfo", [str(address), options], seconds)
    try:
        value = answer["value"]
        if value is None:
            return None
        data = base64.b64decode(value["data"][0], validate=True)
        return str(value["owner"]), int(value.get("lamports", 0)), data
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, binascii.Error):
        raise LedgerError(f"the RPC at {shown(rpc_url)} gave a malformed account") from None
