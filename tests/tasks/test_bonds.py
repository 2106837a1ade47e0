"""Bonds from end to end: real contributors post them, train and are audited, on a real chain with the real program."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from solders.pubkey import Pubkey

from cloudlinkup.agent.bond import Agreed, poster
from cloudlinkup.agent.chain import RpcChain
from cloudlinkup.agent.handler import Handler
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home, Settings
from cloudlinkup.ledger.escrow import Ledger
from deployments.local import asked
from tasks.awards import read_job
from tasks.context import Run
from tasks.escrow import dispute_window, escrow_lock, write_seats
from tasks.release import dispute_rejected, release
from tasks.settle import _wait_and_pay
from tasks.train import order_round, train_round
from tasks.verify import verify_round
from tests.conftest import Platform
from tests.tasks.conftest import STEP, Rig
from tests.tasks.test_ending import PLAN

BOND, HELD = 5_000, 20_000  # base units: asked a seat, and in each wallet
PAY = 3 * STEP * 7  # for the three segments of a round


def handlers(rig: Rig) -> list[Handler]:
    return [one.handler for one in rig.cluster.by_agent.values()]


@pytest.fixture
async def job(rig: Rig, platform: Platform) -> AsyncIterator[Run]:
    """A job that asks for a bond, locked, with a seat for each of two contributors, who hold enough and no SOL."""
    run, keys, chain = rig.run, platform.keys, platform.chain
    async with Ledger.connect(chain.url, chain.program_id, poll=0.02) as ledger:
        run.ledger, run.mint, run.owner, run.decimals = ledger, platform.mint, keys["owner"].public, 6
        run.operator, run.verifier, run.sponsor, run.cranker = (
            keys[one] for one in ("operator", "verifier", "sponsor", "cranker")
        )
        run.genesis = await ledger.genesis()
        settings = {"rpc_url": chain.url, "mint": str(platform.mint), "owner": str(keys["owner"].public)}
        run.settings = replace(run.settings, **settings, bond="0.005", challenge_delay=1)
        run.state.plan, run.state.total_steps = json.loads(PLAN.model_dump_json()), PLAN.total_steps
        run.state.quote, run.state.terms = {"p90_seconds": 10}, None
        for handler in handlers(rig):
            wallet = handler.identity.own_wallet
            assert wallet is not None
            await ledger.mint_to(keys["admin"], platform.mint, wallet.public, HELD, payer=keys["sponsor"])
            handler._chain = RpcChain(chain.url, str(chain.program_id))
            handler._post = poster(chain.url, str(chain.program_id), wallet, lambda: keys["sponsor"])
            agreed = Agreed(mint=str(platform.mint), bond=BOND)
            handler.terms = replace(handler.terms, genesis=run.genesis, agreed=agreed)
        await escrow_lock.fn(run)
        yield run


async def held(run: Run) -> list[int]:
    """What the seats' wallets hold."""
    return [await run.ledger.token_balance(Pubkey.from_string(seat.wallet), run.mint) for seat in run.state.seats]


async def trained(rig: Rig) -> list[str]:
    """Round 1 as `train` and `verify` run it; the outcomes by seat."""
    run = rig.run
    await rig.begin(segments=3)
    await order_round.fn(run)
    await train_round.fn(run)
    await verify_round.fn(run)
    assert run.round is not None
    return [entry.outcome for entry in run.round.entries]


async def settled(run: Run) -> None:
    await run.ledger.finish_job(run.operator, run.account)
    await _wait_and_pay(run, await read_job(run))


async def test_bonds_are_posted_before_work_and_come_back_with_the_pay(job: Run, rig: Rig):
    before = await read_job(job)
    assert [(seat.state, seat.bond) for seat in before.seats] == [(0, BOND), (0, BOND)]
    await write_seats(job)
    assert len((await read_job(job)).seats) == 2, "a repeat appends nothing"
    assert await trained(rig) == ["accepted", "accepted"]
    assert [(seat.state, seat.bond) for seat in (await read_job(job)).seats] == [(1, BOND), (1, BOND)]
    assert await held(job) == [HELD - BOND] * 2
    await release.fn(job)
    await settled(job)
    assert await held(job) == [HELD + PAY] * 2
    end = await job.ledger.job(job.account)
    assert end is not None and await job.ledger.vault_balance(end.vault) == 0


async def test_a_bond_above_the_limit_is_not_posted_and_the_seat_not_worked_on(job: Run, rig: Rig):
    first, second = handlers(rig)
    first.terms = replace(first.terms, agreed=replace(first.terms.agreed, bond=BOND - 1))
    assert await trained(rig) == ["refused", "accepted"]
    assert job.round is not None and "seat" in job.round.entries[0].reason
    await release.fn(job)
    found = await read_job(job)
    assert [(seat.state, seat.awarded) for seat in found.seats] == [(0, 0), (1, PAY)]
    await settled(job)
    assert await held(job) == [HELD, HELD + PAY], "nobody's failure holds up the other's money"
    assert second.terms.agreed.bond == BOND


