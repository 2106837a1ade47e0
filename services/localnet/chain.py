"""The chain itself: LiteSVM executing, SQLite remembering, the clock running.

Real: the SBF virtual machine, System, Token, Associated Token, Memo and Compute Budget programs, compute limits,
signature checks, fees per signature, rent in today's form (6,960 lamports a byte, threshold 1), the block hash window,
the refusal of a transaction that was processed before, the mint of wrapped SOL, and a program that lies behind the
upgradeable loader with its ProgramData account.

Not covered: priority fees (accepted, not charged), address lookup tables, durable nonces, the SlotHashes sysvar, vote
and stake, upgrading the program (start again with another file).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from solders.account import Account
from solders.clock import Clock
from solders.compute_budget import set_compute_unit_limit
from solders.epoch_schedule import EpochSchedule
from solders.hash import Hash
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.rent import Rent
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, SimulatedTransactionInfo

from cloudlinkup.errors import BadInput, Unavailable
from services.localnet.clock import FIRST_SLOT, SLOTS_PER_EPOCH, ChainClock
from services.localnet.encode import compact, return_data
from services.localnet.store import Store

log = structlog.get_logger(__name__)

LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
CLOCK_SYSVAR = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")
SYSTEM = Pubkey.from_string("11111111111111111111111111111111")
TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
NATIVE_MINT = Pubkey.from_string("So11111111111111111111111111111111111111112")  # of wrapped SOL, as on every cluster
NATIVE_MINT_BYTES = bytes(36) + bytes(8) + bytes([9, 1]) + bytes(36)  # no authority, no supply, 9 decimals, initialised
FEE_PER_SIGNATURE = 5_000
FAUCET_LAMPORTS = 500_000_000 * 10**9
MAX_AIRDROP = 1_000_000 * 10**9
MAX_WARP_SECONDS = 10 * 31_622_400
MAX_PROGRAM_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """What running a transaction gave. `err` is Solana's JSON form, None for success."""

    err: Any
    logs: list[str]
    units: int
    inner: list[dict[str, Any]]
    return_data: dict[str, Any] | None
    post_accounts: dict[Pubkey, Account]


class Refused(Exception):
    """A transaction that cannot run at all. `err` is Solana's name for why."""

    def __init__(self, err: str) -> None:
        self.err = err
        super().__init__(err)


