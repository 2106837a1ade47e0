"""One valid call of every instruction, on a chain where other clients, jobs and mints exist to be confused with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from solders.instruction import Instruction
from solders.pubkey import Pubkey

from tests.programs.chain import SYSTEM, TOKEN, TOKEN_2022, associated, pda
from tests.programs.world import ARBITER, CONFIG, DAY, FEE, PROGRAM_DATA, WINDOW, JobRef, World


@dataclass
class Stage:
    """A world, a call that succeeds in it, and the accounts that an attacker could pass instead."""

    world: World
    call: Instruction
    others: dict[str, Pubkey]


def crowd(w: World) -> dict[str, Pubkey]:
    """Accounts of every kind that belong to somebody or something else."""
    stranger, mint = w.stranger, w.new_mint("another mint")
    other_client = pda(b"client", stranger, w.mint)
    same_owner = pda(b"client", w.owner, mint)
    for owner, of, client in ((stranger, w.mint, other_client), (w.owner, mint, same_owner)):
        vault = pda(b"vault", client)
        w.ok("open_client", owner=owner, mint=of, client=client, client_vault=vault)
        w.token_accounts[of].add(vault)
    their_vault = pda(b"vault", other_client)
    w.mint_to(their_vault, 1000)
    theirs = JobRef.at(other_client, w.new_id())
    accounts: dict[str, Any] = {"client": other_client, "client_vault": their_vault, "authority": stranger}
    w.ok("open_job", *w.terms(theirs.id, budget=1000, verifier=stranger), job=theirs, **accounts)
    w.token_accounts[w.mint].add(theirs.vault)
    mine = w.job([1000], budget=10_000)
    forged = w.other_account("vault forged for the client", w.client)
    return {
        "somebody's wallet": stranger,
        "another mint": mint,
        "another owner's client": other_client,
        "another owner's client vault": their_vault,
        "the owner's client of another mint": same_owner,
        "its vault": pda(b"vault", same_owner),
        "another client's job": theirs.address,
        "another client's job vault": theirs.vault,
        "another job": mine.address,
        "another job's vault": mine.vault,
        "a token account owned by the client": forged,
        "somebody's token account": w.token_account(stranger),
        "somebody's account of another mint": w.token_account(stranger, mint),
        "the config": CONFIG,
        "the system program": SYSTEM,
        "the token program": TOKEN,
        "token-2022": TOKEN_2022,
        "the program data": PROGRAM_DATA,
        "nothing": pda(b"nothing"),
    }


def sponsor(w: World) -> Pubkey:
    return w.person("sponsor")


def initialize() -> Stage:
    w = World()
    args = (w.admin, w.arbiter, w.treasury, FEE, 10, ARBITER)
    others = {
        "somebody's wallet": w.stranger,
        "a mint": w.mint,
        "the token program": TOKEN,
        "a forged program data account": w.person("forged program data"),
        "nothing": pda(b"nothing"),
    }
    w.chain.put(others["a forged program data account"], w.chain.data(PROGRAM_DATA), TOKEN)
    return Stage(w, w.ix("initialize", *args, accounts={"payer": sponsor(w)}), others)


def set_config() -> Stage:
    w = World().open()
    return Stage(w, w.ix("set_config", w.stranger, None, 1, None, None, None), crowd(w))


def accept_admin() -> Stage:
    w = World().open()
    heir = w.person("heir")
    w.ok("set_config", None, None, None, None, None, heir)
    return Stage(w, w.ix("accept_admin", accounts={"new_admin": heir}), crowd(w))


def open_client() -> Stage:
    w = World().open()
    others = crowd(w)
    owner = w.person("new owner")
    client = pda(b"client", owner, w.mint)
    w.token_accounts[w.mint].add(pda(b"vault", client))
    accounts = {"owner": owner, "client": client, "client_vault": pda(b"vault", client), "payer": sponsor(w)}
    return Stage(w, w.ix("open_client", accounts=accounts), others)


def set_operator() -> Stage:
    w = World().open()
    others = crowd(w)
    seq = w.read_client().seq
    return Stage(w, w.ix("set_operator", w.stranger, w.stranger, 1, 2, w.chain.now + 9, seq), others)


def withdraw() -> Stage:
    w = World().open()
    others = crowd(w)
    return Stage(w, w.ix("withdraw", 100, accounts={"destination": w.token_account(w.owner)}), others)


def open_job() -> Stage:
    w = World().open()
    others = crowd(w)
    job = w.ref(w.new_id())
    w.jobs.append(job)
    w.token_accounts[w.mint].add(job.vault)
    return Stage(w, w.ix("open_job", *w.terms(job.id), job=job, accounts={"payer": sponsor(w)}), others)


def assign_seats() -> Stage:
    w = World().open()
    others = crowd(w)
    job = w.job([10])
    call = w.ix("assign_seats", 1, [(bytes(w.wallet(1)), 100, 0)], job=job, accounts={"payer": sponsor(w)})
    return Stage(w, call, others)


def raise_caps() -> Stage:
    w = World().open()
    others = crowd(w)
    return Stage(w, w.ix("raise_caps", [(0, 500)], job=w.job([100])), others)


def accept_seat() -> Stage:
    w = World().open()
    others = crowd(w)
    job = w.job([100], bonds=[70])
    wallet = w.paid_wallet(0, 70)
    accounts = {"wallet": wallet, "source": associated(wallet, w.mint)[0]}
    return Stage(w, w.ix("accept_seat", 0, 70, job=job, accounts=accounts), others)


def commit_round() -> Stage:
    w = World().open()
    others = crowd(w)
    return Stage(w, w.ix("commit_round", 1, b"\1" * 32, job=w.job([100])), others)


def award() -> Stage:
    w = World().open()
    others = crowd(w)
    job = w.job([100])
    w.commit(job)
    return Stage(w, w.ix("award", 1, [(0, 60)], job=job), others)


def matured() -> tuple[World, dict[str, Pubkey], JobRef]:
    """A job with 60 payable to seat 0."""
    w = World().open()
    others = crowd(w)
    job = w.job([100])
    w.paid_wallet(0)
    w.awarded(job, 60)
    w.chain.wait(2 * WINDOW)
    return w, others, job


def pay() -> Stage:
    w, others, job = matured()
    address, bump = associated(w.wallet(0), w.mint)
    return Stage(w, w.ix("pay", [(0, bump)], job=job, extra=[address]), others)


def pay_to() -> Stage:
    w, others, job = matured()
    account = w.other_account("elsewhere", w.wallet(0))
    return Stage(w, w.ix("pay_to", 0, job=job, accounts={"wallet": w.wallet(0), "destination": account}), others)


def dispute() -> Stage:
    w = World().open()
    others = crowd(w)
    job = w.job([100])
    w.awarded(job, 60)
    return Stage(w, w.ix("dispute", [0], job=job), others)


def appeal() -> Stage:
    w = World().open()
    others = crowd(w)
    job = w.job([100])
    w.chain.at(w.read(job).deadline)
    return Stage(w, w.ix("appeal", 0, 50, job=job, accounts={"wallet": w.wallet(0)}), others)


def resolve() -> Stage:
    w = World().open()
    others = crowd(w)
    job = w.job([100])
    w.awarded(job, 60)
    w.ok("dispute", [0], job=job)
    return Stage(w, w.ix("resolve", 0, 20, 0, job=job), others)


def finish_job() -> Stage:
    w = World().open()
    others = crowd(w)
    return Stage(w, w.ix("finish_job", job=w.job([100])), others)


def close_job() -> Stage:
    """A sweep with a fee, a refund and the erasure in one call, so that every account is written."""
    w = World().open()
    others = crowd(w)
    job = w.ref(w.new_id())
    w.ok("open_job", *w.terms(job.id), job=job, payer=sponsor(w))
    w.token_accounts[w.mint].add(job.vault)
    w.jobs.append(job)
    w.seats(job, [500_000])
    w.paid_wallet(0)
    w.awarded(job, 400_000)
    w.chain.wait(DAY)
    assert not w.pay(job, 0).error
    return Stage(w, w.ix("close_job", job=job, accounts={"rent_payer": sponsor(w)}), others)


STAGES: dict[str, Callable[[], Stage]] = {
    f.__name__: f
    for f in (
        initialize, set_config, accept_admin, open_client, set_operator, withdraw, open_job, assign_seats, raise_caps,
        accept_seat, commit_round, award, pay, pay_to, dispute, appeal, resolve, finish_job, close_job,
    )
}  # fmt: skip
