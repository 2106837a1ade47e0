"""What is set up once: the program's config, a client's account and vault, and what its operator may lock.

Each call reads the chain first and sends nothing if it finds what it would make; each returns the signatures it sent.
"""

from __future__ import annotations

from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError
from cloudlinkup.ledger import accounts
from cloudlinkup.ledger.budget import distinct, units
from cloudlinkup.ledger.tokens import TokenCalls


class SetupCalls(TokenCalls):
    """The platform's and the owner's calls."""

    # ------------------------------------------------------------ the platform

    async def initialize(
        self,
        authority: Signer,
        *,
        admin: Pubkey,
        arbiter: Pubkey,
        treasury: Pubkey,
        fee_bps: int,
        min_window: int,
        arbiter_window: int,
        payer: Signer | None = None,
    ) -> list[str]:
        """Creates the config; `authority` is the program's upgrade authority. Nothing if it exists with these terms."""
        address = accounts.config_address(self.program_id)
        if await self._owned(address) is not None:
            config = await self.config()
            have = (config.admin, config.arbiter, config.treasury, config.fee_bps, config.min_window)
            if (*have, config.arbiter_window) == (admin, arbiter, treasury, fee_bps, min_window, arbiter_window):
                return []
            raise LedgerError("the escrow program is initialized with other terms. Fix: change them with set_config")
        payer = payer or authority
        make = self._program.build(
            "initialize",
            admin,
            arbiter,
            treasury,
            fee_bps,
            min_window,
            arbiter_window,
            accounts={
                "upgrade_authority": authority.public,
                "payer": payer.public,
                "program_data": accounts.program_data_address(self.program_id),
                "config": address,
            },
        )
        return [await self._rpc.send([make], payer, [authority], units=units(30_000))]

    async def set_config(
        self,
        admin: Signer,
        *,
        arbiter: Pubkey | None = None,
        treasury: Pubkey | None = None,
        fee_bps: int | None = None,
        min_window: int | None = None,
        arbiter_window: int | None = None,
        pending_admin: Pubkey | None = None,
        payer: Signer | None = None,
    ) -> list[str]:
        """Changes the terms of later jobs, or names the next admin. Nothing if the config says so already."""
        config = await self.config()
        wanted = {
            "arbiter": arbiter,
            "treasury": treasury,
            "fee_bps": fee_bps,
            "min_window": min_window,
            "arbiter_window": arbiter_window,
            "pending_admin": pending_admin,
        }
        if all(value is None or value == getattr(config, name) for name, value in wanted.items()):
            return []
        where = {"admin": admin.public, "config": accounts.config_address(self.program_id)}
        change = self._program.build("set_config", *wanted.values(), accounts=where)
        return [await self._rpc.send([change], payer or admin, [admin], units=units(5_000))]

    async def accept_admin(self, new_admin: Signer, *, payer: Signer | None = None) -> list[str]:
        """The named next admin takes over. Nothing if it has."""
        if (await self.config()).admin == new_admin.public:
            return []
        where = {"new_admin": new_admin.public, "config": accounts.config_address(self.program_id)}
        take = self._program.build("accept_admin", accounts=where)
        return [await self._rpc.send([take], payer or new_admin, [new_admin], units=units(5_000))]

    # ------------------------------------------------------------ the client

    async def open_client(self, owner: Signer, mint: Pubkey, *, payer: Signer | None = None) -> list[str]:
        """Creates the owner's account and vault for one mint. Nothing if they exist."""
        if await self.client(owner.public, mint) is not None:
            return []
        payer = payer or owner
        client = self.client_address(owner.public, mint)
        make = self._program.build(
            "open_client",
            accounts={
                "owner": owner.public,
                "payer": payer.public,
                "mint": mint,
                "client": client,
                "client_vault": accounts.vault_address(client, self.program_id),
            },
        )
        return [await self._rpc.send([make], payer, [owner], units=units(60_000, 1))]

    async def set_operator(
        self,
        owner: Signer,
        mint: Pubkey,
        *,
        operator: Pubkey,
        verifier: Pubkey,
        max_per_job: int,
        allowance: int,
        expires: int,
        payer: Signer | None = None,
    ) -> list[str]:
        """Names the operator and verifier keys and how much they may lock until `expires` (unix seconds).

        Nothing if the client says exactly that already; bound to the client's sequence number, so that it cannot
        overwrite what happened since it was read.
        """
        client = await self.client(owner.public, mint)
        if client is None:
            raise LedgerError(f"{owner.public} has no client account for mint {mint}. Fix: open it first")
        have = (client.operator, client.verifier, client.max_per_job, client.allowance_left, client.allowance_expires)
        if have == (operator, verifier, max_per_job, allowance, expires):
            return []
        where = {"owner": owner.public, "client": self.client_address(owner.public, mint)}
        args = (operator, verifier, max_per_job, allowance, expires, client.seq)
        change = self._program.build("set_operator", *args, accounts=where)
        return [await self._rpc.send([change], payer or owner, [owner], units=units(5_000))]

    async def withdraw(
        self,
        owner: Signer,
        mint: Pubkey,
        amount: int,
        *,
        destination: Pubkey | None = None,
        payer: Signer | None = None,
    ) -> list[str]:
        """Takes free base units out, to the owner's associated account by default. Each call takes `amount` again."""
        client = self.client_address(owner.public, mint)
        take = self._program.build(
            "withdraw",
            amount,
            accounts={
                "owner": owner.public,
                "client": client,
                "client_vault": accounts.vault_address(client, self.program_id),
                "destination": destination or accounts.token_address(owner.public, mint)[0],
            },
        )
        return [await self._rpc.send([take], payer or owner, [owner], units=distinct(units(6_000, 1)))]
