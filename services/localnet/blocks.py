"""The methods about blocks, time and block hashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from solders.hash import Hash
from solders.signature import Signature

from services.localnet.clock import BLOCKHASH_WINDOW, SLOTS_PER_EPOCH
from services.localnet.params import BLOCK_NOT_AVAILABLE, Params, RpcError, bad
from services.localnet.transactions import TransactionCalls


class BlockCalls(TransactionCalls):
    """Blocks show their transactions."""

    def block_methods(self) -> dict[str, Callable[[Params], Any]]:
        return {
            "getBlock": self.block,
            "getBlockHeight": lambda p: self.chain.clock.slot(p.commitment(0)),
            "getBlockTime": self.block_time,
            "getEpochInfo": self.epoch_info,
            "getFirstAvailableBlock": lambda p: 0,
            "getGenesisHash": lambda p: str(self.chain.genesis_hash),
            "getLatestBlockhash": self.latest_blockhash,
            "getSlot": lambda p: self.chain.clock.slot(p.commitment(0)),
            "isBlockhashValid": self.blockhash_valid,
        }

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
