"""Parameters of JSON-RPC calls, read, bounded and refused in Solana's error form; and what groups of calls share."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import based58
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from services.localnet.chain import Chain
from services.localnet.clock import Commitment, parse_commitment

MAX_TRANSACTION = 1_232
MAX_FILTERS = 4

INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL = -32600, -32601, -32602, -32603
PREFLIGHT, BAD_SIGNATURE, BLOCK_NOT_AVAILABLE, VERSION, MIN_SLOT = -32002, -32003, -32004, -32015, -32016


class RpcError(Exception):
    """An answer in JSON-RPC's error form."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        self.code, self.data = code, data
        super().__init__(message)

    def as_json(self) -> dict[str, Any]:
        shown = {"code": self.code, "message": str(self)}
        return shown if self.data is None else shown | {"data": self.data}


def bad(message: str) -> RpcError:
    return RpcError(INVALID_PARAMS, message)


class Params:
    """The positional parameters of one call; every reader raises RpcError (-32602) for what does not fit."""

    def __init__(self, chain: Chain, values: Any) -> None:
        if values is None:
            values = []
        if not isinstance(values, list):
            raise bad("Invalid params: expected an array")
        self.chain, self._values = chain, values

    def raw(self, index: int) -> Any:
        return self._values[index] if index < len(self._values) else None

    def options(self, index: int) -> dict[str, Any]:
        value = self.raw(index)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise bad(f"Invalid params: parameter {index} is not an object")
        return {name: one for name, one in value.items() if one is not None}

    def text(self, index: int) -> str:
        value = self.raw(index)
        if not isinstance(value, str):
            raise bad(f"Invalid params: parameter {index} is not a string")
        return value

    def integer(self, index: int) -> int:
        value = self.raw(index)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
            raise bad(f"Invalid params: parameter {index} is not a u64")
        return value

    def listed(self, index: int, most: int) -> list[Any]:
        value = self.raw(index)
        if not isinstance(value, list):
            raise bad(f"Invalid params: parameter {index} is not an array")
        if len(value) > most:
            raise bad(f"Too many inputs provided; max {most}")
        return value

    def key(self, index: int) -> Pubkey:
        return parse_key(self.text(index))

    def commitment(self, index: int, least: str = "processed") -> Commitment:
        options = self.options(index)
        try:
            chosen = parse_commitment(options.get("commitment"))
        except ValueError as error:
            raise bad(f"Invalid params: {error}") from None
        if least == "confirmed" and chosen == "processed":
            raise bad("Method does not support commitment below `confirmed`")
        newest = options.get("minContextSlot", 0)
        if not isinstance(newest, int):
            raise bad("Invalid params: minContextSlot is not a number")
        if newest > (slot := self.chain.clock.slot(chosen)):
            raise RpcError(MIN_SLOT, "Minimum context slot has not been reached", {"contextSlot": slot})
        return chosen


def parse_key(text: Any) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except (ValueError, TypeError):
        raise bad("Invalid param: Invalid") from None


def parse_signature(text: Any) -> Signature:
    try:
        return Signature.from_string(text)
    except (ValueError, TypeError):
        raise bad("Invalid param: Invalid") from None


def parse_bytes(text: str, encoding: str, most: int) -> bytes:
    if len(text) > 2 * most:
        raise bad(f"encoded data too large: {len(text)} characters")
    try:
        if encoding == "base64":
            return base64.b64decode(text, validate=True)
        if encoding == "base58":
            return based58.b58decode(text.encode())
    except (ValueError, binascii.Error):
        raise bad(f"invalid {encoding} encoding") from None
    raise bad(f"unsupported encoding: {encoding}")


def parse_transaction(text: str, encoding: str) -> VersionedTransaction:
    raw = parse_bytes(text, encoding, MAX_TRANSACTION)
    if len(raw) > MAX_TRANSACTION:
        raise bad(f"decoded solana_transaction too large: {len(raw)} bytes (max: {MAX_TRANSACTION} bytes)")
    try:
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
    except ValueError:
        raise bad("failed to deserialize solana_transaction") from None
    except Exception as error:
        raise bad(f"invalid transaction: {error}") from None
    if isinstance(transaction.message, MessageV0) and transaction.message.address_table_lookups:
        raise bad("address lookup tables are not offered here")
    return transaction


def parse_piece(options: dict[str, Any]) -> tuple[int, int] | None:
    piece = options.get("dataSlice")
    if piece is None:
        return None
    offset, length = (piece.get("offset"), piece.get("length")) if isinstance(piece, dict) else (None, None)
    if not isinstance(offset, int) or not isinstance(length, int) or offset < 0 or length < 0:
        raise bad("Invalid params: dataSlice needs offset and length")
    return offset, length


def parse_filters(filters: Any) -> tuple[list[int], list[tuple[int, bytes]]]:
    """(data sizes, (offset, bytes)) of getProgramAccounts' filters."""
    sizes: list[int] = []
    matches: list[tuple[int, bytes]] = []
    if not isinstance(filters, list) or len(filters) > MAX_FILTERS:
        raise bad(f"Too many filters provided; max {MAX_FILTERS}")
    for one in filters:
        if isinstance(one, dict) and isinstance(one.get("dataSize"), int):
            sizes.append(one["dataSize"])
        elif isinstance(one, dict) and isinstance(match := one.get("memcmp"), dict):
            offset, part, encoding = match.get("offset"), match.get("bytes"), match.get("encoding") or "base58"
            if not isinstance(offset, int) or not 0 <= offset < 2**31:
                raise bad("Invalid params: memcmp offset")
            if isinstance(part, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in part):
                matches.append((offset, bytes(part)))
            elif isinstance(part, str):
                matches.append((offset, parse_bytes(part, encoding, 128)))
            else:
                raise bad("Invalid params: memcmp bytes")
        else:
            raise bad("Invalid params: unknown filter")
    return sizes, matches


class Calls:
    """What every group of methods has: the chain, and the context of an answer."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def _context(self, commitment: Commitment = "processed") -> dict[str, Any]:
        return {"slot": self.chain.clock.slot(commitment), "apiVersion": "2.3.0"}
