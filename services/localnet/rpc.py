"""Solana's JSON-RPC methods over a `Chain`: parameters in, Solana's JSON out, Solana's error codes.

Every read follows the commitment asked for, accounts too (after a restart, everything that survived counts as
finalized). Transactions run at the tip: this chain has one fork, and nothing that was processed is ever undone.

Not covered: websocket subscriptions, jsonParsed (accounts fall back to base64, as for unknown programs), stake, vote
and leader methods.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import structlog
from solders.hash import Hash
from solders.message import MessageV0, from_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from services.localnet import controls
from services.localnet.chain import FEE_PER_SIGNATURE, MAX_AIRDROP, Chain, Outcome, Refused
from services.localnet.clock import BLOCKHASH_WINDOW, SLOTS_PER_EPOCH, Commitment, parse_commitment
from services.localnet.encode import describe, encode_account, encode_transaction
from services.localnet.params import (
    BAD_SIGNATURE,
    BLOCK_NOT_AVAILABLE,
    INTERNAL,
    INVALID_REQUEST,
    MAX_TRANSACTION,
    METHOD_NOT_FOUND,
    PREFLIGHT,
    VERSION,
    Params,
    RpcError,
    bad,
    parse_bytes,
    parse_filters,
    parse_key,
    parse_piece,
    parse_signature,
    parse_transaction,
)
from services.localnet.store import Landed

log = structlog.get_logger(__name__)

MAX_KEYS = 100
MAX_STATUSES = 256
MAX_SIGNATURES = 1_000
RECENT_SLOTS = 300  # how far getSignatureStatuses looks without searchTransactionHistory
TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")


class Rpc:
    """The method table."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.methods: dict[str, Callable[[Params], Any]] = {
            "getAccountInfo": self.account_info,
            "getBalance": self.balance,
            "getBlock": self.block,
            "getBlockHeight": lambda p: self.chain.clock.slot(p.commitment(0)),
            "getBlockTime": self.block_time,
            "getEpochInfo": self.epoch_info,
            "getFeeForMessage": self.fee_for_message,
            "getFirstAvailableBlock": lambda p: 0,
            "getGenesisHash": lambda p: str(self.chain.genesis_hash),
            "getHealth": lambda p: "ok",
            "getLatestBlockhash": self.latest_blockhash,
            "getMinimumBalanceForRentExemption": lambda p: self.chain.rent(p.integer(0)),
            "getMultipleAccounts": self.multiple_accounts,
            "getProgramAccounts": self.program_accounts,
            "getRecentPrioritizationFees": lambda p: [],
            "getSignaturesForAddress": self.signatures_for_address,
            "getSignatureStatuses": self.signature_statuses,
            "getSlot": lambda p: self.chain.clock.slot(p.commitment(0)),
            "getTokenAccountBalance": self.token_account_balance,
            "getTokenAccountsByOwner": self.token_accounts_by_owner,
            "getTokenSupply": self.token_supply,
            "getTransaction": self.transaction,
            "getTransactionCount": lambda p: self.chain.store.count(),
            "getVersion": lambda p: {"solana-core": "2.3.0", "feature-set": 0},
            "isBlockhashValid": self.blockhash_valid,
            "localnet_restore": controls.restore,
            "localnet_snapshot": controls.snapshot,
            "localnet_warp": controls.warp,
            "requestAirdrop": self.airdrop,
            "sendTransaction": self.send,
            "simulateTransaction": self.simulate,
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

    def _context(self, commitment: Commitment = "processed") -> dict[str, Any]:
        return {"slot": self.chain.clock.slot(commitment), "apiVersion": "2.3.0"}

    # ------------------------------------------------------------ blocks and time

    def latest_blockhash(self, p: Params) -> Any:
        commitment = p.commitment(0)
        slot = self.chain.clock.slot(commitment)
        return {
            "context": self._context(commitment),
            "value": {
                "blockhash": str(Hash.from_bytes(self.chain.clock.block_hash(slot))),
                "lastValidBlockHeight": slot + BLOCKHASH_WINDOW,
            },
        }

    def blockhash_valid(self, p: Params) -> Any:
        commitment = p.commitment(1)
        try:
            slot = self.chain.clock.slot_of_hash(bytes(Hash.from_string(p.text(0))))
        except ValueError:
            raise bad("Invalid param: Invalid") from None
        valid = slot is not None and slot <= self.chain.clock.slot(commitment)
        return {"context": self._context(commitment), "value": valid}

    def _block_slot(self, p: Params, newest: int) -> int:
        slot = p.integer(0)
        if slot > newest:
            raise RpcError(BLOCK_NOT_AVAILABLE, f"Block not available for slot {slot}")
        return slot

    def block(self, p: Params) -> Any:
        clock = self.chain.clock
        slot = self._block_slot(p, clock.slot(p.commitment(1, least="confirmed")))
        options = p.options(1)
        shown = {
            "blockhash": str(Hash.from_bytes(clock.block_hash(slot))),
            "previousBlockhash": str(Hash.from_bytes(clock.block_hash(slot - 1) if slot else bytes(32))),
            "parentSlot": max(0, slot - 1),
            "blockHeight": slot,
            "blockTime": clock.time_of(slot),
        }
        details = options.get("transactionDetails", "full")
        if details == "signatures":
            shown["signatures"] = [str(Signature.from_bytes(one.signature)) for one in self.chain.store.in_slot(slot)]
        elif details == "full":
            shown["transactions"] = [self._shown(one, options) for one in self.chain.store.in_slot(slot)]
        elif details != "none":
            raise bad(f"transactionDetails {details!r} is not offered here")
        if options.get("rewards", True):
            shown["rewards"] = []
        return shown

    def block_time(self, p: Params) -> int:
        return self.chain.clock.time_of(self._block_slot(p, self.chain.clock.slot()))

    def epoch_info(self, p: Params) -> Any:
        slot = self.chain.clock.slot(p.commitment(0))
        return {
            "absoluteSlot": slot,
            "blockHeight": slot,
            "epoch": slot // SLOTS_PER_EPOCH,
            "slotIndex": slot % SLOTS_PER_EPOCH,
            "slotsInEpoch": SLOTS_PER_EPOCH,
            "transactionCount": self.chain.store.count(),
        }

    # ------------------------------------------------------------ accounts

    def _shown_account(self, key: Pubkey, options: dict[str, Any], slot: int) -> Any:
        account = self.chain.account(key, slot)
        if account is None:
            return None
        return encode_account(account, options.get("encoding", "base58"), parse_piece(options))

    def account_info(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        return {"context": context, "value": self._shown_account(p.key(0), p.options(1), context["slot"])}

    def multiple_accounts(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        options = {"encoding": "base64"} | p.options(1)
        keys = [parse_key(one) for one in p.listed(0, MAX_KEYS)]
        return {"context": context, "value": [self._shown_account(key, options, context["slot"]) for key in keys]}

    def balance(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        account = self.chain.account(p.key(0), context["slot"])
        return {"context": context, "value": 0 if account is None else account.lamports}

    def _listed(self, program: Pubkey, slot: int, options: dict[str, Any], *filters: Any) -> list[dict[str, Any]]:
        encoding, piece = options.get("encoding", "base58"), parse_piece(options)
        return [
            {"pubkey": str(key), "account": encode_account(account, encoding, piece)}
            for key, account in self.chain.owned_by(program, slot, *filters)
        ]

    def program_accounts(self, p: Params) -> Any:
        context, options = self._context(p.commitment(1)), p.options(1)
        filters = parse_filters(options.get("filters", []))
        shown = self._listed(p.key(0), context["slot"], options, *filters)
        return {"context": context, "value": shown} if options.get("withContext") else shown

    def token_accounts_by_owner(self, p: Params) -> Any:
        context = self._context(p.commitment(2))
        owner, chosen = p.key(0), p.options(1)
        matches = [(32, bytes(owner))]
        program = TOKEN
        if "mint" in chosen:
            matches.append((0, bytes(parse_key(chosen["mint"]))))
        elif "programId" in chosen:
            program = parse_key(chosen["programId"])
            if program not in (TOKEN, TOKEN_2022):
                raise bad("Invalid param: unrecognized Token program id")
        else:
            raise bad("Invalid params: expected mint or programId")
        return {"context": context, "value": self._listed(program, context["slot"], p.options(2), [165], matches)}

    def token_account_balance(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        account = self.chain.account(p.key(0), context["slot"])
        if account is None:
            raise bad("Invalid param: could not find account")
        if account.owner != TOKEN or len(account.data) != 165:
            raise bad("Invalid param: not a Token account")
        mint = self.chain.account(Pubkey.from_bytes(account.data[:32]), context["slot"])
        amount = int.from_bytes(account.data[64:72], "little")
        return {"context": context, "value": _token_amount(amount, mint.data[44] if mint else 0)}

    def token_supply(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        mint = self.chain.account(p.key(0), context["slot"])
        if mint is None or mint.owner != TOKEN or len(mint.data) != 82:
            raise bad("Invalid param: not a Token mint")
        amount = int.from_bytes(mint.data[36:44], "little")
        return {"context": context, "value": _token_amount(amount, mint.data[44])}

    # ------------------------------------------------------------ transactions

    def send(self, p: Params) -> str:
        options = p.options(1)
        transaction = parse_transaction(p.text(0), options.get("encoding", "base58"))
        if not all(transaction.verify_with_results()):
            raise RpcError(BAD_SIGNATURE, "Transaction signature verification failure")
        if not options.get("skipPreflight", False):
            try:
                commitment = parse_commitment(options.get("preflightCommitment"))
                self.chain.check(transaction, self.chain.clock.slot(commitment))
                outcome = self.chain.simulate(transaction)
            except Refused as refusal:
                outcome = Outcome(refusal.err, [], 0, [], None, {})
            if outcome.err is not None:
                raise RpcError(
                    PREFLIGHT,
                    f"Transaction simulation failed: {describe(outcome.err)}",
                    _simulated(outcome),
                )
        with contextlib.suppress(Refused):  # as on a cluster: what cannot land is dropped without a word
            self.chain.execute(transaction)
        return str(transaction.signatures[0])

    def simulate(self, p: Params) -> Any:
        options = p.options(1)
        transaction = parse_transaction(p.text(0), options.get("encoding", "base58"))
        verify, replace = options.get("sigVerify", False), options.get("replaceRecentBlockhash", False)
        if verify and replace:
            raise bad("sigVerify may not be used with replaceRecentBlockhash")
        if verify and not all(transaction.verify_with_results()):
            raise RpcError(BAD_SIGNATURE, "Transaction signature verification failure")
        commitment = p.commitment(1)
        slot = self.chain.clock.slot(commitment)
        try:
            if not replace:
                self.chain.check(transaction, slot)
            outcome = self.chain.simulate(transaction, verify=verify)
        except Refused as refusal:
            outcome = Outcome(refusal.err, [], 0, [], None, {})
        value = _simulated(outcome)
        if wanted := options.get("accounts"):
            encoding = wanted.get("encoding", "base64")
            keys = [parse_key(one) for one in wanted.get("addresses", [])[:MAX_KEYS]]
            after = [outcome.post_accounts.get(key) or self.chain.account(key) for key in keys]
            value["accounts"] = [None if one is None else encode_account(one, encoding) for one in after]
        if replace:
            value["replacementBlockhash"] = {
                "blockhash": str(Hash.from_bytes(self.chain.clock.block_hash(slot))),
                "lastValidBlockHeight": slot + BLOCKHASH_WINDOW,
            }
        if not options.get("innerInstructions", False):
            value["innerInstructions"] = None
        return {"context": self._context(), "value": value}

    def signature_statuses(self, p: Params) -> Any:
        everything = p.options(1).get("searchTransactionHistory", False)
        values = []
        for text in p.listed(0, MAX_STATUSES):
            found = self.chain.store.status(bytes(parse_signature(text)))
            tip = self.chain.clock.slot()
            if found is None or (not everything and found[0] < tip - RECENT_SLOTS):
                values.append(None)
                continue
            slot, err = found
            depth = self.chain.clock.commitment_of(slot)
            values.append(
                {
                    "slot": slot,
                    "confirmations": None if depth == "finalized" else tip - slot,
                    "err": err,
                    "status": {"Ok": None} if err is None else {"Err": err},
                    "confirmationStatus": depth,
                }
            )
        return {"context": self._context(), "value": values}

    def signatures_for_address(self, p: Params) -> Any:
        options = p.options(1)
        commitment = p.commitment(1, least="confirmed")
        most = options.get("limit", MAX_SIGNATURES)
        if not isinstance(most, int) or not 1 <= most <= MAX_SIGNATURES:
            raise bad(f"Invalid limit; max {MAX_SIGNATURES}")
        before, until = options.get("before"), options.get("until")
        found = self.chain.store.mentioning(
            bytes(p.key(0)),
            most=most,
            newest_slot=self.chain.clock.slot(commitment),
            before=bytes(parse_signature(before)) if before else None,
            until=bytes(parse_signature(until)) if until else None,
        )
        return [
            {
                "signature": str(Signature.from_bytes(one.signature)),
                "slot": one.slot,
                "err": one.err,
                "memo": None,
                "blockTime": self.chain.clock.time_of(one.slot),
                "confirmationStatus": self.chain.clock.commitment_of(one.slot),
            }
            for one in found
        ]

    def transaction(self, p: Params) -> Any:
        options = {"encoding": p.raw(1)} if isinstance(p.raw(1), str) else p.options(1)
        commitment = "finalized" if isinstance(p.raw(1), str) else p.commitment(1, least="confirmed")
        found = self.chain.store.transaction(bytes(parse_signature(p.text(0))))
        if found is None or found.slot > self.chain.clock.slot(commitment):
            return None
        times = {"slot": found.slot, "blockTime": self.chain.clock.time_of(found.slot)}
        return self._shown(found, options) | times

    def _shown(self, landed: Landed, options: dict[str, Any]) -> dict[str, Any]:
        transaction = VersionedTransaction.from_bytes(landed.raw)
        shown = {
            "transaction": encode_transaction(transaction, landed.raw, options.get("encoding", "json")),
            "meta": landed.meta,
        }
        newest = options.get("maxSupportedTransactionVersion")
        if isinstance(transaction.message, MessageV0) and newest is None:
            raise RpcError(
                VERSION,
                "Transaction version (0) is not supported by the requesting client. Please try the request again with "
                'the following configuration parameter: "maxSupportedTransactionVersion": 0',
            )
        if newest is not None:
            shown["version"] = 0 if isinstance(transaction.message, MessageV0) else "legacy"
        return shown

    def fee_for_message(self, p: Params) -> Any:
        commitment = p.commitment(1)
        try:
            message = from_bytes_versioned(parse_bytes(p.text(0), "base64", MAX_TRANSACTION))
        except ValueError:
            raise bad("failed to deserialize solana_message") from None
        known = self.chain.clock.slot_of_hash(bytes(message.recent_blockhash)) is not None
        fee = FEE_PER_SIGNATURE * message.header.num_required_signatures
        return {"context": self._context(commitment), "value": fee if known else None}

    def airdrop(self, p: Params) -> str:
        lamports = p.integer(1)
        if not 1 <= lamports <= MAX_AIRDROP:
            raise bad(f"Invalid params: an airdrop gives 1 to {MAX_AIRDROP} lamports")
        try:
            return str(self.chain.airdrop(p.key(0), lamports))
        except Refused as refusal:
            raise RpcError(INTERNAL, f"airdrop failed: {refusal.err}") from None


def _simulated(outcome: Outcome) -> dict[str, Any]:
    return {
        "accounts": None,
        "err": outcome.err,
        "logs": outcome.logs,
        "unitsConsumed": outcome.units,
        "returnData": outcome.return_data,
        "innerInstructions": outcome.inner,
        "replacementBlockhash": None,
    }


def _token_amount(amount: int, decimals: int) -> dict[str, Any]:
    whole, part = divmod(amount, 10**decimals)
    tail = str(part).rjust(decimals, "0").rstrip("0") if decimals else ""
    return {
        "amount": str(amount),
        "decimals": decimals,
        "uiAmount": amount / 10**decimals,
        "uiAmountString": f"{whole}.{tail}" if tail else str(whole),
    }


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
