"""Attacks by and on clients: allowances, replays, job ids, changed terms, budgets, withdrawals, disappearance."""

from __future__ import annotations

import pytest

from tests.programs.chain import U64, ZERO, associated
from tests.programs.world import ARBITER, BUDGET, DAY, FEE, FUNDS, WINDOW, World, fee


def open_job(w: World, **change: object) -> str:
    """Tries to open a job with changed terms; the error's name, '' when it opened."""
    job = w.ref(w.new_id())
    outcome = w.call("open_job", *w.terms(job.id, **change), job=job)
    if not outcome.error:
        w.jobs.append(job)
        w.token_accounts[w.mint].add(job.vault)
    return outcome.error


def set_operator(w: World, **change: object) -> str:
    values = {
        "operator": w.operator, "verifier": w.verifier, "max_per_job": BUDGET, "allowance": BUDGET,
        "expires": w.chain.now + DAY, "expected_seq": w.read_client().seq,
    }  # fmt: skip
    return w.call("set_operator", *(values | change).values()).error


def test_12_allowance_per_job_and_in_all(world: World) -> None:
    assert open_job(world, budget=BUDGET + 1) == "AllowanceExceeded"
    assert set_operator(world, allowance=BUDGET + 5) == ""
    assert open_job(world) == ""
    assert open_job(world, budget=6) == "AllowanceExceeded"
    assert open_job(world, budget=5) == ""
    assert open_job(world, budget=1) == "AllowanceExceeded"
    assert world.read_client().allowance_left == 0


def test_12_allowance_ends_at_its_second(world: World) -> None:
    expires = world.chain.now + 50
    assert set_operator(world, expires=expires) == ""
    world.chain.at(expires - 1)
    assert open_job(world, budget=1) == ""
    world.chain.at(expires)
    assert open_job(world, budget=1) == "AllowanceExpired"


def test_12_a_refund_does_not_restore_the_allowance(world: World) -> None:
    assert set_operator(world) == ""
    job = world.job()
    world.ok("finish_job", job=job)
    world.chain.wait(WINDOW)
    world.ok("close_job", job=job)
    assert world.tokens(world.client_vault) == FUNDS
    assert open_job(world, budget=1) == "AllowanceExceeded"


def test_12_revocation_ends_the_operators_power_over_open_jobs(world: World) -> None:
    job = world.job([100])
    assert set_operator(world, operator=world.stranger) == ""
    for name, args in (
        ("assign_seats", (1, [(bytes(world.wallet(1)), 1, 0)])),
        ("raise_caps", ([(0, 200)],)),
        ("dispute", ([0],)),
        ("finish_job", ()),
    ):
        world.refused("Unauthorized", name, *args, job=job)
    assert open_job(world) == "Unauthorized"
    world.ok("raise_caps", [(0, 200)], job=job, authority=world.stranger)
    assert set_operator(world, operator=ZERO) == ""
    world.refused("Unauthorized", "raise_caps", [(0, 300)], job=job, authority=world.stranger)
    world.ok("raise_caps", [(0, 300)], job=job, authority=world.owner)


def test_12_unapproved_verifier(world: World) -> None:
    assert open_job(world, verifier=world.stranger) == "VerifierNotApproved"
    job = world.ref(world.new_id())
    world.ok("open_job", *world.terms(job.id, verifier=world.stranger), job=job, authority=world.owner)
    world.jobs.append(job)
    world.token_accounts[world.mint].add(job.vault)


def test_12_the_owner_is_not_bound_by_the_allowance(world: World) -> None:
    assert set_operator(world, allowance=0, max_per_job=0, expires=0) == ""
    job = world.job(budget=FUNDS, authority=world.owner)
    assert world.tokens(job.vault) == FUNDS


def test_13_set_operator_replayed(world: World) -> None:
    seq = world.read_client().seq
    assert set_operator(world) == ""
    assert set_operator(world, expected_seq=seq) == "StaleSequence"
    assert set_operator(world, expected_seq=seq + 2) == "StaleSequence"


def test_13_set_operator_raced_by_an_open_job(world: World) -> None:
    """The owner read `left`, then the operator spent it: the top-up must not land on stale numbers."""
    seq = world.read_client().seq
    world.job()
    assert set_operator(world, expected_seq=seq) == "StaleSequence"