class Chain:
    """One local chain. All methods run on one thread: the virtual machine belongs to it.

    Raises Unavailable when the database or the program file cannot be used, BadInput for a program file that is not a
    loadable SBF program.
    """

    def __init__(
        self,
        db: Path,
        *,
        program: Path | None = None,
        program_id: Pubkey | None = None,
        upgrade_authority: Pubkey | None = None,
        slot_ms: int = 100,
        finalized_after: int = 8,
    ) -> None:
        self.store = Store(db)
        self._setup = (slot_ms, finalized_after), (program, program_id, upgrade_authority)
        try:
            self._open(slot_ms, finalized_after)
            self._start(program, program_id, upgrade_authority)
        except BaseException:
            self.store.close()
            raise

    def _start(self, program: Path | None, program_id: Pubkey | None, upgrade_authority: Pubkey | None) -> None:
        self._svm = LiteSVM().with_blockhash_check(False).with_transaction_history(0)
        self._svm.set_rent(Rent(6_960, 1.0, 50))
        self._svm.set_epoch_schedule(EpochSchedule.without_warmup())
        self._fixed: set[Pubkey] = set()
        self._faucet = Keypair.from_seed(hashlib.sha256(b"localnet faucet" + self.clock.secret).digest())
        self._airdrops = 0
        self._undo: deque[tuple[int, dict[Pubkey, Account | None]]] = deque()  # of slots that are not finalized
        self._svm.set_account(self._faucet.pubkey(), Account(FAUCET_LAMPORTS, b"", SYSTEM, False, 0))
        rent = self._svm.minimum_balance_for_rent_exemption(len(NATIVE_MINT_BYTES))
        self._svm.set_account(NATIVE_MINT, Account(rent, NATIVE_MINT_BYTES, TOKEN, False, 0))
        if program is not None:
            self._install(program, program_id, upgrade_authority)
        for address, account in self.store.accounts():
            if address not in self._fixed:
                self._svm.set_account(address, account)

    def _open(self, slot_ms: int, finalized_after: int) -> None:
        store = self.store
        if store.get("secret") is None:
            secret = secrets.token_bytes(32)
            clock = ChainClock(0, slot_ms, 0, 0, secret)
            genesis = clock.now_ms() - FIRST_SLOT * slot_ms
            store.put(
                secret=secret,
                genesis=secrets.token_bytes(32),
                slot_ms=slot_ms,
                genesis_ms=genesis,
                now_ms=clock.now_ms(),
                warped_ms=0,
            )
        if store.get("slot_ms") != slot_ms:
            made = store.get("slot_ms")
            raise BadInput("slot-ms", slot_ms, f"this chain was made with {made}", f"use {made}, or another database")
        self.genesis_hash = Hash.from_bytes(store.get("genesis"))
        self.clock = ChainClock(
            genesis_ms=store.get("genesis_ms"),
            slot_ms=slot_ms,
            floor_ms=store.get("now_ms"),
            warped_ms=store.get("warped_ms"),
            secret=store.get("secret"),
            finalized_after=finalized_after,
        )

    def _install(self, file: Path, program_id: Pubkey | None, authority: Pubkey | None) -> None:
        """Puts the program and its ProgramData account where the upgradeable loader would."""
        if program_id is None:
            raise BadInput("program-id", None, "missing", "say where the program lives")
        try:
            if file.stat().st_size > MAX_PROGRAM_BYTES:
                raise BadInput("program", str(file), "larger than a program can be", "build it in release mode")
            elf = file.read_bytes()
        except OSError as error:
            raise Unavailable(f"program file {file}: {error.strerror}. Fix: build the program first") from None
        data_at, _ = Pubkey.find_program_address([bytes(program_id)], LOADER)
        head = struct.pack("<IQB", 3, 0, authority is not None) + bytes(authority or Pubkey.default())
        rent = self._svm.minimum_balance_for_rent_exemption
        try:
            self._svm.set_account(data_at, Account(rent(45 + len(elf)), head + elf, LOADER, False, 0))
            pointer = struct.pack("<I", 2) + bytes(data_at)
            self._svm.set_account(program_id, Account(rent(36), pointer, LOADER, True, 0))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a malformed ELF can surface as a pyo3 panic, which is no Exception
            raise BadInput(
                "program", str(file), f"not a loadable SBF program ({error})", "build programs/escrow for SBPF v0"
            ) from None
        self._fixed |= {data_at, program_id}

    def close(self) -> None:
        self.remember_time()
        self.store.close()

    def snapshot(self, path: Path) -> None:
        """A consistent copy of the database, whole or not at all."""
        self.remember_time()
        self.store.copy_to(path)

    def restore(self, path: Path) -> None:
        """Takes the state of a snapshot of this chain; what came after it is gone.

        Raises Unavailable, and changes nothing, when there is no such file or it is of another chain.
        """
        self.store.copy_from(path)
        clock, programs = self._setup
        self._open(*clock)
        self._start(*programs)

    # ------------------------------------------------------------ time

    def remember_time(self) -> None:
        """Writes the clock down, so that it cannot go back even if the machine's clock does."""
        self.store.put(now_ms=self.clock.now_ms(), warped_ms=self.clock.warped_ms)

    def warp(self, seconds: int) -> None:
        self.clock.warp(seconds * 1_000)
        self.remember_time()

    def _clock_at(self, slot: int) -> Clock:
        epoch = slot // SLOTS_PER_EPOCH
        started = self.clock.time_of(epoch * SLOTS_PER_EPOCH)
        return Clock(slot, max(started, self.clock.time_of(0)), epoch, epoch + 1, self.clock.time_of(slot))

    def _tick(self) -> int:
        """Sets the VM's clock to now; returns the slot."""
        slot = self.clock.slot()
        self._svm.set_clock(self._clock_at(slot))
        return slot

    # ------------------------------------------------------------ reading

    def account(self, address: Pubkey, slot: int | None = None) -> Account | None:
        """An account as of the end of `slot` (not older than the finalized one), or as of now."""
        slot = self.clock.slot() if slot is None else slot
        if address == CLOCK_SYSVAR:
            self._svm.set_clock(self._clock_at(slot))
        later = self._changed_after(slot)
        found = later[address] if address in later else self._svm.get_account(address)
        return None if found is None or found.lamports == 0 else found

    def owned_by(
        self, owner: Pubkey, slot: int, sizes: list[int], matches: list[tuple[int, bytes]]
    ) -> list[tuple[Pubkey, Account]]:
        """A program's accounts of these lengths, with these bytes at these offsets, as of the end of `slot`."""
        found = dict(self.store.owned_by(bytes(owner), sizes, matches))
        for address, account in self._changed_after(slot).items():
            found.pop(address, None)
            if account is not None and account.lamports and account.owner == owner:
                fits = all(len(account.data) == size for size in sizes)
                if fits and all(account.data[at : at + len(part)] == part for at, part in matches):
                    found[address] = account
        return list(found.items())

    def _changed_after(self, slot: int) -> dict[Pubkey, Account | None]:
        """What every account that changed after `slot` was at its end."""
        earlier: dict[Pubkey, Account | None] = {}
        for at, changes in self._undo:
            if at > slot:
                for address, account in changes.items():
                    earlier.setdefault(address, account)
        return earlier

    def rent(self, size: int) -> int:
        return self._svm.minimum_balance_for_rent_exemption(size)

    # ------------------------------------------------------------ running

    def check(self, transaction: VersionedTransaction, newest_slot: int | None = None) -> None:
        """Raises Refused when the block hash is unknown (or newer than `newest_slot`) or it was processed before."""
        if self.store.status(bytes(transaction.signatures[0])) is not None:
            raise Refused("AlreadyProcessed")
        slot = self.clock.slot_of_hash(bytes(transaction.message.recent_blockhash))
        if slot is None or (newest_slot is not None and slot > newest_slot):
            raise Refused("BlockhashNotFound")

    def simulate(self, transaction: VersionedTransaction, *, verify: bool = True) -> Outcome:
        """Runs it and changes nothing."""
        self._tick()
        if verify:
            return _outcome(self._svm.simulate_transaction(transaction))
        self._svm.with_sigverify(False)
        try:
            return _outcome(self._svm.simulate_transaction(transaction))
        finally:
            self._svm.with_sigverify(True)

    def execute(self, transaction: VersionedTransaction) -> Outcome:
        """Runs it and remembers what came of it before returning. A failed one pays its fee, as on a cluster.

        Raises Refused when it cannot land.
        """
        self.check(transaction)
        keys, writable = message_keys(transaction.message)
        slot = self._tick()
        before = {key: self._svm.get_account(key) for key in writable}
        result = self._svm.send_transaction(transaction)
        outcome = _outcome(result)
        after = {key: self._svm.get_account(key) for key in writable}
        payer = keys[0]
        if outcome.err is not None and _lamports(before[payer]) == _lamports(after[payer]):
            raise Refused(outcome.err if isinstance(outcome.err, str) else json.dumps(outcome.err))  # no fee taken
        others = {key: _lamports(self._svm.get_account(key)) for key in keys if key not in before}
        meta = {
            "err": outcome.err,
            "status": {"Ok": None} if outcome.err is None else {"Err": outcome.err},
            "fee": FEE_PER_SIGNATURE * len(transaction.signatures),
            "preBalances": [_lamports(before[key]) if key in before else others[key] for key in keys],
            "postBalances": [_lamports(after[key]) if key in after else others[key] for key in keys],
            "preTokenBalances": [],
            "postTokenBalances": [],
            "rewards": [],
            "loadedAddresses": {"writable": [], "readonly": []},
            "innerInstructions": outcome.inner,
            "logMessages": outcome.logs,
            "computeUnitsConsumed": outcome.units,
        }
        if outcome.return_data is not None:
            meta["returnData"] = outcome.return_data
        changed = [key for key, account in after.items() if account != before[key] and key not in self._fixed]
        try:
            self.store.land(
                signature=bytes(transaction.signatures[0]),
                slot=slot,
                err=outcome.err,
                raw=bytes(transaction),
                meta=meta,
                mentions=[bytes(key) for key in keys],
                changed=[(key, one if (one := after[key]) is not None and one.lamports else None) for key in changed],
                facts={"now_ms": self.clock.now_ms(), "warped_ms": self.clock.warped_ms},
            )
        except BaseException:
            for key, account in before.items():  # memory must not run ahead of the disk
                self._svm.set_account(key, account or Account(0, b"", SYSTEM, False, 0))
            raise
        self._undo.append((slot, {key: before[key] for key in changed}))
        while self._undo and self._undo[0][0] <= self.clock.slot("finalized"):
            self._undo.popleft()
        return outcome

    def airdrop(self, address: Pubkey, lamports: int) -> Signature:
        """Sends lamports from the chain's own faucet, as an ordinary transfer. Raises Refused."""
        self._airdrops += 1  # makes equal airdrops of one slot different transactions
        block_hash = Hash.from_bytes(self.clock.block_hash(self.clock.slot()))
        payer = self._faucet.pubkey()
        instructions = [
            set_compute_unit_limit(10_000 + self._airdrops % 1_000_000),
            transfer(TransferParams(from_pubkey=payer, to_pubkey=address, lamports=lamports)),
        ]
        message = Message.new_with_blockhash(instructions, payer, block_hash)
        transaction = VersionedTransaction(message, [self._faucet])
        outcome = self.execute(transaction)
        if outcome.err is not None:
            raise Refused(json.dumps(outcome.err))
        return transaction.signatures[0]