async def test_a_wallet_without_the_tokens_or_without_its_key_here_refuses(job: Run, rig: Rig, platform: Platform):
    poor, elsewhere = handlers(rig)
    assert poor.identity.own_wallet is not None
    elsewhere._post = None
    target = platform.keys["treasury"].public
    await _empty(job, platform, poor.identity.own_wallet, target)
    assert await trained(rig) == ["refused", "refused"]
    assert job.round is not None and job.round.stage == "verified"
    await release.fn(job)
    assert (await read_job(job)).round == 0, "nothing came, so nothing was committed"


async def test_whoever_works_without_its_bond_is_not_paid_and_stops_nobody(job: Run, rig: Rig):
    cheat, _ = handlers(rig)

    async def pretend(_: str, __: int) -> None:
        """Says that it posted."""

    cheat._post = pretend
    assert await trained(rig) == ["refused", "accepted"]
    assert job.round is not None and job.round.entries[0].reason == "its bond is not posted"
    await release.fn(job)
    assert [seat.awarded for seat in (await read_job(job)).seats] == [0, PAY]


async def test_the_bond_of_a_cheat_is_held_and_lost_by_a_ruling(job: Run, rig: Rig, platform: Platform):
    assert await trained(rig) == ["accepted", "accepted"]
    assert job.round is not None
    job.round.entries[0].outcome = "rejected"  # as `verify` leaves a seat whose replay differed
    await release.fn(job)
    found = await read_job(job)
    assert [bool(seat.disputed_at) for seat in found.seats] == [True, False]
    assert [seat.awarded for seat in found.seats] == [0, PAY]
    await job.ledger.resolve(platform.keys["arbiter"], job.account, 0, 0, slash=4_000)
    free = await job.ledger.free_balance(job.owner, job.mint)
    await settled(job)
    assert await held(job) == [HELD - 4_000, HELD + PAY]
    terms = job.state.terms
    assert terms is not None
    fee = PAY * platform.fee_bps // 10_000
    assert await job.ledger.free_balance(job.owner, job.mint) == free + terms.budget - PAY - fee + 4_000
    assert [event.kind for event in job.store.events(job.request_id)].count("disputed") == 1
    await dispute_rejected(job, job.round)  # the job is over: there is nothing to hold any more


@pytest.mark.parametrize(
    ("agreed", "words"),
    [
        (Agreed(mint=str(Pubkey.default()), bond=BOND), "pays in"),
        (Agreed(longest_window=1, bond=BOND), "arbiter window"),
    ],
)
async def test_terms_that_do_not_fit_are_refused_before_the_bond(job: Run, rig: Rig, agreed: Agreed, words: str):
    reports: list[dict[str, object]] = []
    for handler in handlers(rig):
        handler.terms = replace(handler.terms, agreed=agreed)
        handler._report = lambda event, facts: reports.append(facts) if event == "refused" else None
    assert await trained(rig) == ["refused", "refused"]
    assert all(words in str(facts["detail"]) for facts in reports) and len(reports) == 2
    assert await held(job) == [HELD, HELD]


def test_the_window_is_the_configured_one_within_the_programs_bounds():
    assert dispute_window(0, 60) == 60
    assert dispute_window(10, 60) == 60
    assert dispute_window(3_600, 60) == 3_600
    with pytest.raises(BadInput, match="DISPUTE_WINDOW"):
        dispute_window(2_592_001, 60)


def test_what_up_is_given_reaches_the_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLOUDLINKUP_BOND", "2.5")
    monkeypatch.setenv("CLOUDLINKUP_DISPUTE_WINDOW", "90")
    home = Home(tmp_path).make()
    home.stack.write_text(json.dumps(asked()))
    for name in ("BOND", "DISPUTE_WINDOW"):
        monkeypatch.delenv(f"CLOUDLINKUP_{name}")
    settings = Settings.load(home)
    assert (settings.bond, settings.dispute_window) == ("2.5", 90)
    monkeypatch.setenv("CLOUDLINKUP_DISPUTE_WINDOW", "1.5")
    with pytest.raises(BadInput, match="not a whole number"):
        Settings.load(home)


async def _empty(run: Run, platform: Platform, wallet: Signer, target: Pubkey) -> None:
    """Sends all that the wallet holds away."""
    from spl.token.instructions import TransferParams, transfer

    from cloudlinkup.ledger.accounts import TOKEN_PROGRAM, token_address

    source, dest = token_address(wallet.public, run.mint)[0], token_address(target, run.mint)[0]
    move = transfer(
        TransferParams(program_id=TOKEN_PROGRAM, source=source, dest=dest, owner=wallet.public, amount=HELD)
    )
    await run.ledger._rpc.send([move], platform.keys["sponsor"], [wallet], units=50_000)
