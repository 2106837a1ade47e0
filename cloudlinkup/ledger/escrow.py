"""The escrow program as typed calls, each of which reads the chain first and sends only what is missing.

So a call that is repeated after a crash, a lost answer or a second click does its work once; it returns the signatures
of the transactions that it sent and saw confirmed, none if nothing had to be sent. Only `deposit`, `withdraw` and
`mint_to` move their amount each time they are called: they name an amount, not a state.

Every call takes `Signer`s and pays fees with the first signer unless a `payer` is named. Amounts are base units.
Raises everywhere: ProgramError (the program's own refusal, by name), LedgerError, NotConfirmed, Unavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, ProtocolError
from cloudlinkup.ledger import accounts, money
from cloudlinkup.ledger.budget import units
from cloudlinkup.ledger.connection import Connection, check_url
from cloudlinkup.ledger.disputes import DisputeCalls
from cloudlinkup.ledger.program import EscrowProgram
from cloudlinkup.ledger.provider import CheckedProvider
from cloudlinkup.ledger.reading import usable
from cloudlinkup.ledger.setup import SetupCalls

# Most seats in a transaction of 1,232 bytes with compute limit, compute price and a fee payer of its own.
SEATS_ASSIGNED, CAPS_RAISED, AWARDS = 16, 83, 86
SEATS_PAID = 20  # by rule: events of 24 already fill the 10,000 bytes of logs

TIMEOUT = 10.0
AT_ONCE = 8  # transactions of one call: public RPC services refuse bursts


async def _together(calls: Iterable[Awaitable[str]]) -> list[str]:
    """Sends transactions that do not depend on each other, some at once: each takes its block hash when its turn comes,
    so that the last of many does not expire in the line. Waits for all before it raises the first error."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(call: Awaitable[str]) -> str:
        async with turn:
            return await call

    results = await asyncio.gather(*map(in_turn, calls), return_exceptions=True)
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return [one for one in results if isinstance(one, str)]


