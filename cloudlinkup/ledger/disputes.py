"""Bonds, objections and rulings: what happens on a seat outside the ordinary round.

Each call reads the chain first and sends nothing where the chain already says so; each returns the signatures it sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.ledger import accounts, money
from cloudlinkup.ledger.budget import units
from cloudlinkup.ledger.reading import Reads

DISPUTES = 100  # seats a transaction


class DisputeCalls(Reads):
    """The contributor's, the client's and the arbiter's calls on single seats."""

    async def accept_seat(self, wallet: Signer, job: Pubkey, seat: int, *, payer: Signer | None = None) -> list[str]:
        """Posts the seat's bond from the wallet's associated account. Nothing if the seat is active."""
        found = await self._must_job(job)
        self._known_seats(found, job, [seat])
        if found.seats[seat].active:
            return []
        accept = self._program.build(
            "accept_seat",
            seat,
            found.seats[seat].bond,
            accounts={
                "wallet": wallet.public,
                "source": accounts.token_address(wallet.public, found.mint)[0],
                "job": job,
                "job_vault": found.vault,
            },
        )
        return [await self._rpc.send([accept], payer or wallet, [wallet], units=units(3_500, 1))]

    async def dispute(
        self, authority: Signer, job: Pubkey, seats: Sequence[int], *, payer: Signer | None = None
    ) -> list[str]:
        """Holds what has not matured on these seats for one arbiter window. Seats on hold are left alone; ProgramError
        NothingToDispute when none of the others has anything to hold."""
        found, now = await self._must_job(job), await self.now()
        self._known_seats(found, job, seats)
        free = [seat for seat in sorted(set(seats)) if not money.on_hold(found.seats[seat], found, now)]
        where = {"authority": authority.public, "client": found.client, "job": job}
        sent = []
        for first in range(0, len(free), DISPUTES):
            part = free[first : first + DISPUTES]
            hold = self._program.build("dispute", part, accounts=where)
            limit = units(1_500 + 700 * len(part))
            sent.append(await self._rpc.send([hold], payer or authority, [authority], units=limit))
        return sent

    async def appeal(
        self, wallet: Signer, job: Pubkey, seat: int, amount: int, *, payer: Signer | None = None
    ) -> list[str]:
        """Asks the arbiter for `amount` in all, in the window after the deadline; once a seat and job. Nothing if the
        appeal is open."""
        found = await self._must_job(job)
        self._known_seats(found, job, [seat])
        if found.seats[seat].appeal == 1:
            return []
        ask = self._program.build("appeal", seat, amount, accounts={"wallet": wallet.public, "job": job})
        return [await self._rpc.send([ask], payer or wallet, [wallet], units=units(4_000))]

    async def resolve(
        self, arbiter: Signer, job: Pubkey, seat: int, awarded: int, slash: int = 0, *, payer: Signer | None = None
    ) -> list[str]:
        """Rules on a seat under dispute or appeal: its award in all, and how much of its bond goes to the client.

        Not repeatable: a second ruling is refused by the program (NothingToResolve) once the first has landed.
        """
        where = {"arbiter": arbiter.public, "config": accounts.config_address(self.program_id), "job": job}
        rule = self._program.build("resolve", seat, awarded, slash, accounts=where)
        return [await self._rpc.send([rule], payer or arbiter, [arbiter], units=units(4_000))]

    async def pay_to(
        self, wallet: Signer, job: Pubkey, seat: int, destination: Pubkey, *, payer: Signer | None = None
    ) -> list[str]:
        """Sends what is due on the wallet's own seat to any token account of the mint: the way out for a frozen or
        lost associated account. Nothing if nothing is due."""
        found = await self._must_job(job)
        self._known_seats(found, job, [seat])
        if seat not in money.payable(found, await self.now()):
            return []
        give = self._program.build(
            "pay_to",
            seat,
            accounts={"wallet": wallet.public, "job": job, "job_vault": found.vault, "destination": destination},
        )
        return [await self._rpc.send([give], payer or wallet, [wallet], units=units(6_000, 1))]
