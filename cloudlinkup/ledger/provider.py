"""solana-py's HTTP provider, made to refuse answers that it would hand on as something else."""

from __future__ import annotations

from typing import Any

from solana.rpc.core import RPCException
from solana.rpc.providers.async_http import AsyncHTTPProvider
from solders.rpc.requests import Body


class CheckedProvider(AsyncHTTPProvider):
    """An error whose code is none of Solana's (a service in front of the node gave it) is parsed as that bare number;
    here it is an RPCException, like every other error."""

    async def make_request(self, body: Body, parser: Any) -> Any:
        answer = await super().make_request(body, parser)
        if isinstance(answer, int):
            raise RPCException(f"error {answer}, which is none of Solana's. Fix: look at the RPC service's account")
        return answer
