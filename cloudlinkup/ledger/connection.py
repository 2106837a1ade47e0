"""One RPC connection: reads, and transactions sent until they are confirmed.

A transaction is signed once per block hash, sent, polled by its signature and sent again until it is confirmed or its
block hash has expired; then the caller gets NotConfirmed and knows that it can never land any more. Sending the same
bytes again cannot run them twice. Every request has a timeout.

Not covered: several RPC endpoints, priority-fee estimation, websocket subscriptions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Literal, TypeVar

import based58
import structlog
from httpx import URL, HTTPStatusError, InvalidURL
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Commitment as RpcCommitment
from solana.rpc.commitment import Confirmed
from solana.rpc.core import RPCException
from solana.rpc.types import MemcmpOpts, TxOpts
from solders.account import Account
from solders.commitment_config import CommitmentLevel
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.errors import SerdeJSONError
from solders.instruction import Instruction
from solders.pubkey import Pubkey
from solders.rpc.config import RpcBlockConfig
from solders.rpc.errors import (
    BlockNotAvailableMessage,
    BlockStatusNotAvailableYetMessage,
    LongTermStorageSlotSkippedMessage,
    SendTransactionPreflightFailureMessage,
    SlotSkippedMessage,
)
from solders.rpc.requests import GetBlock
from solders.rpc.responses import GetBlockResp
from solders.signature import Signature
from solders.transaction_status import TransactionDetails, TransactionErrorInstructionError

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput, LedgerError, NotConfirmed, Unavailable
from cloudlinkup.ledger.accounts import CLOCK_SYSVAR
from cloudlinkup.ledger.errors import explain
from cloudlinkup.ledger.signing import sign

log = structlog.get_logger(__name__)

Commitment = Literal["processed", "confirmed", "finalized"]
Answer = TypeVar("Answer")

MAX_TRANSACTION = 1_232
RESEND_SECONDS = 2.0
SLOWEST_POLL = 0.5  # looks become rarer: a local chain answers in tenths of a second, a cluster in one or two
HASH_ATTEMPTS = 4  # behind one RPC address there can be nodes that are a little behind
PATIENCE_SECONDS = 120.0  # when the RPC stops answering, the block hash has expired long before
_LEVELS = {"processed": 0, "confirmed": 1, "finalized": 2}


class Connection:
    """Reads and sends over one RPC URL. `poll` is the seconds between two looks at a signature; `unit_price` the
    priority fee in micro-lamports a compute unit."""

    def __init__(self, client: AsyncClient, escrow: Pubkey, *, poll: float, unit_price: int) -> None:
        self.client, self.escrow, self.poll, self.unit_price = client, escrow, poll, unit_price

    async def ask(self, call: Awaitable[Answer]) -> Answer:
        """An answer, or Unavailable when nobody answers in time, or LedgerError with the RPC's own words."""
        try:
            return await call
        except SolanaRpcException as error:
            raise _unreachable(error) from None
        except SerdeJSONError:
            raise LedgerError(
                "the chain's RPC gave an answer that is none of Solana's. Fix: set the RPC URL of a Solana node"
            ) from None
        except RPCException as error:
            raise LedgerError(f"the chain's RPC refused: {_words(error)}") from None

    # ------------------------------------------------------------ reading

    async def account(self, address: Pubkey, commitment: Commitment = "confirmed") -> Account | None:
        return (await self.ask(self.client.get_account_info(address, RpcCommitment(commitment)))).value

    async def accounts(self, addresses: Sequence[Pubkey]) -> list[Account | None]:
        """Many accounts, 100 a request."""
        found: list[Account | None] = []
        for first in range(0, len(addresses), 100):
            part = list(addresses[first : first + 100])
            found += (await self.ask(self.client.get_multiple_accounts(part, Confirmed))).value
        return found

    async def owned(self, program: Pubkey, matches: Sequence[tuple[int, bytes]]) -> list[tuple[Pubkey, Account]]:
        """All accounts of a program that have those bytes at those offsets."""
        filters: list[Any] = [
            MemcmpOpts(offset=offset, bytes=based58.b58encode(part).decode()) for offset, part in matches
        ]
        ask = self.client.get_program_accounts(program, Confirmed, encoding="base64", filters=filters)
        return [(one.pubkey, one.account) for one in (await self.ask(ask)).value]

    async def genesis(self) -> str:
        return str((await self.ask(self.client.get_genesis_hash())).value)

    async def now(self) -> int:
        clock = await self.account(CLOCK_SYSVAR)
        if clock is None or len(clock.data) != 40:
            raise LedgerError("the chain's RPC gave no clock")
        return int.from_bytes(clock.data[32:40], "little", signed=True)

    async def slot(self, commitment: Commitment = "confirmed") -> int:
        return (await self.ask(self.client.get_slot(RpcCommitment(commitment)))).value

    async def block_hash_at_or_after(
        self, slot: int, commitment: Literal["confirmed", "finalized"], seconds: float
    ) -> tuple[int, bytes]:
        level = CommitmentLevel.Confirmed if commitment == "confirmed" else CommitmentLevel.Finalized
        until = time.monotonic() + seconds
        while True:
            config = RpcBlockConfig(
                transaction_details=TransactionDetails.None_,
                rewards=False,
                commitment=level,
                max_supported_transaction_version=0,
            )
            try:
                # solana-py's own get_block asks for every transaction of the block
                ask = self.client._provider.make_request(GetBlock(slot, config), GetBlockResp)
                block = (await ask).value
                if block is not None:
                    return slot, bytes(block.blockhash)
            except RPCException as error:
                why = error.args[0]
                if isinstance(why, (SlotSkippedMessage, LongTermStorageSlotSkippedMessage)):
                    slot += 1
                    continue
                if not isinstance(why, (BlockNotAvailableMessage, BlockStatusNotAvailableYetMessage)):
                    raise LedgerError(f"the chain's RPC refused: {_words(error)}") from None
            except (SolanaRpcException, SerdeJSONError):
                pass  # asked again below, until the time is up
            if time.monotonic() >= until:
                raise Unavailable(f"no {commitment} block at or after slot {slot} within {seconds:g} s")
            await asyncio.sleep(self.poll)

    async def logs(self, signature: str) -> list[str]:
        """A confirmed transaction's logs. Raises LedgerError when the chain does not have it."""
        ask = self.client.get_transaction(
            Signature.from_string(signature), commitment=Confirmed, max_supported_transaction_version=0
        )
        found = (await self.ask(ask)).value
        if found is None or found.transaction.meta is None:
            raise LedgerError(f"the chain has no confirmed transaction {signature}")
        return list(found.transaction.meta.log_messages or [])

    # ------------------------------------------------------------ sending

    async def send(
        self,
        instructions: Sequence[Instruction],
        payer: Signer,
        signers: Sequence[Signer] = (),
        *,
        units: int,
        commitment: Literal["confirmed", "finalized"] = "confirmed",
    ) -> str:
        """Sends one transaction and waits; returns its signature.

        Raises ProgramError or LedgerError when it fails, NotConfirmed when its block hash expired first, Unavailable
        when the RPC cannot be reached before anything was sent.
        """
        budget = [set_compute_unit_limit(units), set_compute_unit_price(self.unit_price)]
        everything = [*budget, *instructions]
        programs = [one.program_id for one in everything]
        attempt = 1
        while True:
            latest = (await self.ask(self.client.get_latest_blockhash(Confirmed))).value
            # in a thread: an external signer may wait for a person
            transaction = await asyncio.to_thread(sign, everything, payer, signers, latest.blockhash)
            raw = bytes(transaction)
            if len(raw) > MAX_TRANSACTION:
                raise LedgerError(f"a transaction has at most {MAX_TRANSACTION} bytes, not {len(raw)}")
            if await self._first_send(raw, programs, last=attempt == HASH_ATTEMPTS):
                break
            attempt += 1
            await asyncio.sleep(self.poll)
        signature = transaction.signatures[0]
        await self._confirm(signature, raw, programs, latest.last_valid_block_height, commitment)
        return str(signature)

    async def _first_send(self, raw: bytes, programs: list[Pubkey], *, last: bool) -> bool:
        """Sends with preflight. False: this node does not know the block hash yet, and nothing was sent."""
        try:
            await self.client.send_raw_transaction(raw, TxOpts(preflight_commitment=Confirmed))
        except (SolanaRpcException, SerdeJSONError) as error:
            cause = type(error.__cause__ or error).__name__
            if cause in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol"):
                raise _unreachable(error) from None
            log.warning("no answer to a transaction, looking for it", error=cause)
        except RPCException as error:
            why = error.args[0]
            if not isinstance(why, SendTransactionPreflightFailureMessage):
                raise LedgerError(f"the chain's RPC refused: {_words(error)}") from None
            err = _json(why.data.err)
            if err == "BlockhashNotFound" and not last:
                return False
            if err != "AlreadyProcessed":  # the same bytes, sent by somebody else with the same keys
                raise explain(err, programs, self.escrow, why.data.logs) from None
        return True

    async def _confirm(
        self, signature: Signature, raw: bytes, programs: list[Pubkey], last_height: int, commitment: Commitment
    ) -> None:
        start = sent = time.monotonic()
        pause = self.poll
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 1.15, max(SLOWEST_POLL, self.poll))
            try:
                status = (await self.client.get_signature_statuses([signature])).value[0]
                if status is not None and status.err is not None:
                    raise explain(_json(status.err), programs, self.escrow, None)
                if status is not None and int(status.confirmation_status or 0) >= _LEVELS[commitment]:
                    return
                if status is None and time.monotonic() - sent >= RESEND_SECONDS:
                    sent = time.monotonic()
                    if await self._expired(signature, last_height):
                        raise NotConfirmed(f"{signature} was not confirmed before its block hash expired")
                    await self.client.send_raw_transaction(raw, TxOpts(skip_preflight=True))
            except (SolanaRpcException, SerdeJSONError, RPCException) as error:
                log.warning("the RPC failed while a transaction was waited for", error=type(error).__name__)
            if time.monotonic() - start >= PATIENCE_SECONDS:
                raise NotConfirmed(f"{signature} was not seen {commitment} within {PATIENCE_SECONDS:g} s")

    async def _expired(self, signature: Signature, last_height: int) -> bool:
        """It can never land: no block within its window holds it. The order matters: height first, then the look."""
        height = (await self.client.get_block_height(Confirmed)).value
        if height <= last_height:
            return False
        return (await self.client.get_signature_statuses([signature], search_transaction_history=True)).value[0] is None

    async def wait(self, signature: str, commitment: Commitment, seconds: float) -> int:
        """The slot of a transaction once it is that deep. Raises NotConfirmed, or ProgramError if it failed."""
        until = time.monotonic() + seconds
        one = Signature.from_string(signature)
        while True:
            status = (await self.ask(self.client.get_signature_statuses([one], True))).value[0]
            if status is not None and int(status.confirmation_status or 0) >= _LEVELS[commitment]:
                if status.err is not None:
                    raise LedgerError(f"{signature} failed on chain: {_json(status.err)}")
                return status.slot
            if time.monotonic() >= until:
                raise NotConfirmed(f"{signature} was not {commitment} within {seconds:g} s")
            await asyncio.sleep(self.poll)