def message_keys(message: Message | MessageV0) -> tuple[list[Pubkey], list[Pubkey]]:
    """All static account keys of a message, and those that it may write."""
    keys, header = list(message.account_keys), message.header
    signed, total = header.num_required_signatures, len(keys)
    writable = keys[: signed - header.num_readonly_signed_accounts]
    writable += keys[signed : total - header.num_readonly_unsigned_accounts]
    return keys, writable


def _lamports(account: Account | None) -> int:
    return 0 if account is None else account.lamports


def _outcome(result: Any) -> Outcome:
    """LiteSVM's result in RPC form."""
    err, accounts = None, {}
    if isinstance(result, FailedTransactionMetadata):
        err = json.loads(result.to_json())["err"]
        meta = result.meta()
    elif isinstance(result, SimulatedTransactionInfo):
        accounts = dict(result.post_accounts())
        meta = result.meta()
    else:
        meta = result
    raw = json.loads(meta.to_json())
    inner = [
        {
            "index": index,
            "instructions": [
                compact(item["instruction"]) | {"stackHeight": item["stackHeight"]} for item in instructions
            ],
        }
        for index, instructions in enumerate(raw["inner_instructions"])
        if instructions
    ]
    return Outcome(err, list(meta.logs()), meta.compute_units_consumed(), inner, return_data(raw), accounts)
