"""What an agent asks of the chain: its genesis hash, and one job with its seats. Reads only; needs no key.

A contributor reads the chain over its own RPC address and believes it, not the gateway, about who may sign orders, how
much its seat can earn and how long. `Chain` is the seam; `RpcChain` is the only one that ships.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from solders.pubkey import Pubkey

from cloudlinkup.ledger.seats import read_genesis, read_job


@dataclass(frozen=True)
class SeatFacts:
    """One seat on chain. `cap` and `awarded` are cumulative base units; `active`: its bond, if any, is posted;
    `bond`: what is asked, or held once it is posted."""

    wallet: str
    cap: int
    awarded: int
    active: bool
    bond: int = 0


@dataclass(frozen=True)
class JobFacts:
    """One job as the chain has it. `deadline` in unix seconds, windows in seconds; `round` and `commit_root` of the
    last commit; `mint`: the token that it pays in."""

    job_id: bytes
    verifier: str
    deadline: int
    round: int
    commit_root: bytes
    seats: tuple[SeatFacts, ...]
    mint: str = ""
    dispute_window: int = 0
    arbiter_window: int = 0


class Chain(Protocol):
    async def genesis(self) -> str: ...

    async def job(self, account: str) -> JobFacts | None: ...


@dataclass(frozen=True)
class RpcChain:
    """Solana's JSON-RPC at `url`. Its errors name the address without any key in it."""

    url: str
    program: str

    async def genesis(self) -> str:
        """The genesis hash, base58. Raises Unavailable when nobody answers, LedgerError for a strange answer."""
        return await read_genesis(self.url)

    async def job(self, account: str) -> JobFacts | None:
        """The job, or None when there is no such account. Raises Unavailable, LedgerError (not one of our program's),
        ValueError (no address)."""
        place, program = Pubkey.from_string(account), Pubkey.from_string(self.program)
        job = await read_job(self.url, place, program)
        if job is None:
            return None
        return JobFacts(
            job_id=job.job_id,
            verifier=str(job.verifier),
            deadline=job.deadline,
            round=job.round,
            commit_root=job.commit_root,
            seats=tuple(SeatFacts(str(s.wallet), s.cap, s.awarded, s.active, s.bond) for s in job.seats),
            mint=str(job.mint),
            dispute_window=job.dispute_window,
            arbiter_window=job.arbiter_window,
        )
