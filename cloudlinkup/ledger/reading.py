"""Everything the ledger reads, and nothing that it sends. All at `confirmed` unless a commitment is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from solders.account import Account
from solders.pubkey import Pubkey

from cloudlinkup.errors import LedgerError
from cloudlinkup.ledger import accounts
from cloudlinkup.ledger.accounts import Client, Config, Job, TokenAccount
from cloudlinkup.ledger.connection import Commitment, Connection
from cloudlinkup.ledger.program import EscrowProgram, Event

WAIT_SECONDS = 60.0


class Reads:
    """The chain as this project sees it. `program_id` is the escrow program."""

    def __init__(self, connection: Connection, program: EscrowProgram) -> None:
        self._rpc, self._program = connection, program

    @property
    def program_id(self) -> Pubkey:
        return self._program.id

    # ------------------------------------------------------------ time and blocks

    async def genesis(self) -> str:
        """The genesis hash, base58: which chain this is."""
        return await self._rpc.genesis()

    async def now(self) -> int:
        """The chain's unix time in seconds. Compare deadlines and windows with this, never with the local clock."""
        return await self._rpc.now()

    async def slot(self, commitment: Commitment = "confirmed") -> int:
        return await self._rpc.slot(commitment)

    async def block_hash_at_or_after(
        self,
        slot: int,
        *,
        commitment: Literal["confirmed", "finalized"] = "confirmed",
        seconds: float = WAIT_SECONDS,
    ) -> tuple[int, bytes]:
        """(slot, 32-byte hash) of the first block at or after `slot`; waits for it, passing over skipped slots.

        Raises Unavailable when there is none after `seconds`.
        """
        return await self._rpc.block_hash_at_or_after(slot, commitment, seconds)

    async def wait_final(self, signature: str, *, seconds: float = WAIT_SECONDS) -> int:
        """The slot of a transaction once it is finalized. Raises NotConfirmed after `seconds`."""
        return await self._rpc.wait(signature, "finalized", seconds)

    async def events(self, signature: str) -> list[Event]:
        """The program's events in a confirmed transaction. Logs can be cut: accounts are the truth."""
        return self._program.events(await self._rpc.logs(signature))

    # ------------------------------------------------------------ the program's accounts

    async def config(self) -> Config:
        """Raises LedgerError before the program has been initialized."""
        found = await self._owned(accounts.config_address(self.program_id))
        if found is None:
            raise LedgerError("the escrow program has no config on this chain. Fix: initialize it")
        return accounts.decode_config(found.data)

    async def client(self, owner: Pubkey, mint: Pubkey) -> Client | None:
        found = await self._owned(self.client_address(owner, mint))
        return None if found is None else accounts.decode_client(found.data)

    async def job(self, address: Pubkey, commitment: Commitment = "confirmed") -> Job | None:
        """None when there is no such account: not opened yet, or closed for good."""
        found = await self._owned(address, commitment)
        return None if found is None else accounts.decode_job(found.data)

    async def jobs(self, client: Pubkey | None = None) -> list[tuple[Pubkey, Job]]:
        """Every job account with its address, of one Client account or of all."""
        matches = [(0, accounts.JOB_TAG)] + ([] if client is None else [(8, bytes(client))])
        found = await self._rpc.owned(self.program_id, matches)
        return [(address, accounts.decode_job(account.data)) for address, account in found]

    def client_address(self, owner: Pubkey, mint: Pubkey) -> Pubkey:
        return accounts.client_address(owner, mint, self.program_id)

    def job_address(self, owner: Pubkey, mint: Pubkey, job_id: bytes) -> Pubkey:
        return accounts.job_address(self.client_address(owner, mint), job_id, self.program_id)

    async def _owned(self, address: Pubkey, commitment: Commitment = "confirmed") -> Account | None:
        found = await self._rpc.account(address, commitment)
        # Anybody may send lamports to an address before the program creates an account there.
        if found is None or found.owner == accounts.SYSTEM_PROGRAM:
            return None
        if found.owner != self.program_id:
            raise LedgerError(f"account {address} belongs to {found.owner}, not to the escrow program")
        return found

    async def _must_job(self, address: Pubkey) -> Job:
        job = await self.job(address)
        if job is None:
            raise LedgerError(f"there is no job at {address} on this chain")
        return job

    @staticmethod
    def _known_seats(found: Job, address: Pubkey, seats: Iterable[int]) -> None:
        if unknown := [seat for seat in seats if not 0 <= seat < len(found.seats)]:
            raise LedgerError(f"job {address} has {len(found.seats)} seats and no seat {unknown[0]}")

    # ------------------------------------------------------------ tokens

    async def free_balance(self, owner: Pubkey, mint: Pubkey) -> int:
        """Base units that the owner deposited and that no job has locked; 0 before the client is opened."""
        return await self.vault_balance(accounts.vault_address(self.client_address(owner, mint), self.program_id))

    async def vault_balance(self, vault: Pubkey) -> int:
        """Base units in a token account, by its address; 0 when it does not exist."""
        account = (await self._token_accounts([vault]))[0]
        return 0 if account is None else account.amount

    async def token_balance(self, wallet: Pubkey, mint: Pubkey) -> int:
        """Base units in a wallet's associated token account; 0 when it does not exist."""
        return await self.vault_balance(accounts.token_address(wallet, mint)[0])

    async def lamports(self, address: Pubkey) -> int:
        """SOL in an account, in lamports; 0 when it does not exist."""
        found = await self._rpc.account(address)
        return 0 if found is None else found.lamports

    async def token_accounts(self, addresses: list[Pubkey]) -> list[TokenAccount | None]:
        """Token accounts by their addresses; None for what is no initialised classic token account."""
        return await self._token_accounts(addresses) if addresses else []

    async def has_token_account(self, wallet: Pubkey, mint: Pubkey) -> bool:
        """Whether `pay` can reach the wallet: its associated account exists, is its own, and is not frozen."""
        account = (await self._token_accounts([accounts.token_address(wallet, mint)[0]]))[0]
        return usable(account, wallet, mint)

    async def mint_decimals(self, mint: Pubkey) -> int:
        """Raises LedgerError for anything but an initialised classic mint."""
        found = await self._rpc.account(mint)
        classic = found is not None and found.owner == accounts.TOKEN_PROGRAM
        if found is None or not classic or len(found.data) != accounts.MINT_BYTES or found.data[45] != 1:
            raise LedgerError(f"{mint} is not a classic token mint on this chain")
        return found.data[44]

    async def _token_accounts(self, addresses: list[Pubkey]) -> list[TokenAccount | None]:
        found: list[TokenAccount | None] = []
        for account in await self._rpc.accounts(addresses):
            if account is None or account.owner != accounts.TOKEN_PROGRAM:
                found.append(None)
                continue
            try:
                found.append(accounts.decode_token_account(account.data))
            except LedgerError:
                found.append(None)
        return found


def usable(account: TokenAccount | None, owner: Pubkey, mint: Pubkey) -> bool:
    return account is not None and not account.frozen and account.owner == owner and account.mint == mint
