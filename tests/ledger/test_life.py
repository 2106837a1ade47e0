"""A job's whole life on a local chain with the real program; every call twice, done once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from solders.keypair import Keypair

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, ProgramError, ProtocolError
from cloudlinkup.ledger import money, seats
from cloudlinkup.ledger.accounts import token_address

if TYPE_CHECKING:
    from tests.ledger.conftest import Play


async def once(call: Callable[[], Awaitable[list[str]]], sends: int = 1) -> list[str]:
    """Calls twice: the first sends so many transactions, the second none."""
    first = await call()
    assert len(first) == sends
    assert await call() == []
    return first


async def test_a_whole_life_in_which_every_call_is_made_twice(play: Play) -> None:
    ledger, stage, job_key = play.ledger, play.stage, play.key
    operator, verifier, cranker = job_key("operator"), job_key("verifier"), job_key("cranker")
    terms = await play.terms(budget=1_000_000)
    before = await ledger.free_balance(terms["owner"], stage.mint)
    [opened] = await once(lambda: ledger.open_job(**terms))
    with pytest.raises(LedgerError, match="other terms"):
        await ledger.open_job(**{**terms, "budget": 999_999})
    job = ledger.job_address(terms["owner"], terms["mint"], terms["job_id"])
    assert await ledger.free_balance(terms["owner"], stage.mint) == before - 1_000_000

    wallets = await play.wallets(18)
    places = [(one.public, 1_000, 0) for one in wallets]
    [_] = await once(lambda: ledger.assign_seats(operator, operator, job, places[:2]))
    await once(lambda: ledger.assign_seats(operator, operator, job, places), sends=1)
    with pytest.raises(ProtocolError, match="seat 1"):
        await ledger.assign_seats(operator, operator, job, [places[0], places[2]])
    caps = {0: 100_000, 1: 200_000, 2: 500}
    await once(lambda: ledger.raise_caps(operator, job, caps))
    with pytest.raises(LedgerError, match="no seat 18"):
        await ledger.raise_caps(operator, job, {18: 5})
    with pytest.raises(ProgramError) as over:
        await ledger.raise_caps(operator, job, {3: 900_000})
    assert (over.value.code, over.value.name) == (6026, "OverBudget")

    root = b"\x07" * 32
    [committed] = await once(lambda: ledger.commit_round(verifier, job, 1, root))
    with pytest.raises(ProtocolError, match="another root"):
        await ledger.commit_round(verifier, job, 1, b"\x08" * 32)
    slot = await ledger.wait_final(committed)
    at, block_hash = await ledger.block_hash_at_or_after(slot + 1)
    assert at == slot + 1 and len(block_hash) == 32
    found = await ledger.job(job, "finalized")
    assert found is not None and (found.round, found.commit_root, found.commit_slot) == (1, root, slot)

    [awarded] = await once(lambda: ledger.award(verifier, job, 1, {0: 60_000, 1: 150_000}))
    with pytest.raises(ProgramError, match="AwardBelowCurrent"):
        await ledger.award(verifier, job, 1, {0: 50_000})
    assert await ledger.pay(cranker, job) == [], "nothing has matured"
    found = await ledger.job(job)
    assert found is not None and money.pending(found, await ledger.now()) == {0: 60_000, 1: 150_000}
    due = money.next_maturity(found, await ledger.now())
    assert due is not None and 60 < due - await ledger.now() <= 120
    stage.chain.warp(due - await ledger.now())
    [paid] = await once(lambda: ledger.pay(cranker, job))
    assert [await play.balance(one) for one in wallets[:3]] == [60_000, 150_000, 0]

    await once(lambda: ledger.finish_job(operator, job))
    with pytest.raises(ProgramError, match="JobNotEnded"):
        await ledger.close_job(cranker, job)
    stage.chain.warp(2 * 60 + 1)
    fees = await ledger.token_balance(job_key("treasury").public, stage.mint)
    [closed] = await once(lambda: ledger.close_job(cranker, job))
    assert await ledger.free_balance(terms["owner"], stage.mint) == before - 210_000 - 2_100
    assert await ledger.token_balance(job_key("treasury").public, stage.mint) == fees + 2_100
    found = await ledger.job(job)
    assert found is not None and found.owed == 0 and await ledger.vault_balance(found.vault) == 0

    stage.chain.warp(86_400)
    await once(lambda: ledger.close_job(cranker, job))
    assert await ledger.job(job) is None and await seats.read_job(stage.chain.url, job, ledger.program_id) is None
    assert await ledger.pay(cranker, job) == [] == await ledger.finish_job(operator, job)
    with pytest.raises(ProgramError, match="JobIdTime"):
        await ledger.open_job(**{**terms, "deadline": await ledger.now() + 100})

    names = [[event.name for event in await ledger.events(one)] for one in (opened, committed, awarded, paid, closed)]
    assert names == [["JobOpened"], ["RoundCommitted"], ["Awarded"], ["Paid", "Paid"], ["JobSwept"]]
    [sweep] = await ledger.events(closed)
    assert (sweep.data["to_client"], sweep.data["fee"], sweep.data["closed"]) == (787_900, 2_100, False)
    assert (await ledger.events(opened))[0].data["job_id"] == terms["job_id"]


async def test_what_is_set_up_once_is_set_up_once(play: Play) -> None:
    ledger, stage = play.ledger, play.stage
    owner, admin = Signer(Keypair()), play.key("admin")
    await ledger.airdrop(owner.public, 10**9)
    config = await ledger.config()
    same: dict[str, Any] = {
        "fee_bps": config.fee_bps,
        "min_window": config.min_window,
        "arbiter_window": config.arbiter_window,
    }
    parties = {"admin": config.admin, "arbiter": config.arbiter, "treasury": config.treasury}
    assert await ledger.initialize(play.key("authority"), **parties, **same) == []
    with pytest.raises(LedgerError, match="other terms"):
        await ledger.initialize(play.key("authority"), **parties, **{**same, "fee_bps": 7})
    assert await ledger.set_config(admin, fee_bps=config.fee_bps, arbiter=config.arbiter) == []

    await once(lambda: ledger.open_client(owner, stage.mint))
    await once(lambda: ledger.create_token_account(owner, owner.public, stage.mint))
    await ledger.mint_to(admin, stage.mint, owner.public, 500)
    for _ in range(2):  # equal amounts, at once: both arrive
        await ledger.deposit(owner, stage.mint, 200)
    assert await ledger.free_balance(owner.public, stage.mint) == 400
    limits = {
        "operator": play.key("operator").public,
        "verifier": play.key("verifier").public,
        "max_per_job": 300,
        "allowance": 350,
        "expires": await ledger.now() + 1_000,
    }
    await once(lambda: ledger.set_operator(owner, stage.mint, **limits))
    await ledger.withdraw(owner, stage.mint, 100)
    assert await ledger.token_balance(owner.public, stage.mint) == 200
    with pytest.raises(ProgramError, match="InsufficientFunds"):
        await ledger.withdraw(owner, stage.mint, 301)
    with pytest.raises(LedgerError, match="insufficient funds"):
        await ledger.deposit(owner, stage.mint, 201)
    assert await ledger.mint_decimals(stage.mint) == 6
    assert await ledger.create_mint(admin, 6, mint=Signer(Keypair())) != (stage.mint, [])


async def test_the_admin_hands_over(play: Play) -> None:
    ledger, admin, heir = play.ledger, play.key("admin"), Signer(Keypair())
    await once(lambda: ledger.set_config(admin, pending_admin=heir.public))
    await once(lambda: ledger.accept_admin(heir, payer=admin))
    await once(lambda: ledger.set_config(heir, pending_admin=admin.public, payer=admin))
    await once(lambda: ledger.accept_admin(admin))
    with pytest.raises(ProgramError, match="Unauthorized"):
        await ledger.set_config(heir, fee_bps=1, payer=admin)


async def test_bonds_disputes_rulings_and_appeals(play: Play) -> None:
    ledger, stage = play.ledger, play.stage
    operator, verifier, arbiter, sponsor = (play.key(one) for one in ("operator", "verifier", "arbiter", "sponsor"))
    job = await play.open(lasts=600)
    wallets = await play.wallets(3)
    for one in wallets:
        await ledger.mint_to(play.key("admin"), stage.mint, one.public, 1_000)
    await ledger.assign_seats(operator, operator, job, [(one.public, 10_000, 1_000) for one in wallets])
    for seat, one in enumerate(wallets):  # the contributors hold no SOL: a sponsor pays the fee
        await once(lambda one=one, seat=seat: ledger.accept_seat(one, job, seat, payer=sponsor))
    await ledger.commit_round(verifier, job, 1, b"\x01" * 32)
    await ledger.award(verifier, job, 1, {0: 5_000, 1: 5_000})

    await once(lambda: ledger.dispute(operator, job, [0, 1]))
    assert await ledger.award(verifier, job, 1, {0: 6_000}) == [], "nothing is awarded to a seat on hold"
    await ledger.resolve(arbiter, job, 0, 2_000, slash=400)
    with pytest.raises(ProgramError, match="NothingToResolve"):
        await ledger.resolve(arbiter, job, 0, 2_000)
    stage.chain.warp(121)  # the arbiter is silent about seat 1: the award stands
    await ledger.pay(play.key("cranker"), job)
    assert [await play.balance(one) for one in wallets] == [2_000, 5_000, 0]

    found = await ledger.job(job)
    assert found is not None
    stage.chain.warp(found.deadline - await ledger.now() + 1)
    await once(lambda: ledger.appeal(wallets[2], job, 2, 4_000, payer=sponsor))
    await ledger.resolve(arbiter, job, 2, 3_000)
    assert await ledger.pay_to(wallets[2], job, 2, _account(wallets[1], play), payer=sponsor) != []
    assert await ledger.pay_to(wallets[2], job, 2, _account(wallets[1], play), payer=sponsor) == []
    stage.chain.warp(61)
    await once(lambda: ledger.pay(play.key("cranker"), job))
    assert [await play.balance(one) for one in wallets] == [2_600, 9_000, 1_000]


def _account(wallet: Signer, play: Play):

    return token_address(wallet.public, play.stage.mint)[0]


async def test_a_payee_without_an_account_delays_nobody(play: Play) -> None:
    ledger, stage = play.ledger, play.stage
    operator, verifier, cranker = play.key("operator"), play.key("verifier"), play.key("cranker")
    job = await play.open()
    reachable, missing = (await play.wallets(1))[0], (await play.wallets(1, accounts=False))[0]
    await ledger.assign_seats(operator, operator, job, [(missing.public, 100, 0), (reachable.public, 100, 0)])
    await ledger.commit_round(verifier, job, 1, b"\x01" * 32)
    await ledger.award(verifier, job, 1, {0: 100, 1: 100})
    stage.chain.warp(121)
    await once(lambda: ledger.pay(cranker, job))
    assert await play.balance(reachable) == 100
    assert not await ledger.has_token_account(missing.public, stage.mint)
    await ledger.create_token_account(cranker, missing.public, stage.mint)
    assert await ledger.has_token_account(missing.public, stage.mint)
    await once(lambda: ledger.pay(cranker, job))
    assert await play.balance(missing) == 100


async def test_a_job_of_256_seats(play: Play) -> None:
    ledger, stage = play.ledger, play.stage
    operator, verifier, cranker = play.key("operator"), play.key("verifier"), play.key("cranker")
    job, count = await play.open(budget=10_000_000), 256
    wallet = (await play.wallets(1))[0]  # a wallet may hold several seats
    await once(lambda: ledger.assign_seats(operator, cranker, job, [(wallet.public, 0, 0)] * count), sends=16)
    await once(lambda: ledger.raise_caps(operator, job, dict.fromkeys(range(count), 30_000), payer=cranker), sends=4)
    await once(lambda: ledger.commit_round(verifier, job, 1, b"\x01" * 32))
    await once(
        lambda: ledger.award(verifier, job, 1, {seat: 100 + seat for seat in range(count)}, payer=cranker), sends=3
    )
    stage.chain.warp(121)
    await once(lambda: ledger.pay(cranker, job), sends=13)
    assert await play.balance(wallet) == sum(100 + seat for seat in range(count))
    client = ledger.client_address(play.key("owner").public, stage.mint)
    assert job in [address for address, _ in await ledger.jobs(client)]
    agent = await seats.read_job(stage.chain.url, job, ledger.program_id)
    assert agent == await ledger.job(job)
