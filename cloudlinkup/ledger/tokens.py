"""Classic SPL tokens: accounts for payees, deposits, and on a local chain the mint itself."""

from __future__ import annotations

from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from spl.token.instructions import (
    InitializeMint2Params,
    MintToParams,
    TransferParams,
    create_idempotent_associated_token_account,
    initialize_mint2,
    mint_to,
    transfer,
)

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError
from cloudlinkup.ledger.accounts import MINT_BYTES, TOKEN_PROGRAM, token_address
from cloudlinkup.ledger.budget import distinct
from cloudlinkup.ledger.reading import Reads

TOKEN_UNITS = 30_000  # a transfer takes 4,645 compute units in the token program seen on the local chain
CREATE_UNITS = 60_000  # an associated account: 20,500 there, more when its bump is far down


class TokenCalls(Reads):
    """Calls that move tokens or make token accounts. Each returns the signatures that it sent."""

    async def create_token_account(self, payer: Signer, wallet: Pubkey, mint: Pubkey) -> list[str]:
        """Makes the wallet's associated token account (about 0.002 SOL from `payer`); nothing if it exists."""
        if await self._rpc.account(token_address(wallet, mint)[0]) is not None:
            return []
        make = create_idempotent_associated_token_account(payer.public, wallet, mint)
        return [await self._rpc.send([make], payer, units=CREATE_UNITS)]

    async def create_mint(
        self, payer: Signer, decimals: int, *, mint: Signer | None = None
    ) -> tuple[Pubkey, list[str]]:
        """A new classic mint whose mint and freeze authority is `payer`; nothing is sent if `mint` exists already."""
        mint = mint or Signer(Keypair())
        if await self._rpc.account(mint.public) is not None:
            await self.mint_decimals(mint.public)
            return mint.public, []
        rent = (await self._rpc.ask(self._rpc.client.get_minimum_balance_for_rent_exemption(MINT_BYTES))).value
        make = create_account(
            CreateAccountParams(
                from_pubkey=payer.public, to_pubkey=mint.public, lamports=rent, space=MINT_BYTES, owner=TOKEN_PROGRAM
            )
        )
        begin = initialize_mint2(
            InitializeMint2Params(
                decimals=decimals,
                program_id=TOKEN_PROGRAM,
                mint=mint.public,
                mint_authority=payer.public,
                freeze_authority=payer.public,
            )
        )
        return mint.public, [await self._rpc.send([make, begin], payer, [mint], units=TOKEN_UNITS)]

    async def mint_to(
        self, authority: Signer, mint: Pubkey, wallet: Pubkey, amount: int, *, payer: Signer | None = None
    ) -> list[str]:
        """Mints base units into the wallet's associated account, made if missing. Each call mints again."""
        payer = payer or authority
        target = token_address(wallet, mint)[0]
        give = mint_to(
            MintToParams(
                program_id=TOKEN_PROGRAM, mint=mint, dest=target, mint_authority=authority.public, amount=amount
            )
        )
        make = create_idempotent_associated_token_account(payer.public, wallet, mint)
        return [await self._rpc.send([make, give], payer, [authority], units=distinct(CREATE_UNITS + TOKEN_UNITS))]

    async def deposit(self, owner: Signer, mint: Pubkey, amount: int, *, payer: Signer | None = None) -> list[str]:
        """Moves base units from the owner's associated account into its client vault: an ordinary transfer.

        Each call moves `amount` again. Raises LedgerError before the client is opened.
        """
        client = await self.client(owner.public, mint)
        if client is None:
            raise LedgerError(f"{owner.public} has no client account for mint {mint}. Fix: open it first")
        source = token_address(owner.public, mint)[0]
        move = transfer(
            TransferParams(
                program_id=TOKEN_PROGRAM, source=source, dest=client.vault, owner=owner.public, amount=amount
            )
        )
        return [await self._rpc.send([move], payer or owner, [owner], units=distinct(TOKEN_UNITS))]

    async def airdrop(self, address: Pubkey, lamports: int) -> list[str]:
        """SOL from a test chain's faucet."""
        signature = (await self._rpc.ask(self._rpc.client.request_airdrop(address, lamports))).value
        await self._rpc.wait(str(signature), "confirmed", 30.0)
        return [str(signature)]
