"""What a contributor reads from the chain over its own RPC address: solders and httpx only, no key, nothing sent.

Answers are bounded in size, checked for the account's owner, discriminator and length, and taken at `confirmed`.
"""

from __future__ import annotations

from solders.pubkey import Pubkey

from cloudlinkup.errors import LedgerError
from cloudlinkup.ledger import rpc
from cloudlinkup.ledger.accounts import CLOCK_SYSVAR, MINT_BYTES, SYSTEM_PROGRAM, TOKEN_PROGRAM, Job, decode_job
from cloudlinkup.ledger.rpc import TIMEOUT


async def read_job(
    rpc_url: str,
    job: Pubkey,
    program_id: Pubkey,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 (applied below)
) -> Job | None:
    """The job at that address, or None when there is no such account.

    Raises Unavailable when nobody answers within `timeout` seconds, LedgerError when the account is not a job of that
    program or the answer is malformed.
    """
    found = await rpc.account(rpc_url, job, timeout)
    if found is None or found[0] == str(SYSTEM_PROGRAM):  # anybody may send lamports to an address
        return None
    owner, _, data = found
    if owner != str(program_id):
        raise LedgerError(f"account {job} belongs to {owner}, not to the escrow program {program_id}")
    return decode_job(data)


async def read_genesis(rpc_url: str, timeout: float = TIMEOUT) -> str:  # noqa: ASYNC109
    """The chain's genesis hash, base58: which chain this is."""
    answer = await rpc.call(rpc_url, "getGenesisHash", [], timeout)
    try:
        return str(Pubkey.from_string(answer))
    except (ValueError, TypeError):
        raise LedgerError(f"the RPC at {rpc.shown(rpc_url)} gave no genesis hash") from None


async def read_clock(rpc_url: str, timeout: float = TIMEOUT) -> int:  # noqa: ASYNC109
    """The chain's unix time in seconds at `confirmed`; it can lag behind real time by tens of seconds."""
    found = await rpc.account(rpc_url, CLOCK_SYSVAR, timeout)
    if found is None or len(found[2]) != 40:
        raise LedgerError(f"the RPC at {rpc.shown(rpc_url)} gave no clock")
    return int.from_bytes(found[2][32:40], "little", signed=True)


async def read_decimals(rpc_url: str, mint: Pubkey, timeout: float = TIMEOUT) -> int:  # noqa: ASYNC109
    """A mint's decimals. Raises LedgerError for anything but an initialised classic mint."""
    found = await rpc.account(rpc_url, mint, timeout)
    if found is None or found[0] != str(TOKEN_PROGRAM) or len(found[2]) != MINT_BYTES or found[2][45] != 1:
        raise LedgerError(f"{mint} is not a classic token mint on this chain")
    return found[2][44]