def test_14_the_same_job_id_twice(world: World) -> None:
    job = world.job()
    world.refused("AccountExists", "open_job", *world.terms(job.id), job=job)
    world.ok("finish_job", job=job)
    world.chain.wait(WINDOW)
    assert not world.ok("close_job", job=job).events[-1].closed  # its id could still be opened
    world.refused("AccountExists", "open_job", *world.terms(job.id), job=job)
    world.chain.wait(DAY)
    assert world.ok("close_job", job=job).events[-1].closed
    world.refused("JobIdTime", "open_job", *world.terms(job.id), job=job)


@pytest.mark.parametrize(("late", "error"), [(-301, "JobIdTime"), (-300, ""), (86_399, ""), (86_400, "JobIdTime")])
def test_14_edges_of_the_id_window(world: World, late: int, error: str) -> None:
    """The id's time is `late` seconds before now."""
    job = world.ref(world.new_id(at=world.chain.now - late))
    assert world.call("open_job", *world.terms(job.id), job=job).error == error
    if not error:
        world.jobs.append(job)
        world.token_accounts[world.mint].add(job.vault)


def test_14_a_job_is_erased_from_the_last_second_of_its_id_on(world: World) -> None:
    job = world.job()
    opened = world.chain.now
    world.ok("finish_job", job=job)
    world.chain.at(opened + DAY - 1)
    assert not world.ok("close_job", job=job).events[-1].closed
    world.refused("AccountExists", "open_job", *world.terms(job.id), job=job)
    world.chain.at(opened + DAY)
    assert world.ok("close_job", job=job).events[-1].closed
    world.refused("JobIdTime", "open_job", *world.terms(job.id), job=job)


@pytest.mark.parametrize("change", [{"fee_bps": FEE + 1}, {"arbiter_window": ARBITER + 1}])
def test_15_terms_changed_between_signing_and_landing(world: World, change: dict[str, int]) -> None:
    values = {"arbiter": None, "treasury": None, "fee_bps": None, "min_window": None, "arbiter_window": None}
    world.ok("set_config", *(values | change).values(), None)
    assert open_job(world) == "TermsChanged"
    assert open_job(world, **change) == ""


def test_15_bounds_of_windows_and_deadline(world: World) -> None:
    now = world.chain.now
    assert open_job(world, dispute_window=9) == "BadWindow"
    assert open_job(world, dispute_window=2_592_001) == "BadWindow"
    assert open_job(world, dispute_window=2_592_000, budget=1) == ""
    assert open_job(world, dispute_window=10, budget=1) == ""
    assert open_job(world, deadline=now) == "BadDeadline"
    assert open_job(world, deadline=now + 31_622_401) == "BadDeadline"
    assert open_job(world, deadline=now + 31_622_400, budget=1) == ""
    assert open_job(world, deadline=now + 1, budget=1) == ""
    assert open_job(world, budget=0) == "ZeroAmount"


@pytest.mark.parametrize("bps", [0, 1, 250, 1000])
def test_16_caps_one_unit_over_budget(bps: int) -> None:
    w = World(fee_bps=bps).open()
    job = w.job(budget=999_983)
    most = max(c for c in range(900_000, 1_000_000) if c + fee(c, bps) <= 999_983)
    wallet = bytes(w.wallet(0))
    w.refused("OverBudget", "assign_seats", 0, [(wallet, most, 0), (wallet, 1, 0)], job=job)
    w.ok("assign_seats", 0, [(wallet, most - 1, 0), (wallet, 1, 0)], job=job)
    w.refused("OverBudget", "raise_caps", [(1, 2)], job=job)
    w.refused("OverBudget", "assign_seats", 2, [(wallet, 1, 0)], job=job)
    w.ok("assign_seats", 2, [(wallet, 0, 0)], job=job)
    w.check()


