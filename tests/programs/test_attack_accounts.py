"""Attacks with wrong, forged, swapped and missing accounts, on every instruction."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.rent import Rent
from spl.token import instructions as spl

from tests.programs.chain import LOADER, PROGRAM, SYSTEM, TOKEN, TOKEN_2022, ZERO, associated, idl, key, pda, snake
from tests.programs.scenarios import STAGES, Stage
from tests.programs.world import ARBITER, CONFIG, FEE, PROGRAM_DATA, JobRef, World

ERRORS = set(idl().errors.values())
NAMES = sorted(STAGES)


def change(call: Instruction, index: int, meta: AccountMeta) -> Instruction:
    metas = list(call.accounts)
    metas[index] = meta
    return Instruction(call.program_id, call.data, metas)


def names(name: str, call: Instruction) -> list[str]:
    listed = [snake(a["name"]) for a in idl().instructions[name]["accounts"]]
    return listed + ["destination"] * (len(call.accounts) - len(listed))


def finish(stage: Stage) -> None:
    """After all refusals the honest call still works, and the books balance."""
    outcome = stage.world.send(stage.call)
    assert not outcome.error, (outcome.error, outcome.logs)
    stage.world.check()


@pytest.mark.parametrize("name", NAMES)
def test_01_missing_signature(name: str) -> None:
    stage = STAGES[name]()
    for i, meta in enumerate(stage.call.accounts):
        if meta.is_signer:
            outcome = stage.world.send(change(stage.call, i, AccountMeta(meta.pubkey, False, meta.is_writable)))
            assert outcome.error == "MissingSignature"
    finish(stage)


@pytest.mark.parametrize("name", NAMES)
def test_01_wrong_signer(name: str) -> None:
    """A stranger's valid signature where a role's key belongs."""
    stage = STAGES[name]()
    for i, (meta, role) in enumerate(zip(stage.call.accounts, names(name, stage.call), strict=True)):
        if meta.is_signer and role != "payer":
            thief = stage.world.person("thief")
            outcome = stage.world.send(change(stage.call, i, AccountMeta(thief, True, meta.is_writable)))
            # who opens a client is part of its address
            assert outcome.error == ("WrongAddress" if name == "open_client" else "Unauthorized")
    finish(stage)


@pytest.mark.parametrize("name", NAMES)
def test_02_every_account_replaced_by_one_of_another_kind_or_party(name: str) -> None:
    stage = STAGES[name]()
    world, refused = stage.world, 0
    for i, (meta, role) in enumerate(zip(stage.call.accounts, names(name, stage.call), strict=True)):
        for what, other in stage.others.items():
            if other == meta.pubkey:
                continue
            signs = meta.is_signer and other in world.keys
            if role == "payer" and signs:
                continue  # anybody may pay
            if role == "destination" and name != "pay" and pays_fine(world, other):
                continue  # the owner of the money may send it to any account of the mint
            if what == "another job" and role == "job" and "job_vault" not in names(name, stage.call):
                continue  # the same parties' other job: an honest call on that one
            outcome = world.send(change(stage.call, i, AccountMeta(other, signs, meta.is_writable)))
            known = outcome.error in ERRORS or (role == "source" and outcome.error)
            assert known, f"{role} replaced by {what}: {outcome.error or 'accepted'}"
            refused += 1
    assert refused >= len(stage.call.accounts)
    finish(stage)


WITH_JOB = ["open_job", "assign_seats", "raise_caps", "dispute", "finish_job", "close_job"]


@pytest.mark.parametrize("name", WITH_JOB)
def test_02_another_clients_whole_set_of_accounts_on_this_job(name: str) -> None:
    """Client, its vault and its owner's signature, all genuine and all of another client: the job is not theirs. In
    `close_job` the refund would go to them."""
    stage = STAGES[name]()
    theirs = {
        "client": stage.others["another owner's client"],
        "client_vault": stage.others["another owner's client vault"],
        "authority": stage.others["somebody's wallet"],
    }
    call = stage.call
    for i, role in enumerate(names(name, call)):
        if role in theirs:
            meta = call.accounts[i]
            call = change(call, i, AccountMeta(theirs[role], meta.is_signer, meta.is_writable))
    assert stage.world.send(call).error == "WrongAddress"
    finish(stage)


def pays_fine(world: World, account: Pubkey) -> bool:
    found = world.chain.account(account)
    return (
        found is not None and found.owner == TOKEN and found.data[:32] == bytes(world.mint) and len(found.data) == 165
    )


@pytest.mark.parametrize("name", NAMES)
def test_03_missing_writable_flag(name: str) -> None:
    stage = STAGES[name]()
    for i, meta in enumerate(stage.call.accounts):
        if meta.is_writable:
            outcome = stage.world.send(change(stage.call, i, AccountMeta(meta.pubkey, meta.is_signer, False)))
            assert outcome.error, f"{names(name, stage.call)[i]} was not written"
    finish(stage)


@pytest.mark.parametrize("name", NAMES)
def test_03_too_few_accounts(name: str) -> None:
    stage = STAGES[name]()
    listed = len(idl().instructions[name]["accounts"])
    for count in range(listed):
        call = Instruction(PROGRAM, stage.call.data, list(stage.call.accounts)[:count])
        assert stage.world.send(call).error == "NotEnoughAccountKeys"
    finish(stage)


@pytest.mark.parametrize("name", NAMES)
def test_09_one_account_in_two_places(name: str) -> None:
    """Each account passed a second time in each other place."""
    stage = STAGES[name]()
    metas = list(stage.call.accounts)
    roles = names(name, stage.call)
    for i, meta in enumerate(metas):
        for j, other in enumerate(metas):
            if i == j or meta.pubkey == other.pubkey or (roles[i] == "payer" and other.pubkey in stage.world.keys):
                continue
            signs = meta.is_signer and other.pubkey in stage.world.keys
            outcome = stage.world.send(change(stage.call, i, AccountMeta(other.pubkey, signs, meta.is_writable)))
            assert outcome.error, f"{roles[i]} := {roles[j]}"
    finish(stage)


@pytest.mark.parametrize("name", NAMES)
def test_10_trailing_and_short_data(name: str) -> None:
    stage = STAGES[name]()
    data = bytes(stage.call.data)
    for bad in (data + b"\0", data[:-1], data[:7], data[:1], b""):
        assert stage.world.send(Instruction(PROGRAM, bad, stage.call.accounts)).error == "InvalidData"
    finish(stage)


VECTORS = [n for n in NAMES if any("vec" in str(a["type"]) for a in idl().instructions[n]["args"])]


@pytest.mark.parametrize("name", VECTORS)
def test_10_empty_and_oversized_vectors(name: str) -> None:
    stage = STAGES[name]()
    data = bytes(stage.call.data)
    at = 8 + {"assign_seats": 2, "award": 4}.get(name, 0)  # after `first`, `round`
    assert data[at : at + 4] == struct.pack("<I", 1)
    for count in (0, 2, 2**31, 2**32 - 1):
        bad = data[:at] + struct.pack("<I", count) + data[at + 4 :]
        assert stage.world.send(Instruction(PROGRAM, bad, stage.call.accounts)).error == "InvalidData"
    empty = data[:at] + struct.pack("<I", 0)
    assert stage.world.send(Instruction(PROGRAM, empty, stage.call.accounts)).error == "InvalidData"
    finish(stage)


def test_10_unknown_instruction_and_bad_option_tag(world: World) -> None:
    metas = [AccountMeta(world.admin, True, False), AccountMeta(CONFIG, False, True)]
    assert world.send(Instruction(PROGRAM, b"\7" * 8, metas)).error == "InvalidData"
    good = idl().data("set_config", (None, None, None, None, None, None))
    bad = good[:8] + b"\2" + good[9:]
    assert world.send(Instruction(PROGRAM, bad, metas)).error == "InvalidData"


def test_04_token_2022_mint_is_refused(world: World) -> None:
    mint = world.new_mint("new mint", TOKEN_2022)
    client = pda(b"client", world.owner, mint)
    accounts: dict[str, Any] = {"mint": mint, "client": client, "client_vault": pda(b"vault", client)}
    world.refused("UnsupportedTokenProgram", "open_client", **accounts)
    world.refused("UnsupportedTokenProgram", "open_client", **accounts, token_program=TOKEN_2022)


def test_04_token_2022_account_is_not_a_destination(world: World) -> None:
    """A forged twin: the right mint and owner, but Token-2022 owns it."""
    data = bytes(world.mint) + bytes(world.owner) + struct.pack("<Q", 0) + b"\0" * 36 + b"\1" + b"\0" * 56
    fake = key("token-2022 account").pubkey()
    world.chain.put(fake, data, TOKEN_2022)
    world.refused("BadTokenAccount", "withdraw", 5, destination=fake)


@pytest.mark.parametrize(
    ("what", "data", "owner"),
    [
        ("not a mint", b"\0" * 82, TOKEN),
        ("a token account", b"\1" * 165, TOKEN),
        ("a system account", b"", SYSTEM),
        ("another program's", b"\1" * 82, PROGRAM),
    ],
)
def test_04_not_an_initialised_classic_mint(world: World, what: str, data: bytes, owner: Pubkey) -> None:
    mint = key(what).pubkey()
    world.chain.put(mint, data, owner)
    client = pda(b"client", world.owner, mint)
    world.refused("BadMint", "open_client", mint=mint, client=client, client_vault=pda(b"vault", client))


def test_05_forged_vault_owned_by_the_job(world: World) -> None:
    """A token account whose owner is the job, full of somebody's tokens, is not the job's vault."""
    job = world.job([100_000])
    world.paid_wallet(0)
    world.awarded(job, 100_000)
    world.chain.wait(200)
    forged = world.other_account("forged", job.address)
    world.mint_to(forged, 500)
    address, bump = associated(world.wallet(0), world.mint)
    world.refused("WrongAddress", "pay", [(0, bump)], job=job, job_vault=forged, extra=[address])
    world.refused("WrongAddress", "pay_to", 0, job=job, job_vault=forged, destination=address, wallet=world.wallet(0))
    world.chain.wait(5000)
    world.refused("WrongAddress", "close_job", job=job, job_vault=forged)
    world.refused("WrongAddress", "close_job", job=job, client_vault=world.other_account("mine", world.client))


@pytest.mark.parametrize("lamports", [1, 10_000_000])
def test_06_prefunded_addresses(lamports: int) -> None:
    """Lamports that somebody sent ahead neither block a creation nor are lost."""
    w = World()
    job = JobRef.at(w.client, w.new_id())
    for address in (CONFIG, w.client, w.client_vault, job.address, job.vault):
        w.chain.svm.airdrop(address, lamports)
    w.open()
    w.ok("open_job", *w.terms(job.id), job=job)
    w.jobs.append(job)
    w.token_accounts[w.mint].add(job.vault)
    for address, size in ((CONFIG, 152), (w.client, 208), (w.client_vault, 165), (job.address, 328), (job.vault, 165)):
        found = w.chain.account(address)
        assert found is not None
        assert len(found.data) == size
        assert found.lamports == max(lamports, w.chain.svm.minimum_balance_for_rent_exemption(size))
    w.check()


def test_07_reinitialise(world: World) -> None:
    w = world
    args = (w.stranger, w.stranger, w.stranger, 0, 1, 1)
    w.refused("AccountExists", "initialize", *args)
    w.refused("AccountExists", "open_client")
    job = w.job()
    w.refused("AccountExists", "open_job", *w.terms(job.id), job=job)
    assert w.read_config().admin == w.admin


def test_07_a_vault_that_exists_without_its_parent(world: World) -> None:
    """No such account can come about; forged, it is refused all the same."""
    job = world.ref(world.new_id())
    world.chain.put(job.vault, world.chain.data(world.client_vault), TOKEN)
    world.refused("AccountExists", "open_job", *world.terms(job.id), job=job)
    client = pda(b"client", world.stranger, world.mint)
    vault = pda(b"vault", client)
    world.chain.put(vault, world.chain.data(world.client_vault), TOKEN)
    world.refused("AccountExists", "open_client", owner=world.stranger, client=client, client_vault=vault)


@pytest.mark.parametrize("owner", [PROGRAM, TOKEN])
def test_07_a_parent_that_exists_without_its_vault(world: World, owner: Pubkey) -> None:
    """Nor this; whoever owns it, what is there is not overwritten."""
    job = world.ref(world.new_id())
    world.chain.put(job.address, b"\7" * 328, owner)
    world.refused("AccountExists", "open_job", *world.terms(job.id), job=job)
    client = pda(b"client", world.stranger, world.mint)
    world.chain.put(client, b"\7" * 208, owner)
    accounts: dict[str, Any] = {"owner": world.stranger, "client": client, "client_vault": pda(b"vault", client)}
    world.refused("AccountExists", "open_client", **accounts)


@pytest.mark.parametrize("forgery", ["another authority", "no authority", "a buffer", "too short"])
def test_08_initialize_by_anybody_but_the_upgrade_authority(forgery: str) -> None:
    w = World()
    args = (w.admin, w.arbiter, w.treasury, FEE, 10, ARBITER)
    w.refused("Unauthorized", "initialize", *args, upgrade_authority=w.admin)
    good = w.chain.data(PROGRAM_DATA)
    bad = {
        "another authority": good[:13] + bytes(w.stranger),
        "no authority": good[:12] + b"\0" + good[13:],
        "a buffer": struct.pack("<I", 1) + good[4:],
        "too short": good[:44],
    }[forgery]
    w.chain.put(PROGRAM_DATA, bad, LOADER)
    w.refused("Unauthorized", "initialize", *args)
    w.chain.put(PROGRAM_DATA, good, SYSTEM)
    w.refused("WrongOwner", "initialize", *args)
    w.chain.put(PROGRAM_DATA, good, LOADER)
    fake = key("fake program data").pubkey()
    w.chain.put(fake, good, LOADER)
    w.refused("WrongAddress", "initialize", *args, program_data=fake)
    w.ok("initialize", *args)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"admin": ZERO}, "InvalidData"),
        ({"fee_bps": 1001}, "FeeTooHigh"),
        ({"min_window": 0}, "BadWindow"),
        ({"min_window": 301}, "BadWindow"),
        ({"arbiter_window": 2_592_001}, "BadWindow"),
        ({"fee_bps": 1000, "min_window": 300}, ""),
    ],
)
def test_08_bounds_of_the_first_config(change: dict[str, object], error: str) -> None:
    w = World()
    values = {
        "admin": w.admin, "arbiter": w.arbiter, "treasury": w.treasury, "fee_bps": FEE, "min_window": 10,
        "arbiter_window": ARBITER,
    }  # fmt: skip
    assert w.call("initialize", *(values | change).values()).error == error


@pytest.mark.parametrize(("threshold", "rate"), [(1.0, 6960), (2.0, 3480)])
def test_11_both_forms_of_the_rent_sysvar(threshold: float, rate: int) -> None:
    w = World(rent=Rent(rate, threshold, 50)).open()
    job = w.job([100_000, 100_000])
    for address in (job.address, job.vault, w.client, CONFIG):
        found = w.chain.account(address)
        assert found is not None
        assert found.lamports == (128 + len(found.data)) * 6960
    w.check()


def test_11_an_unknown_rent_is_refused() -> None:
    w = World().open()
    w.chain.svm.set_rent(Rent(6960, 1.5, 50))
    job = w.ref(w.new_id())
    w.refused("UnsupportedSysvar", "open_job", *w.terms(job.id), job=job)


def test_02_accounts_of_the_program_with_a_wrong_length_or_tag(world: World) -> None:
    """Only the program writes these; forged bytes are refused for owner, tag and length, in this order."""
    job = world.job([100])
    good = world.chain.data(job.address)
    for bad, owner, error in (
        (good, SYSTEM, "WrongOwner"),
        (b"\0" * 8 + good[8:], PROGRAM, "WrongAccountType"),
        (good + b"\0", PROGRAM, "WrongAccountType"),
        (good[:-1], PROGRAM, "WrongAccountType"),
        (good[:327], PROGRAM, "WrongAccountType"),
        (good[:4], PROGRAM, "WrongAccountType"),
        (b"", PROGRAM, "WrongAccountType"),
        (good[:324] + struct.pack("<I", 2**31) + good[328:], PROGRAM, "WrongAccountType"),
    ):
        fake = key("forged job").pubkey()
        world.chain.put(fake, bad, owner, lamports=10**9)
        assert world.call("commit_round", 1, b"\1" * 32, job=JobRef(job.id, fake, job.vault, job.client)).error == error


def test_10_a_destination_too_many_or_too_few(world: World) -> None:
    job = world.job([100])
    address, bump = associated(world.wallet(0), world.mint)
    world.refused("InvalidData", "pay", [(0, bump)], job=job, extra=[])
    world.refused("InvalidData", "pay", [(0, bump)], job=job, extra=[address, address])


def test_04_no_clock_before_1970(world: World) -> None:
    job = world.job([100])
    world.chain.at(0)
    world.refused("UnsupportedSysvar", "commit_round", 1, b"\1" * 32, job=job)


def test_09_spl_helpers_are_the_real_token_program(world: World) -> None:
    """The tests' own ground: a transfer by somebody who is not the owner fails in the token program."""
    account = world.token_account(world.owner)
    outcome = world.send(
        spl.transfer(spl.TransferParams(program_id=TOKEN, source=account, dest=account, owner=world.stranger, amount=1))
    )
    assert outcome.error
