"""The local chain's money, each part only if it is missing: SOL for our keys, a mint, Config, a Client with a deposit.

The chain is read first, so a start that was cut short goes on where it stopped, and a later one sends nothing. Play
money: a balance or an allowance that has run low is filled up again. Not covered: any chain but the local one, whose
faucet and mint authority are ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable

import httpx
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer, read_or_make_key
from cloudlinkup.errors import LedgerError
from cloudlinkup.home import PROGRAM_ID, Home
from cloudlinkup.ledger.escrow import Ledger

DECIMALS = 6
TOKEN = 10**DECIMALS  # base units
DEPOSIT = 1_000 * TOKEN
LOW = DEPOSIT // 2  # below this, deposit and allowance are filled up again
MAX_PER_JOB = 100 * TOKEN
SOL = 10**9  # lamports
AIRDROP = 10 * SOL  # rent and fees of some thousand jobs
FEE_BPS = 250
WINDOW = 2  # seconds: dispute and arbiter window, so that a local job settles while one watches
YEAR, MONTH = 365 * 86_400, 30 * 86_400
PAYING = ("admin", "owner", "operator", "verifier", "cranker", "sponsor")  # roles that pay fees or rent


async def prepare(home: Home, rpc_url: str) -> dict[str, str]:
    """Returns the mint and the owner whose Client pays, base58. Raises LedgerError or Unavailable."""
    roles = {role: Signer.from_file(home.key(role)) for role in (*PAYING, "arbiter", "treasury")}
    mint = Signer(read_or_make_key(home.key("mint")))
    async with Ledger.connect(rpc_url, PROGRAM_ID) as ledger:
        await _all(_fill(ledger, rpc_url, roles[role].public) for role in PAYING)
        await _all(
            (
                ledger.create_mint(roles["admin"], DECIMALS, mint=mint),
                ledger.initialize(
                    roles["admin"],
                    admin=roles["admin"].public,
                    arbiter=roles["arbiter"].public,
                    treasury=roles["treasury"].public,
                    fee_bps=FEE_BPS,
                    min_window=WINDOW,
                    arbiter_window=WINDOW,
                ),
            )
        )
        await _all(
            (
                ledger.create_token_account(roles["sponsor"], roles["treasury"].public, mint.public),
                ledger.open_client(roles["owner"], mint.public),
            )
        )
        await _all((_deposit(ledger, roles, mint.public), _allow(ledger, roles, mint.public)))
    return {"mint": str(mint.public), "owner": str(roles["owner"].public)}


async def _all(calls: Iterable[Awaitable[object]]) -> None:
    await asyncio.gather(*calls)


async def _fill(ledger: Ledger, rpc_url: str, address: Pubkey) -> None:
    if await _lamports(rpc_url, address) < AIRDROP // 2:
        await ledger.airdrop(address, AIRDROP)


async def _lamports(rpc_url: str, address: Pubkey) -> int:
    body = {"jsonrpc": "2.0", "id": 1, "method": "getBalance", "params": [str(address), {"commitment": "confirmed"}]}
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            return int((await client.post(rpc_url, json=body)).raise_for_status().json()["result"]["value"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        raise LedgerError(f"the local chain does not tell the balance of {address}") from None


async def _deposit(ledger: Ledger, roles: dict[str, Signer], mint: Pubkey) -> None:
    owner = roles["owner"]
    if await ledger.free_balance(owner.public, mint) >= LOW:
        return
    held = await ledger.token_balance(owner.public, mint)
    if held < DEPOSIT:
        await ledger.mint_to(roles["admin"], mint, owner.public, DEPOSIT - held)
    await ledger.deposit(owner, mint, DEPOSIT)


async def _allow(ledger: Ledger, roles: dict[str, Signer], mint: Pubkey) -> None:
    owner, operator, verifier = roles["owner"], roles["operator"].public, roles["verifier"].public
    client, now = await ledger.client(owner.public, mint), await ledger.now()
    if client is None:
        raise LedgerError("the client account that was just made cannot be read")
    named = (client.operator, client.verifier) == (operator, verifier)
    if named and client.allowance_left >= LOW and client.allowance_expires > now + MONTH:
        return
    await ledger.set_operator(
        owner,
        mint,
        operator=operator,
        verifier=verifier,
        max_per_job=MAX_PER_JOB,
        allowance=DEPOSIT,
        expires=now + YEAR,
    )