@pytest.mark.parametrize("bps", [0, 1000])
def test_16_u64_extremes(bps: int) -> None:
    w = World(fee_bps=bps).open()
    w.mint_to(w.client_vault, U64 - FUNDS)
    job = w.job(budget=U64, authority=w.owner)
    wallet = bytes(w.paid_wallet(0))
    most = U64 if bps == 0 else next(c for c in range(U64 * 10 // 11 + 5, 0, -1) if c + fee(c, bps) <= U64)
    for caps in ([U64, 1], [U64, U64]):
        w.refused("MathOverflow", "assign_seats", 0, [(wallet, c, 0) for c in caps], job=job)
    if bps:
        w.refused("MathOverflow", "assign_seats", 0, [(wallet, most + 1, 0)], job=job)
    w.ok("assign_seats", 0, [(wallet, most, 0)], job=job)
    w.awarded(job, most)
    w.chain.wait(DAY)
    assert not w.pay(job, 0).error
    assert w.ok("close_job", job=job).events[-1].closed
    assert w.tokens(w.wallet(0)) == most
    assert w.tokens(w.treasury) == fee(most, bps)
    w.check()


def test_17_assign_seats_retried(world: World) -> None:
    job = world.job([100, 200])
    wallet = bytes(world.wallet(5))
    for first in (0, 1, 3):
        world.refused("BadSeatIndex", "assign_seats", first, [(wallet, 1, 0)], job=job)
    world.ok("assign_seats", 2, [(wallet, 1, 0)], job=job)
    world.refused("BadSeatIndex", "assign_seats", 2, [(wallet, 1, 0)], job=job)
    assert len(world.read(job).seats) == 3


def test_18_cap_lowered_after_work(world: World) -> None:
    job = world.job([100, 200])
    world.refused("CapBelowCurrent", "raise_caps", [(1, 199)], job=job, authority=world.owner)
    world.ok("raise_caps", [(1, 200), (0, 101)], job=job)
    assert world.read(job).caps_total == 301
    world.refused("BadSeatIndex", "raise_caps", [(2, 5)], job=job)


def test_18_seats_and_caps_stop_at_the_deadline(world: World) -> None:
    job = world.job([100], bonds=[5])
    wallet = world.paid_wallet(0, 5)
    world.chain.at(world.read(job).deadline)
    world.refused("JobEnded", "raise_caps", [(0, 101)], job=job)
    world.refused("JobEnded", "assign_seats", 1, [(bytes(wallet), 1, 0)], job=job)
    world.refused("JobEnded", "finish_job", job=job)
    source = associated(wallet, world.mint)[0]
    world.refused("JobEnded", "accept_seat", 0, 5, job=job, wallet=wallet, source=source)
    world.chain.at(world.read(job).deadline - 1)
    world.ok("raise_caps", [(0, 101)], job=job)


def test_19_withdraw_while_jobs_run(world: World) -> None:
    job = world.job([900_000])
    mine = world.token_account(world.owner)
    world.refused("InsufficientFunds", "withdraw", FUNDS - BUDGET + 1, destination=mine)
    world.refused("ZeroAmount", "withdraw", 0, destination=mine)
    world.refused("BadTokenAccount", "withdraw", 1, destination=world.client_vault)
    world.refused("WrongAddress", "withdraw", 1, destination=mine, client_vault=job.vault)
    world.ok("withdraw", FUNDS - BUDGET, destination=mine)
    assert world.tokens(job.vault) == BUDGET
    assert open_job(world, budget=1) == "InsufficientFunds"


def test_20_vanished_client(world: World) -> None:
    """Neither owner nor operator signs again: contributors are paid and strangers close the job."""
    job = world.job([400_000, 300_000])
    world.paid_wallet(0)
    world.paid_wallet(1)
    world.awarded(job, 400_000, 100_000)
    world.chain.at(world.read(job).deadline)
    world.ok("appeal", 1, 300_000, job=job, wallet=world.wallet(1))
    world.ok("resolve", 1, 250_000, 0, job=job)
    world.chain.wait(DAY)
    assert not world.pay(job, 0, 1).error
    assert world.ok("close_job", job=job).events[-1].closed
    assert world.tokens(world.wallet(0)) == 400_000
    assert world.tokens(world.wallet(1)) == 250_000
    assert world.tokens(world.client_vault) == FUNDS - 650_000 - fee(650_000, FEE)
