"""Small transactions for the localnet's tests, and the token program's own ELF as a program to load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction

if TYPE_CHECKING:
    from tests.conftest import Localnet

TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")


class Sender:
    """A funded key and plain transactions of it."""

    def __init__(self, client: AsyncClient, key: Keypair) -> None:
        self.client, self.key = client, key

    async def block_hash(self) -> Hash:
        return (await self.client.get_latest_blockhash(Confirmed)).value.blockhash

    def sign(self, instructions: list[Instruction], block_hash: Hash, *others: Keypair) -> Transaction:
        message = Message.new_with_blockhash(instructions, self.key.pubkey(), block_hash)
        return Transaction([self.key, *others], message, block_hash)

    def transfer(self, to: Pubkey, lamports: int, block_hash: Hash) -> Transaction:
        move = transfer(TransferParams(from_pubkey=self.key.pubkey(), to_pubkey=to, lamports=lamports))
        return self.sign([move], block_hash)


@pytest.fixture
async def sender(localnet: Localnet) -> AsyncIterator[Sender]:
    async with AsyncClient(localnet.url, commitment=Confirmed) as client:
        key = Keypair()
        airdrop = (await client.request_airdrop(key.pubkey(), 10**10)).value
        await client.confirm_transaction(airdrop, sleep_seconds=0.02)
        yield Sender(client, key)


@pytest.fixture
def token_elf(tmp_path: Path) -> Path:
    """A real, loadable program: the token program's own bytes."""
    account = LiteSVM().get_account(TOKEN)
    assert account is not None
    file = tmp_path / "token.so"
    file.write_bytes(account.data)
    return file
