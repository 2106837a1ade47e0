"""Compute units of every instruction of the escrow program, measured on LiteSVM, against the program's budget.

    python -m benchmarks.escrow_cost [--json]

Each figure is what the virtual machine reports for the program's own call, less the calls into the Token program where
the budget counts those separately (their cost depends on the token program that the chain runs, not on this one).
Slopes come from two sizes of the same instruction. Exits 1 when a figure is over budget. Does not measure wall time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from solders.pubkey import Pubkey

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, when run as a file

from tests.programs.chain import LOADER, PROGRAM, PROGRAM_FILE, TOKEN, Outcome, associated
from tests.programs.world import ARBITER, DAY, WINDOW, JobRef, World

MISS = 1_500  # compute units of one more try in a search for a program address


@dataclass(frozen=True)
class Cost:
    """One line of the table. `units` excludes Token program calls where `less_token`; `budget` is the limit for it."""

    name: str
    seats: int
    units: int
    token: int
    budget: int
    per_seat: float | None = None

    @property
    def within(self) -> bool:
        return self.units <= self.budget


def token_units(outcome: Outcome) -> int:
    found = re.findall(rf"Program {TOKEN} consumed (\d+) of", "\n".join(outcome.logs))
    return sum(int(u) for u in found)


def misses(*searches: tuple[list[bytes], Pubkey]) -> int:
    """How many bumps were tried in vain, over all address searches of one instruction."""
    return sum(255 - Pubkey.find_program_address(seeds, program)[1] for seeds, program in searches)


def job_misses(job: JobRef) -> int:
    return misses(([b"job", bytes(job.client), job.id], PROGRAM), ([b"vault", bytes(job.address)], PROGRAM))


def treasury_misses(world: World) -> int:
    return 255 - associated(world.treasury, world.mint)[1]


def own(outcome: Outcome) -> tuple[int, int]:
    """(our units, the Token program's) of a transaction with one call of ours."""
    assert not outcome.error, (outcome.error, outcome.logs[-4:])
    token = token_units(outcome)
    return outcome.program_units()[0] - token, token


def line(name: str, outcome: Outcome, budget: int, *, seats: int = 0, with_token: bool = False) -> Cost:
    units, token = own(outcome)
    return Cost(name, seats, units + token if with_token else units, token, budget)


def slope(name: str, small: Cost, large: Cost) -> Cost:
    per_seat = (large.units - small.units) / (large.seats - small.seats)
    return Cost(name, large.seats, large.units, large.token, large.budget, round(per_seat, 1))


def setup(world: World) -> Iterator[Cost]:
    """Instructions that run once for a platform or a client, and opening a job."""
    other = World(world.program_file)
    outcome = other.ok("initialize", other.admin, other.arbiter, other.treasury, 250, 10, ARBITER)
    searches = misses(([b"config"], PROGRAM)) + misses(([bytes(PROGRAM)], LOADER))
    yield line("initialize", outcome, 26_000 + MISS * searches)
    yield line("open_client", other.ok("open_client"), 26_000 + MISS * _client_misses(other), with_token=True)
    yield line(
        "set_operator",
        other.ok("set_operator", other.operator, other.verifier, 1, 1, other.chain.now + 1, 0),
        2_000,
    )
    yield line("set_config", world.ok("set_config", None, None, None, None, None, world.stranger), 2_000)
    yield line("accept_admin", world.ok("accept_admin", new_admin=world.stranger), 2_000)
    yield line("withdraw", world.ok("withdraw", 5, destination=world.token_account(world.owner)), 3_500)
    plain = world.ref(world.new_id())
    outcome = world.ok("open_job", *world.terms(plain.id), job=plain)
    yield line("open_job", outcome, 26_000 + MISS * job_misses(plain), with_token=True)
    prefunded = world.ref(world.new_id())
    for address in (prefunded.address, prefunded.vault):
        world.chain.svm.airdrop(address, 1_000_000)
    outcome = world.ok("open_job", *world.terms(prefunded.id), job=prefunded)
    yield line("open_job, prefunded", outcome, 26_000 + 4_800 + MISS * job_misses(prefunded), with_token=True)


def _client_misses(world: World) -> int:
    seeds = [b"client", bytes(world.owner), bytes(world.mint)]
    return misses((seeds, PROGRAM), ([b"vault", bytes(world.client)], PROGRAM))


def rounds(world: World) -> Iterator[Cost]:
    """Seats, caps, awards, payments and objections, at one seat and at as many as fit a transaction."""
    job = world.job()
    wallets = [(bytes(world.paid_wallet(i)), 1_000, 0) for i in range(97)]
    one = line("assign_seats", world.ok("assign_seats", 0, wallets[:1], job=job), 4_300, seats=1)
    many = line("assign_seats", world.ok("assign_seats", 1, wallets[1:17], job=job), 4_000 + 300 * 16, seats=16)
    yield one
    yield slope("assign_seats", one, many)
    for first in range(17, 97, 16):
        world.ok("assign_seats", first, wallets[first : first + 16], job=job)
    one = line("raise_caps", world.ok("raise_caps", [(0, 1_001)], job=job), 2_120, seats=1)
    caps = [(i, 2_000) for i in range(84)]
    yield one
    yield slope(
        "raise_caps", one, line("raise_caps", world.ok("raise_caps", caps, job=job), 2_000 + 120 * 84, seats=84)
    )
    yield line("commit_round", world.ok("commit_round", 1, b"\1" * 32, job=job), 2_000)
    world.chain.wait(0)
    one = line("award", world.ok("award", 1, [(0, 1)], job=job), 2_700, seats=1)
    outcome = world.ok("award", 1, [(i, 500) for i in range(87)], job=job)
    yield one
    yield slope("award", one, line("award", outcome, 2_500 + 200 * 87, seats=87))
    one = line("dispute", world.ok("dispute", [0], job=job), 2_200, seats=1)
    outcome = world.ok("dispute", list(range(1, 87)), job=job)
    yield one
    yield slope("dispute", one, line("dispute", outcome, 1_500 + 700 * 86, seats=86))
    yield line("resolve", world.ok("resolve", 0, 400, 0, job=job), 2_000)
    world.chain.wait(ARBITER + 2 * WINDOW)
    one = line("pay", world.pay(job, 1), 5_000, seats=1)
    yield one
    yield slope("pay", one, line("pay", world.pay(job, *range(2, 22)), 1_500 + 3_500 * 20, seats=20))
    wallet = world.wallet(30)
    outcome = world.ok("pay_to", 30, job=job, wallet=wallet, destination=associated(wallet, world.mint)[0])
    yield line("pay_to", outcome, 3_500)
    yield line("finish_job", world.ok("finish_job", job=job), 2_000)
    world.chain.wait(WINDOW)
    yield line("appeal", world.ok("appeal", 31, 1_500, job=job, wallet=world.wallet(31)), 2_000)

    bonded = world.job([1_000], bonds=[50])
    world.mint_to(associated(world.wallet(0), world.mint)[0], 50)
    source = associated(world.wallet(0), world.mint)[0]
    outcome = world.ok("accept_seat", 0, 50, job=bonded, wallet=world.wallet(0), source=source)
    yield line("accept_seat", outcome, 3_500)


def closing(world: World, seats: int) -> Iterator[Cost]:
    """The sweep with both transfers, and the call that erases the job."""
    world.chain.wait(1)
    job = world.job([900] * seats, authority=world.owner)
    world.paid_wallet(0)
    if seats:
        world.awarded(job, 900)
        world.chain.wait(2 * WINDOW)
        assert not world.pay(job, 0).error
    world.ok("finish_job", job=job)
    world.chain.wait(2 * WINDOW)
    budget = 30_000 + 60 * seats + MISS * treasury_misses(world)
    yield line(f"close_job, sweeps {seats} seats", world.ok("close_job", job=job), budget, seats=seats, with_token=True)
    world.chain.wait(DAY)
    yield line(f"close_job, erases {seats} seats", world.ok("close_job", job=job), budget, seats=seats, with_token=True)


def measure(program_file: Path = PROGRAM_FILE) -> list[Cost]:
    """Every line of the table, on a fresh chain."""
    lines = list(setup(World(program_file).open()))
    lines += rounds(World(program_file).open())
    world = World(program_file).open()
    for seats in (1, 256, 1024):
        lines += closing(world, seats)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    args = parser.parse_args()
    lines = measure()
    if args.json:
        print(json.dumps({"unit": "CU", "lines": [asdict(c) | {"within": c.within} for c in lines]}))
    else:
        print(f"{'instruction':28} {'seats':>5} {'units':>8} {'budget':>8} {'token':>8} {'per seat':>9}")
        for c in lines:
            per_seat = "" if c.per_seat is None else f"{c.per_seat:.1f}"
            mark = "" if c.within else "  over budget"
            print(f"{c.name:28} {c.seats or '':>5} {c.units:>8} {c.budget:>8} {c.token:>8} {per_seat:>9}{mark}")
    return 0 if all(c.within for c in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
