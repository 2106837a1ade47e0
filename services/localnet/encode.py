"""Accounts, transactions and errors in the JSON forms of Solana's RPC."""

from __future__ import annotations

import base64
from typing import Any

import based58
from solders.account import Account
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

ENCODINGS = ("base58", "base64", "jsonParsed", "base64+zstd")


def encode_account(account: Account, encoding: str, piece: tuple[int, int] | None = None) -> dict[str, Any]:
    """`piece` is (offset, length) of the data. ``jsonParsed`` falls back to base64, as for any unknown program.

    Raises ValueError for encodings that are not offered and for base58 of more than 128 bytes.
    """
    data = account.data if piece is None else account.data[piece[0] : piece[0] + piece[1]]
    if encoding == "base58":
        if len(data) > 128:
            raise ValueError("Encoded binary (base 58) data should be less than 128 bytes, please use Base64 encoding.")
        shown: Any = [based58.b58encode(data).decode(), "base58"]
    elif encoding in ("base64", "jsonParsed"):
        shown = [base64.b64encode(data).decode(), "base64"]
    else:
        raise ValueError(f"encoding {encoding!r} is not offered here, please use base64")
    return {
        "data": shown,
        "executable": account.executable,
        "lamports": account.lamports,
        "owner": str(account.owner),
        "rentEpoch": 2**64 - 1,
        "space": len(account.data),
    }


def encode_transaction(transaction: VersionedTransaction, raw: bytes, encoding: str) -> Any:
    """The `transaction` field of getTransaction. Raises ValueError for encodings that are not offered."""
    if encoding == "base64":
        return [base64.b64encode(raw).decode(), "base64"]
    if encoding == "base58":
        return [based58.b58encode(raw).decode(), "base58"]
    if encoding != "json":
        raise ValueError(f"encoding {encoding!r} is not offered here, please use json or base64")
    return {"signatures": [str(one) for one in transaction.signatures], "message": _message(transaction.message)}


def _message(message: Message | MessageV0) -> dict[str, Any]:
    header = message.header
    shown: dict[str, Any] = {
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "accountKeys": [str(key) for key in message.account_keys],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {
                "programIdIndex": one.program_id_index,
                "accounts": list(one.accounts),
                "data": based58.b58encode(one.data).decode(),
                "stackHeight": 1,
            }
            for one in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        shown["addressTableLookups"] = []
    return shown


def compact(instruction: dict[str, Any]) -> dict[str, Any]:
    """An inner instruction as LiteSVM writes it: arrays that begin with their own encoded length."""
    return {
        "programIdIndex": instruction["programIdIndex"],
        "accounts": instruction["accounts"][1:],
        "data": based58.b58encode(bytes(instruction["data"][1:])).decode(),
    }


def return_data(raw: dict[str, Any]) -> dict[str, Any] | None:
    data = bytes(raw["return_data"]["data"])
    if not data:
        return None
    program = Pubkey.from_bytes(bytes(raw["return_data"]["program_id"]))
    return {"programId": str(program), "data": [base64.b64encode(data).decode(), "base64"]}


_WORDS = {
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "InsufficientFundsForFee": "Insufficient funds for fee",
}


def describe(err: Any) -> str:
    """A transaction error in Solana's words, as clients print it."""
    if isinstance(err, dict) and "InstructionError" in err:
        index, why = err["InstructionError"]
        if isinstance(why, dict) and "Custom" in why:
            return f"Error processing Instruction {index}: custom program error: {why['Custom']:#x}"
        return f"Error processing Instruction {index}: {why}"
    return _WORDS.get(err, str(err)) if isinstance(err, str) else str(err)
