"""Solana's JSON-RPC methods over a `Chain`: parameters in, Solana's JSON out, Solana's error codes.

Every read follows the commitment asked for. The methods are grouped by what they are about: `reading` (accounts),
`transactions`, `blocks`, `controls` (this chain's own).

Not covered: websocket subscriptions, jsonParsed (accounts fall back to base64, as for unknown programs), stake, vote
and leader methods.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import structlog

from services.localnet import controls
from services.localnet.blocks import BlockCalls
from services.localnet.chain import Chain
from services.localnet.params import INTERNAL, INVALID_REQUEST, METHOD_NOT_FOUND, Params, RpcError, bad
from services.localnet.reading import AccountCalls

log = structlog.get_logger(__name__)


class Rpc(BlockCalls, AccountCalls):
    """The method table."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain)
        self.methods: dict[str, Callable[[Params], Any]] = {
            **self.account_methods(),
            **self.block_methods(),
            **self.transaction_methods(),
            "getHealth": lambda p: "ok",
            "getVersion": lambda p: {"solana-core": "2.3.0", "feature-set": 0},
            "localnet_restore": controls.restore,
            "localnet_snapshot": controls.snapshot,
            "localnet_warp": controls.warp,
        }

    def call(self, method: str, params: Any) -> Any:
        """The result of one call. Raises RpcError."""
        function = self.methods.get(method)
        if function is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        try:
            return function(Params(self.chain, params))
        except ValueError as error:  # an encoding that is not offered
            raise bad(str(error)) from None


def answer(rpc: Rpc, request: Any) -> dict[str, Any]:
    """One JSON-RPC response for one parsed request. Never raises for anything a caller can send."""
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return {"jsonrpc": "2.0", "error": {"code": INVALID_REQUEST, "message": "Invalid request"}, "id": None}
    identity = request.get("id")
    try:
        return {"jsonrpc": "2.0", "result": rpc.call(request["method"], request.get("params")), "id": identity}
    except RpcError as error:
        return {"jsonrpc": "2.0", "error": error.as_json(), "id": identity}
    except Exception:
        log.exception("call failed", method=request["method"])
        return {"jsonrpc": "2.0", "error": {"code": INTERNAL, "message": "Internal error"}, "id": identity}


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
