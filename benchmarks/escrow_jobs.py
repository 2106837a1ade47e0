"""What whole jobs cost on chain: transactions, compute units, fees, rent, and how much rent comes back.

    python -m benchmarks.escrow_jobs [--seats 1 16 64 256 1024] [--json]

Each job runs through its whole life on the local chain with the real program, by the same Python client that the flows
use: its batching, its compute limits, its priority fee. Fee and units are what the chain says of each transaction
(`getTransaction`); the priority fee, which this chain does not charge, follows from the limit and the price that the
transaction asks for; rent is what the accounts held and what came back to its payer. Every seat belongs to another
wallet. First one round at each size, then 16 seats and 20 rounds, paid out after every round.

The baseline of a seat and round is what the cluster asks for doing it alone: four signatures (cap, commitment, award,
payment), 20,000 lamports. Does not measure wall time, nor the payees' token accounts (once a wallet, 2,039,280
lamports). Rent and fee rates are the local chain's, which are the cluster's defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import based58
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, when run as a file

from cloudlinkup.ledger.accounts import OPEN_WINDOW
from cloudlinkup.ledger.escrow import Ledger
from tasks.escrow import uuid7
from tests.conftest import ESCROW, Localnet, Platform, _set_up

CAP = 1_000  # base units a seat and round
WINDOW, ARBITER = 60, 120
SIGNATURE = 5_000  # lamports
COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
ALONE = 4 * SIGNATURE  # a seat's round by transactions of its own
CREATED = 40  # token accounts at once


@dataclass
class Step:
    """What one kind of call cost, over the whole job. `fee` (of signatures) and `priority` in lamports."""

    transactions: int = 0
    signatures: int = 0
    units: int = 0
    fee: int = 0
    priority: int = 0


@dataclass
class Life:
    """One job. `rent` was paid for its account and vault, `back` returned; lamports."""

    seats: int
    rounds: int
    rent: int = 0
    back: int = 0
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def total(self) -> Step:
        steps = self.steps.values()
        return Step(*(sum(getattr(s, name) for s in steps) for name in Step.__dataclass_fields__))


async def count(ledger: Ledger, life: Life, name: str, signatures: list[str]) -> None:
    """Adds what the chain says of these transactions."""
    step = life.steps.setdefault(name, Step())
    for one in signatures:
        ask = ledger._rpc.client.get_transaction(Signature.from_string(one), max_supported_transaction_version=0)
        found = (await ledger._rpc.ask(ask)).value
        assert found is not None and found.transaction.meta is not None
        meta: Any = found.transaction.meta
        body: Any = found.transaction.transaction
        step.transactions += 1
        step.signatures += len(body.signatures)
        step.units += meta.compute_units_consumed
        step.fee += meta.fee
        step.priority += priority(body.message)


def priority(message: Any) -> int:
    """Lamports: the compute units asked for times their price in micro-lamports, rounded up."""
    asked = {1: 0, 2: 0, 3: 0}
    for one in message.instructions:
        if message.account_keys[one.program_id_index] == COMPUTE_BUDGET:
            data = based58.b58decode(one.data.encode())
            asked[data[0]] = int.from_bytes(data[1:], "little")
    return -(-asked[2] * asked[3] // 10**6)


async def payees(ledger: Ledger, stage: Platform, seats: int) -> list[Pubkey]:
    """Wallets with token accounts; the same ones in every run, so that a job's cost does not depend on their bumps."""
    wallets = [Keypair.from_seed(hashlib.sha256(f"payee {i}".encode()).digest()).pubkey() for i in range(seats)]
    for first in range(0, seats, CREATED):
        some = wallets[first : first + CREATED]
        await asyncio.gather(*(ledger.create_token_account(stage.keys["sponsor"], one, stage.mint) for one in some))
    return wallets


