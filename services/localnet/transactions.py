"""The methods that send, simulate, find and show transactions.

They run at the tip: this chain has one fork, and nothing that was processed is ever undone. Not covered: jsonParsed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from solders.hash import Hash
from solders.message import MessageV0, from_bytes_versioned
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from services.localnet.chain import FEE_PER_SIGNATURE, MAX_AIRDROP, Outcome, Refused
from services.localnet.clock import BLOCKHASH_WINDOW, parse_commitment
from services.localnet.encode import describe, encode_account, encode_transaction
from services.localnet.params import (
    BAD_SIGNATURE,
    INTERNAL,
    MAX_TRANSACTION,
    PREFLIGHT,
    VERSION,
    Calls,
    Params,
    RpcError,
    bad,
    parse_bytes,
    parse_key,
    parse_signature,
    parse_transaction,
)
from services.localnet.reading import MAX_KEYS
from services.localnet.store import Landed

MAX_STATUSES = 256
MAX_SIGNATURES = 1_000
RECENT_SLOTS = 300  # how far getSignatureStatuses looks without searchTransactionHistory


class TransactionCalls(Calls):
    """What cannot land is dropped without a word, as on a cluster, unless preflight was asked for."""

    def transaction_methods(self) -> dict[str, Callable[[Params], Any]]:
        return {
            "getFeeForMessage": self.fee_for_message,
            "getRecentPrioritizationFees": lambda p: [],
            "getSignaturesForAddress": self.signatures_for_address,
            "getSignatureStatuses": self.signature_statuses,
            "getTransaction": self.transaction,
            "getTransactionCount": lambda p: self.chain.store.count(),
            "requestAirdrop": self.airdrop,
            "sendTransaction": self.send,
            "simulateTransaction": self.simulate,
        }

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
