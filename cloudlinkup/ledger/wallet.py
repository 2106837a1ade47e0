"""A contributor's own calls on its seat: post the bond, appeal, take pay elsewhere. solders and httpx only.

What the wheel installs is enough for a contributor to look after its money; everything else needs a checkout
(`escrow`). Each call reads the chain first, sends only what is missing and returns the signatures that it sent and saw
confirmed. A transaction that was not seen before its block hash expired can never land: NotConfirmed.
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from typing import Any

import structlog
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, NotConfirmed, Unavailable
from cloudlinkup.ledger import layout, money, rpc, seats
from cloudlinkup.ledger.accounts import Job, decode_token_account, token_address
from cloudlinkup.ledger.budget import units
from cloudlinkup.ledger.errors import explain
from cloudlinkup.ledger.signing import sign

log = structlog.get_logger(__name__)

RESEND_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
HASH_ATTEMPTS = 4
UNIT_PRICE = 1_000  # micro-lamports a compute unit


@dataclass(frozen=True)
class WalletLedger:
    """The escrow program `program_id` over one RPC URL, as a contributor uses it. `poll`: seconds between two looks.

    Raises everywhere: ProgramError (the program's own refusal), LedgerError, NotConfirmed, Unavailable.
    """

    rpc_url: str
    program_id: Pubkey
    poll: float = 0.25

    # ------------------------------------------------------------ reading

    async def job(self, address: Pubkey) -> Job | None:
        return await seats.read_job(self.rpc_url, address, self.program_id)

    async def now(self) -> int:
        """The chain's unix time in seconds."""
        return await seats.read_clock(self.rpc_url)

    async def mint_decimals(self, mint: Pubkey) -> int:
        return await seats.read_decimals(self.rpc_url, mint)

    async def lamports(self, address: Pubkey) -> int:
        found = await rpc.account(self.rpc_url, address)
        return 0 if found is None else found[1]

    async def vault_balance(self, vault: Pubkey) -> int:
        """Base units in a token account, by its address; 0 when it does not exist."""
        found = await rpc.account(self.rpc_url, vault)
        return 0 if found is None else decode_token_account(found[2]).amount

    # ------------------------------------------------------------ the seat

    async def accept_seat(self, wallet: Signer, job: Pubkey, seat: int, *, payer: Signer | None = None) -> list[str]:
        """Posts the seat's bond from the wallet's associated account. Nothing if the seat is active."""
        found = await self._seat(job, seat)
        if found.seats[seat].active:
            return []
        accept = layout.accept_seat(
            self.program_id,
            wallet=wallet.public,
            source=token_address(wallet.public, found.mint)[0],
            job=job,
            job_vault=found.vault,
            seat=seat,
            bond=found.seats[seat].bond,
        )
        return [await self._send(accept, wallet, payer, units(3_500, 1))]

    async def appeal(
        self, wallet: Signer, job: Pubkey, seat: int, amount: int, *, payer: Signer | None = None
    ) -> list[str]:
        """Asks the arbiter for `amount` base units in all. Nothing if the appeal is open."""
        found = await self._seat(job, seat)
        if found.seats[seat].appeal == 1:
            return []
        ask = layout.appeal(self.program_id, wallet=wallet.public, job=job, seat=seat, amount=amount)
        return [await self._send(ask, wallet, payer, units(4_000))]

    async def pay_to(
        self, wallet: Signer, job: Pubkey, seat: int, destination: Pubkey, *, payer: Signer | None = None
    ) -> list[str]:
        """Sends what is due on the wallet's seat to any token account of the mint. Nothing if nothing is due."""
        found = await self._seat(job, seat)
        if seat not in money.payable(found, await self.now()):
            return []
        give = layout.pay_to(
            self.program_id,
            wallet=wallet.public,
            job=job,
            job_vault=found.vault,
            destination=destination,
            seat=seat,
        )
        return [await self._send(give, wallet, payer, units(6_000, 1))]

    async def _seat(self, address: Pubkey, seat: int) -> Job:
        job = await self.job(address)
        if job is None:
            raise LedgerError(f"there is no job at {address} on this chain")
        if not 0 <= seat < len(job.seats):
            raise LedgerError(f"job {address} has {len(job.seats)} seats and no seat {seat}")
        return job

    # ------------------------------------------------------------ sending

    async def _send(self, instruction: Instruction, wallet: Signer, payer: Signer | None, limit: int) -> str:
        everything = [set_compute_unit_limit(limit), set_compute_unit_price(UNIT_PRICE), instruction]
        programs = [one.program_id for one in everything]
        attempt = 1
        while True:
            block_hash, last_height = await self._block_hash()
            # in a thread: an external signer may wait for a person
            signed = await asyncio.to_thread(sign, everything, payer or wallet, [wallet], block_hash)
            raw = base64.b64encode(bytes(signed)).decode()
            if await self._first(raw, programs, last=attempt == HASH_ATTEMPTS):
                break
            attempt += 1
            await asyncio.sleep(self.poll)
        signature = str(signed.signatures[0])
        await self._confirm(signature, raw, programs, last_height)
        return signature

    async def _block_hash(self) -> tuple[Hash, int]:
        answer = await rpc.call(self.rpc_url, "getLatestBlockhash", [{"commitment": "confirmed"}])
        try:
            value = answer["value"]
            return Hash.from_string(value["blockhash"]), int(value["lastValidBlockHeight"])
        except (KeyError, TypeError, ValueError):
            raise LedgerError(f"the RPC at {rpc.shown(self.rpc_url)} gave no block hash") from None

    async def _first(self, raw: str, programs: list[Pubkey], *, last: bool) -> bool:
        """Sends with preflight. False: the node does not know the block hash yet, and nothing was sent."""
        try:
            await rpc.call(
                self.rpc_url, "sendTransaction", [raw, {"encoding": "base64", "preflightCommitment": "confirmed"}]
            )
        except rpc.Unreached:
            raise
        except Unavailable as error:  # it may have landed
            log.warning("no answer to a transaction, looking for it", error=type(error).__name__)
        except rpc.Refused as error:
            why = error.data.get("err") if isinstance(error.data, dict) else None
            if why is None:
                raise
            if why == "BlockhashNotFound" and not last:
                return False
            if why != "AlreadyProcessed":
                raise explain(why, programs, self.program_id, _logs(error.data)) from None
        return True

    async def _confirm(self, signature: str, raw: str, programs: list[Pubkey], last_height: int) -> None:
        began = sent = time.monotonic()
        while True:
            await asyncio.sleep(self.poll)
            try:
                status = await self._status(signature)
                if status is not None and status.get("err") is not None:
                    raise explain(status["err"], programs, self.program_id, None)
                if status is not None and status.get("confirmationStatus") in ("confirmed", "finalized"):
                    return
                if status is None and time.monotonic() - sent >= RESEND_SECONDS:
                    sent = time.monotonic()
                    if await self._expired(signature, last_height):
                        raise NotConfirmed(f"{signature} was not confirmed before its block hash expired")
                    await rpc.call(
                        self.rpc_url, "sendTransaction", [raw, {"encoding": "base64", "skipPreflight": True}]
                    )
            except (Unavailable, rpc.Refused) as error:
                log.warning("the RPC failed while a transaction was waited for", error=type(error).__name__)
            if time.monotonic() - began >= PATIENCE_SECONDS:
                raise NotConfirmed(f"{signature} was not seen confirmed within {PATIENCE_SECONDS:g} s")

    async def _expired(self, signature: str, last_height: int) -> bool:
        """It can never land. The order matters: height first, then the look."""
        height = await rpc.call(self.rpc_url, "getBlockHeight", [{"commitment": "confirmed"}])
        if not isinstance(height, int) or height <= last_height:
            return False
        return await self._status(signature, history=True) is None

    async def _status(self, signature: str, *, history: bool = False) -> dict[str, Any] | None:
        options = {"searchTransactionHistory": history}
        answer = await rpc.call(self.rpc_url, "getSignatureStatuses", [[signature], options])
        try:
            status = answer["value"][0]
        except (KeyError, TypeError, IndexError):
            raise LedgerError(f"the RPC at {rpc.shown(self.rpc_url)} gave no status") from None
        return status if isinstance(status, dict) else None


def _logs(data: dict[str, Any]) -> list[str]:
    logs = data.get("logs")
    return [str(line) for line in logs] if isinstance(logs, list) else []