class Ledger(SetupCalls, DisputeCalls):
    """The escrow program over one RPC URL; make it with `connect`."""

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        rpc_url: str,
        program_id: Pubkey | str,
        *,
        poll: float = 0.06,
        unit_price: int = 1_000,
        timeout: float = TIMEOUT,  # noqa: ASYNC109 (of each request)
    ) -> AsyncIterator[Self]:
        """`poll`: seconds between two looks at a transaction (0.5 suits a public RPC). `unit_price`: priority fee in
        micro-lamports a compute unit. `timeout`: seconds that an answer may take. Asks the chain nothing yet.

        Raises BadInput for what is no http or https URL.
        """
        check_url(rpc_url)
        program_id = Pubkey.from_string(program_id) if isinstance(program_id, str) else program_id
        async with AsyncClient(rpc_url, commitment=Confirmed, timeout=timeout) as client:
            await client._provider.close()
            client._provider = CheckedProvider(rpc_url, timeout=timeout)
            connection = Connection(client, program_id, poll=poll, unit_price=unit_price)
            yield cls(connection, EscrowProgram(client, program_id))

    # ------------------------------------------------------------ a job's life

    async def open_job(
        self,
        *,
        authority: Signer,
        payer: Signer,
        owner: Pubkey,
        mint: Pubkey,
        job_id: bytes,
        verifier: Pubkey,
        spec_hash: bytes,
        budget: int,
        deadline: int,
        dispute_window: int,
        arbiter_window: int,
        fee_bps: int,
    ) -> list[str]:
        """Locks `budget` for one job. Nothing if the job exists with these terms, LedgerError if with others."""
        client = self.client_address(owner, mint)
        address = accounts.job_address(client, job_id, self.program_id)
        job = await self.job(address)
        if job is not None:
            have = (job.verifier, job.spec_hash, job.budget, job.dispute_window, job.arbiter_window, job.fee_bps)
            same = have == (verifier, spec_hash, budget, dispute_window, arbiter_window, fee_bps)
            if same and job.deadline <= deadline:  # finish_job brings the deadline forward
                return []
            raise LedgerError(f"job {address} is open with other terms. Fix: use a new job id")
        make = self._program.build(
            "open_job",
            list(job_id),
            verifier,
            list(spec_hash),
            budget,
            deadline,
            dispute_window,
            arbiter_window,
            fee_bps,
            accounts={
                "authority": authority.public,
                "payer": payer.public,
                "config": accounts.config_address(self.program_id),
                "client": client,
                "client_vault": accounts.vault_address(client, self.program_id),
                "mint": mint,
                "job": address,
                "job_vault": accounts.vault_address(address, self.program_id),
            },
        )
        return [await self._rpc.send([make], payer, [authority], units=units(60_000, 2))]

    async def assign_seats(
        self, authority: Signer, payer: Signer, job: Pubkey, seats: Sequence[tuple[Pubkey, int, int]]
    ) -> list[str]:
        """Makes the job's seats begin with this list of (wallet, cap, bond), appending those that are not there yet.

        Raises ProtocolError when a seat on chain has another wallet than the list.
        """
        found = await self._must_job(job)
        for i, (seat, (wallet, _, _)) in enumerate(zip(found.seats, seats, strict=False)):
            if seat.wallet != wallet:
                raise ProtocolError(f"seat {i} of job {job} belongs to {seat.wallet}, not to {wallet}")
        sent = []
        where = {"authority": authority.public, "payer": payer.public, "client": found.client, "job": job}
        for first in range(len(found.seats), len(seats), SEATS_ASSIGNED):
            part = seats[first : first + SEATS_ASSIGNED]
            added = [self._program.seat_init(*one) for one in part]
            add = self._program.build("assign_seats", first, added, accounts=where)
            sent.append(await self._rpc.send([add], payer, [authority], units=units(4_000 + 300 * len(part))))
        return sent

    async def raise_caps(
        self, authority: Signer, job: Pubkey, caps: Mapping[int, int], *, payer: Signer | None = None
    ) -> list[str]:
        """Raises seats' caps to at least these amounts, by seat; seats that have as much are left alone."""
        found = await self._must_job(job)
        self._known_seats(found, job, caps)
        lower = [(seat, cap) for seat, cap in sorted(caps.items()) if found.seats[seat].cap < cap]
        where = {"authority": authority.public, "client": found.client, "job": job}
        parts = [lower[first : first + CAPS_RAISED] for first in range(0, len(lower), CAPS_RAISED)]

        def change(part: list[tuple[int, int]]) -> Awaitable[str]:
            amounts = [self._program.seat_amount(*one) for one in part]
            built = self._program.build("raise_caps", amounts, accounts=where)
            return self._rpc.send([built], payer or authority, [authority], units=units(2_000 + 120 * len(part)))

        return await _together(map(change, parts))

    async def commit_round(
        self, verifier: Signer, job: Pubkey, round_: int, root: bytes, *, payer: Signer | None = None
    ) -> list[str]:
        """Commits a round's root. Nothing if this round has this root; ProtocolError if it has another."""
        found = await self._must_job(job)
        if found.round == round_:
            if found.commit_root == root:
                return []
            raise ProtocolError(f"round {round_} of job {job} was committed with another root")
        where = {"verifier": verifier.public, "job": job}
        commit = self._program.build("commit_round", round_, list(root), accounts=where)
        return [await self._rpc.send([commit], payer or verifier, [verifier], units=units(4_000))]

    async def award(
        self, verifier: Signer, job: Pubkey, round_: int, awards: Mapping[int, int], *, payer: Signer | None = None
    ) -> list[str]:
        """Sets seats' cumulative awards, by seat; seats that have exactly that are left alone.

        So are seats under dispute, which the program would pass over: call again when it has ended.
        """
        found = await self._must_job(job)
        self._known_seats(found, job, awards)
        now = await self.now() if any(seat.disputed_at for seat in found.seats) else 0
        new = [
            (seat, amount)
            for seat, amount in sorted(awards.items())
            if found.seats[seat].awarded != amount and not money.on_hold(found.seats[seat], found, now)
        ]
        where = {"verifier": verifier.public, "job": job}
        parts = [new[first : first + AWARDS] for first in range(0, len(new), AWARDS)]

        def change(part: list[tuple[int, int]]) -> Awaitable[str]:
            amounts = [self._program.seat_amount(*one) for one in part]
            built = self._program.build("award", round_, amounts, accounts=where)
            return self._rpc.send([built], payer or verifier, [verifier], units=units(2_500 + 200 * len(part)))

        return await _together(map(change, parts))

    async def pay(self, cranker: Signer, job: Pubkey) -> list[str]:
        """Sends every seat what has matured (and, after the end, its bond). Anybody may call it.

        Seats with nothing due and seats whose wallet cannot receive are left alone; no job means nothing to do.
        """
        found = await self.job(job)
        if found is None:
            return []
        due = sorted(money.payable(found, await self.now()))
        targets = [accounts.token_address(found.seats[seat].wallet, found.mint) for seat in due]
        held = await self._token_accounts([address for address, _ in targets]) if due else []
        ready = [
            (seat, target)
            for seat, target, account in zip(due, targets, held, strict=True)
            if usable(account, found.seats[seat].wallet, found.mint)
        ]
        parts = [ready[first : first + SEATS_PAID] for first in range(0, len(ready), SEATS_PAID)]
        return await _together(self._pay_some(cranker, job, found, part) for part in parts)

    async def _pay_some(
        self, cranker: Signer, job: Pubkey, found: accounts.Job, part: list[tuple[int, tuple[Pubkey, int]]]
    ) -> str:
        give = self._program.build(
            "pay",
            [self._program.seat_bump(seat, bump) for seat, (_, bump) in part],
            accounts={"job": job, "job_vault": found.vault},
            more=[address for _, (address, _) in part],
        )
        return await self._rpc.send([give], cranker, units=units(3_000 + 5_000 * len(part), len(part)))

    async def finish_job(self, authority: Signer, job: Pubkey, *, payer: Signer | None = None) -> list[str]:
        """Brings the deadline to one dispute window from now. Nothing if it is that near, or past."""
        found = await self.job(job)
        if found is None or found.deadline <= await self.now() + found.dispute_window:
            return []
        where = {"authority": authority.public, "client": found.client, "job": job}
        end = self._program.build("finish_job", accounts=where)
        return [await self._rpc.send([end], payer or authority, [authority], units=units(3_000))]

    async def close_job(self, cranker: Signer, job: Pubkey) -> list[str]:
        """Returns what is free to the client and the fee to the treasury; erases a job that owes nothing and is a day
        old. Anybody may call it after the end (ProgramError JobNotEnded before). Nothing if nothing would move."""
        found = await self.job(job)
        if found is None:
            return []
        config = await self.config()
        target = accounts.token_address(config.treasury, found.mint)[0]
        client_vault = accounts.vault_address(found.client, self.program_id)
        vault, treasury = await self._token_accounts([found.vault, target])
        held = 0 if vault is None else vault.amount
        pays = usable(treasury, config.treasury, found.mint)
        if money.sweep(found, held, await self.now(), treasury_usable=pays).moves_nothing:
            return []
        end = self._program.build(
            "close_job",
            accounts={
                "config": accounts.config_address(self.program_id),
                "client": found.client,
                "client_vault": client_vault,
                "job": job,
                "job_vault": found.vault,
                "treasury_token": target,
                "rent_payer": found.rent_payer,
            },
        )
        return [await self._rpc.send([end], cranker, units=units(60_000 + 60 * len(found.seats), 3))]
