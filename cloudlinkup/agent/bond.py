"""What a contributor agrees to on chain before it works: the token, the windows, and the bond, which it posts itself.

The bond is the last thing before the Ack: every other check has passed by then. It is posted by the wallet where its
key is on this machine and the limit allows it; else the order is refused, with the command that posts it. A bond comes
back a window after the job's end, unless the arbiter ruled otherwise.
Not covered: getting a bond back (`pay` returns it, which anybody may crank).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from solders.pubkey import Pubkey

from cloudlinkup.agent.chain import JobFacts
from cloudlinkup.agent.checks import Refusal
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import CloudLinkUpError
from cloudlinkup.ledger.wallet import WalletLedger

log = structlog.get_logger(__name__)

LONGEST_WINDOW = 604_800  # seconds: what is waited for an award that somebody may object to, by default
Post = Callable[[str, int], Awaitable[object]]  # (job account, seat): posts the bond; raises CloudLinkUpError


@dataclass(frozen=True)
class Agreed:
    """What this contributor takes. `mint`: the only token, None for any. Windows in seconds, `bond` in base units."""

    mint: str | None = None
    longest_window: int = LONGEST_WINDOW
    bond: int = 0


def check_agreed(job: JobFacts, agreed: Agreed) -> None:
    """Raises Refusal(`terms`) for another token or windows that are too long."""
    if agreed.mint is not None and job.mint != agreed.mint:
        raise Refusal("terms", f"the job pays in {job.mint}, not in {agreed.mint}")
    for name, window in (("dispute", job.dispute_window), ("arbiter", job.arbiter_window)):
        if window > agreed.longest_window:
            raise Refusal("terms", f"the job's {name} window of {window} s is longer than {agreed.longest_window} s")


async def post_bond(account: str, job: JobFacts, seat: int, agreed: Agreed, post: Post | None) -> None:
    """Posts the seat's bond unless it is posted. Raises Refusal(`seat`) where it may not or cannot be."""
    if job.seats[seat].active:
        return
    bond, command = job.seats[seat].bond, f"`cloudlinkup escrow accept {account} {seat}`"
    if bond > agreed.bond:
        raise Refusal("seat", f"the seat asks for a bond of {bond} base units, the limit here is {agreed.bond}")
    if post is None:
        raise Refusal("seat", f"the seat's bond is not posted and the wallet is not here. Fix: {command}")
    try:
        await post(account, seat)
    except CloudLinkUpError as error:
        log.warning("bond_not_posted", job=account, seat=seat, why=str(error)[:300])
        raise Refusal("seat", "the seat's bond could not be posted") from None


def poster(rpc_url: str, program: str, wallet: Signer, sponsor: Callable[[], Signer | None]) -> Post:
    """Posts from `wallet`; its fee comes from the wallet's SOL, or from `sponsor` where it has none."""

    async def post(account: str, seat: int) -> None:
        ledger = WalletLedger(rpc_url, Pubkey.from_string(program))
        payer = wallet if await ledger.lamports(wallet.public) > 0 else sponsor() or wallet
        await ledger.accept_seat(wallet, Pubkey.from_string(account), seat, payer=payer)

    return post
