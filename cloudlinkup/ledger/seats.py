"""What a contributor reads from the chain over its own RPC address: solders and httpx only, no key, nothing sent.

Answers are bounded in size, checked for the account's owner, discriminator and length, and taken at `confirmed`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any

import httpx
from solders.pubkey import Pubkey

from cloudlinkup.errors import LedgerError, Unavailable
from cloudlinkup.ledger.accounts import CLOCK_SYSVAR, JOB_HEAD, MAX_SEATS, SEAT_BYTES, Job, decode_job

TIMEOUT = 8.0
_MOST_BYTES = 2 * (JOB_HEAD + MAX_SEATS * SEAT_BYTES)  # base64 of the largest account, and the JSON around it


async def read_job(
    rpc_url: str,
    job: Pubkey,
    program_id: Pubkey,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 (applied below)
) -> Job | None:
    """The job at that address, or None when there is no such account.

    Raises Unavailable when nobody answers within `timeout` seconds, LedgerError when the account is not a job of that
    program or the answer is malformed.
    """
    found = await _account(rpc_url, job, timeout)
    if found is None:
        return None
    owner, data = found
    if owner != str(program_id):
        raise LedgerError(f"account {job} belongs to {owner}, not to the escrow program {program_id}")
    return decode_job(data)


async def read_genesis(rpc_url: str, timeout: float = TIMEOUT) -> str:  # noqa: ASYNC109
    """The chain's genesis hash, base58: which chain this is."""
    answer = await _call(rpc_url, "getGenesisHash", [], timeout)
    try:
        return str(Pubkey.from_string(answer))
    except (ValueError, TypeError):
        raise LedgerError(f"the RPC at {rpc_url} gave no genesis hash") from None


async def read_clock(rpc_url: str, timeout: float = TIMEOUT) -> int:  # noqa: ASYNC109
    """The chain's unix time in seconds at `confirmed`; it can lag behind real time by tens of seconds."""
    found = await _account(rpc_url, CLOCK_SYSVAR, timeout)
    if found is None or len(found[1]) != 40:
        raise LedgerError(f"the RPC at {rpc_url} gave no clock")
    return int.from_bytes(found[1][32:40], "little", signed=True)


async def _account(rpc_url: str, address: Pubkey, seconds: float) -> tuple[str, bytes] | None:
    options = {"encoding": "base64", "commitment": "confirmed"}
    answer = await _call(rpc_url, "getAccountInfo", [str(address), options], seconds)
    try:
        value = answer["value"]
        if value is None:
            return None
        return str(value["owner"]), base64.b64decode(value["data"][0], validate=True)
    except (KeyError, TypeError, IndexError, binascii.Error):
        raise LedgerError(f"the RPC at {rpc_url} gave a malformed account") from None


async def _call(rpc_url: str, method: str, params: list[Any], seconds: float) -> Any:
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    body = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),  # the whole answer, not each piece of it
            httpx.AsyncClient(timeout=seconds) as client,
            client.stream("POST", rpc_url, json=question) as answer,
        ):
            answer.raise_for_status()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise LedgerError(f"the RPC at {rpc_url} answered with more than {_MOST_BYTES} bytes")
    except (httpx.HTTPError, TimeoutError) as error:
        raise Unavailable(
            f"the chain's RPC at {rpc_url} does not answer ({type(error).__name__}). "
            "Fix: start it, or name another RPC address"
        ) from None
    try:
        return json.loads(bytes(body))["result"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LedgerError(f"the RPC at {rpc_url} refused {method}") from None