async def run_job(ledger: Ledger, stage: Platform, seats: int, rounds: int) -> Life:
    """One job from its lock to the return of its rent. Needs a chain whose clock it may move."""
    keys, life = stage.keys, Life(seats, rounds)
    operator, verifier, cranker = keys["operator"], keys["verifier"], keys["cranker"]
    wallets, now = await payees(ledger, stage, seats), await ledger.now()
    job_id, owner = uuid7(now), keys["owner"].public
    numbers: dict[str, Any] = {"budget": 2 * CAP * seats * rounds, "deadline": now + 36_000, "fee_bps": stage.fee_bps}
    numbers |= {"dispute_window": stage.min_window, "arbiter_window": stage.arbiter_window, "spec_hash": bytes(32)}
    roles: dict[str, Any] = {"authority": operator, "payer": operator, "owner": owner, "verifier": verifier.public}
    opened = await ledger.open_job(job_id=job_id, mint=stage.mint, **roles, **numbers)
    await count(ledger, life, "open_job", opened)
    job = ledger.job_address(owner, stage.mint, job_id)
    places = [(wallet, 0, 0) for wallet in wallets]
    await count(ledger, life, "assign_seats", await ledger.assign_seats(operator, operator, job, places))
    found = await ledger.job(job)
    assert found is not None and len(found.seats) == seats
    life.rent = await ledger.lamports(job) + await ledger.lamports(found.vault)
    for number in range(1, rounds + 1):
        caps, root = dict.fromkeys(range(seats), CAP * number), hashlib.sha256(bytes([number])).digest()
        await count(ledger, life, "raise_caps", await ledger.raise_caps(operator, job, caps))
        await count(ledger, life, "commit_round", await ledger.commit_round(verifier, job, number, root))
        await count(ledger, life, "award", await ledger.award(verifier, job, number, caps))
        stage.chain.warp(2 * stage.min_window)
        await count(ledger, life, "pay", await ledger.pay(cranker, job))
    await count(ledger, life, "finish_job", await ledger.finish_job(operator, job))
    stage.chain.warp(2 * stage.min_window)
    await count(ledger, life, "close_job", await ledger.close_job(cranker, job))
    stage.chain.warp(OPEN_WINDOW)
    before = await ledger.lamports(operator.public)
    await count(ledger, life, "close_job", await ledger.close_job(cranker, job))
    life.back = await ledger.lamports(operator.public) - before
    assert await ledger.job(job) is None
    paid = [await ledger.token_balance(wallet, stage.mint) for wallet in (wallets[0], wallets[-1])]
    assert min(paid) >= CAP * rounds
    return life


async def measure(sizes: list[int], rounds: int, chain: Localnet) -> list[Life]:
    stage = await _set_up(chain, WINDOW, ARBITER)
    async with Ledger.connect(chain.url, chain.program_id, poll=0.01, timeout=60) as ledger:
        for role in ("operator", "sponsor"):  # rent of the largest job and of a thousand token accounts
            await ledger.airdrop(stage.keys[role].public, 1_000 * 10**9)
        lives = [await run_job(ledger, stage, seats, 1) for seats in sizes]
        return [*lives, await run_job(ledger, stage, 16, rounds)]


def sol(lamports: int) -> str:
    return f"{lamports / 10**9:.6f}"


def show(lives: list[Life]) -> None:
    names = list(lives[0].steps)
    print("compute units a seat, token transfers included (transactions):")
    print(f"{'instruction':14}" + "".join(f"{f'{one.seats} seats':>18}" for one in lives[:-1]))
    for name in names:
        cells = (one.steps[name] for one in lives[:-1])
        text = (f"{s.units / one.seats:,.0f} ({s.transactions})" for one, s in zip(lives, cells, strict=False))
        print(f"{name:14}" + "".join(f"{cell:>18}" for cell in text))
    print("\nlamports of fees a seat:")
    print(f"{'instruction':14}" + "".join(f"{f'{one.seats} seats':>18}" for one in lives[:-1]))
    for name in names:
        print(f"{name:14}" + "".join(f"{one.steps[name].fee / one.seats:>18,.0f}" for one in lives[:-1]))
    print("\nwhole jobs:")
    head = ("seats", "rounds", "transactions", "signatures SOL", "priority SOL", "rent SOL", "back SOL", "of alone")
    print("".join(f"{h:>15}" for h in head))
    for one in lives:
        total = one.total
        cells = (one.seats, one.rounds, total.transactions, sol(total.fee), sol(total.priority), sol(one.rent))
        alone = f"{total.fee / (ALONE * one.seats * one.rounds):.1%}"
        print("".join(f"{cell!s:>15}" for cell in (*cells, sol(one.back), alone)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seats", type=int, nargs="+", default=[1, 16, 64, 256, 1_024])
    parser.add_argument("--rounds", type=int, default=20, help="of the job with 16 seats")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the tables")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chain = Localnet(Path(folder) / "chain.db", program=ESCROW, slot_ms=100).start()
        try:
            lives = asyncio.run(measure(args.seats, args.rounds, chain))
        finally:
            chain.stop()
    if args.json:
        jobs = [asdict(one) | {"total": asdict(one.total)} for one in lives]
        print(json.dumps({"units": "CU, lamports", "alone": ALONE, "jobs": jobs}))
    else:
        show(lives)
    return 0


if __name__ == "__main__":
    sys.exit(main())