def check_url(rpc_url: str) -> None:
    """Raises BadInput for what cannot be an RPC URL. Shows its scheme only: the rest can hold a key."""
    scheme = rpc_url.partition("://")[0][:20] if "://" in rpc_url else "(no scheme)"
    try:
        url = URL(rpc_url)
        fits = url.scheme in ("http", "https") and url.host != ""
    except InvalidURL:
        fits = False
    if not fits:
        raise BadInput("rpc_url", scheme, "not an http or https URL", "give it like https://HOST or http://HOST:PORT")


def _unreachable(error: Exception) -> Unavailable:
    """Why nobody answered; never with the URL, which can hold a key."""
    cause = error.__cause__ or error
    code = f"HTTP {cause.response.status_code}" if isinstance(cause, HTTPStatusError) else type(cause).__name__
    return Unavailable(f"the chain's RPC does not answer ({code}). Fix: start it, or set another RPC URL")


def _json(err: Any) -> Any:
    """A solders transaction error in Solana's JSON form."""
    if isinstance(err, TransactionErrorInstructionError):
        index, why = json.loads(err.to_json())
        return {"InstructionError": [index, {"Custom": why} if isinstance(why, int) else why]}
    return str(err).rpartition(".")[2] if "." in str(err) else str(err)


def _words(error: RPCException) -> str:
    why = error.args[0]
    return str(getattr(why, "message", why))[:300]
