"""Sweeping on a real local chain: what a dead flow left is paid, closed and erased, by strangers, also two at once."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.home import Settings
from cloudlinkup.ledger.accounts import OPEN_WINDOW
from cloudlinkup.ledger.escrow import Ledger
from cloudlinkup.ledger.sweeping import sweep, sweep_job
from flows.sweep_escrows import sweep_escrows
from tasks.context import Run
from tasks.escrow import uuid7
from tasks.release import dispute_rejected
from tasks.state import RoundState
from tasks.sweep import line, summary

if TYPE_CHECKING:
    from tests.conftest import Localnet, LocalStack, Platform

# Prefect's own client leaves its sockets to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

ESCROW = Path(__file__).resolve().parents[2] / "programs" / "escrow.so"
WINDOW, ARBITER = 60, 120


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, localnet: Localnet, make_platform: Callable[..., Platform]
) -> Iterator[Platform]:
    """A chain whose clock these tests warp."""
    folder = tmp_path_factory.mktemp("sweep")
    chain = type(localnet)(folder / "chain.db", program=ESCROW, slot_ms=20).start()
    yield make_platform(chain, min_window=WINDOW, arbiter_window=ARBITER)
    chain.stop()


@pytest.fixture
async def ledger(stage: Platform) -> AsyncIterator[Ledger]:
    async with Ledger.connect(stage.chain.url, stage.chain.program_id, poll=0.01) as one:
        yield one


async def abandoned(ledger: Ledger, stage: Platform, awards: dict[int, int], *, reachable: int) -> Pubkey:
    """A job that its flow left after the awards; the first `reachable` wallets have token accounts."""
    keys, now = stage.keys, await ledger.now()
    terms: dict[str, Any] = {"spec_hash": secrets.token_bytes(32), "budget": 10_000, "deadline": now + 600}
    terms |= {"dispute_window": WINDOW, "arbiter_window": ARBITER, "fee_bps": stage.fee_bps}
    roles: dict[str, Any] = {"authority": keys["operator"], "payer": keys["operator"]}
    job_id, verifier, owner = uuid7(now), keys["verifier"], keys["owner"].public
    await ledger.open_job(owner=owner, mint=stage.mint, job_id=job_id, verifier=verifier.public, **roles, **terms)
    job = ledger.job_address(owner, stage.mint, job_id)
    wallets = [Keypair().pubkey() for _ in awards]
    for wallet in wallets[:reachable]:
        await ledger.create_token_account(keys["sponsor"], wallet, stage.mint)
    await ledger.assign_seats(keys["operator"], keys["operator"], job, [(one, 1_000, 0) for one in wallets])
    await ledger.commit_round(verifier, job, 1, bytes(32))
    await ledger.award(verifier, job, 1, awards)
    return job


async def test_a_dead_flows_job_is_paid_closed_and_erased(ledger: Ledger, stage: Platform) -> None:
    owner, cranker = stage.keys["owner"].public, Signer(Keypair())  # a key that has no role, and only fees to spend
    await ledger.airdrop(cranker.public, 10**9)
    before, treasury = await ledger.free_balance(owner, stage.mint), stage.keys["treasury"].public
    fees, sol = await ledger.token_balance(treasury, stage.mint), await ledger.lamports(stage.keys["operator"].public)
    job = await abandoned(ledger, stage, {0: 700, 1: 200}, reachable=2)

    early = await sweep_job(ledger, cranker, job)
    assert (early.paid, early.left, early.erased, early.problem) == (0, 900, False, "")
    assert not early.did_something and early.next is not None
    stage.chain.warp(2 * WINDOW)
    matured = await sweep_job(ledger, cranker, job)
    assert (matured.paid, matured.left, matured.to_client) == (900, 0, 0), "paid long before the end"
    assert not (await sweep_job(ledger, cranker, job)).did_something, "nothing twice"
    stage.chain.warp(600 + WINDOW)
    ended = await sweep_job(ledger, cranker, job)
    assert (ended.fee, ended.to_client, ended.erased, ended.rent) == (9, 10_000 - 909, False, 0)
    assert await ledger.free_balance(owner, stage.mint) == before - 909
    assert await ledger.token_balance(treasury, stage.mint) == fees + 9
    stage.chain.warp(OPEN_WINDOW)
    last = await sweep_job(ledger, cranker, job)
    assert last.erased and last.rent > 0 and await ledger.job(job) is None
    spent = sol - await ledger.lamports(stage.keys["operator"].public)
    assert 0 < spent < last.rent, "the rent is back with the operator, who paid it; signatures cost less"
    assert (await sweep_job(ledger, cranker, job)).erased


async def test_two_sweepers_at_once(ledger: Ledger, stage: Platform) -> None:
    """Both end well, the money moves once, and neither stops at a seat that cannot be paid."""
    keys = [stage.keys["cranker"], stage.keys["sponsor"]]
    owner = stage.keys["owner"].public
    before = await ledger.free_balance(owner, stage.mint)
    jobs = [await abandoned(ledger, stage, {0: 500, 1: 100}, reachable=1) for _ in range(2)]
    stage.chain.warp(600 + 2 * WINDOW)
    client = ledger.client_address(owner, stage.mint)
    both = await asyncio.gather(*(sweep(ledger, key, client) for key in keys))
    for swept in both:
        assert {one.job for one in swept} >= set(jobs) and not any(one.problem for one in swept)
    for job in jobs:
        found = await ledger.job(job)
        assert found is not None and [seat.paid for seat in found.seats] == [500, 0]
        seen = [one for swept in both for one in swept if one.job == job]
        assert sum(one.paid for one in seen) == 500 and all(one.unpayable == (1,) for one in seen)
        assert sum(one.to_client for one in seen) == 10_000 - 600 - 6 and {one.left for one in seen} == {100}
    assert await ledger.free_balance(owner, stage.mint) == before - 2 * 606
    text = summary(both[0], 6)
    assert "0 with a problem" in text and line(both[0][0], 6)["state"] == "open"


async def test_a_sweeper_without_sol_says_so_and_others_go_on(ledger: Ledger, stage: Platform) -> None:
    job = await abandoned(ledger, stage, {0: 500}, reachable=1)
    stage.chain.warp(2 * WINDOW)
    poor = await sweep_job(ledger, Signer(Keypair()), job)
    assert "Fix: send it SOL" in poor.problem and poor.left == 500 and not poor.did_something
    assert (await sweep_job(ledger, stage.keys["cranker"], job)).paid == 500


async def test_the_flow_sweeps_this_stacks_jobs_and_writes_a_table(
    ledger: Ledger, stage: Platform, local_stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await abandoned(ledger, stage, {0: 300}, reachable=1)
    stage.chain.warp(2 * WINDOW)
    home = tmp_path / "home"
    (home / "keys").mkdir(parents=True)
    key = home / "keys" / "cranker.json"
    key.touch(mode=0o600)
    key.write_text(json.dumps(list(bytes(stage.keys["cranker"].keypair))))
    for name, value in {"HOME": home, "RPC_URL": stage.chain.url, "MINT": stage.mint}.items():
        monkeypatch.setenv(f"CLOUDLINKUP_{name}", str(value))
    monkeypatch.setenv("CLOUDLINKUP_OWNER", str(stage.keys["owner"].public))
    assert Settings.load().owner_key == stage.keys["owner"].public
    local_stack.up()
    api = json.loads(local_stack.home.stack.read_text())["prefect_api"]
    with temporary_settings({PREFECT_API_URL: api}):
        sentence = await sweep_escrows()
    async with httpx.AsyncClient(timeout=10) as client:
        artifacts = (await client.post(f"{api}/artifacts/filter", json={})).json()
    [artifact] = [one for one in artifacts if one["key"] == "sweep-escrows" and one["description"] == sentence]
    assert "paid 0.0003" in sentence
    [row] = [row for row in json.loads(artifact["data"]) if row["job"] == str(job)]
    assert row["paid"] == "0.0003" and row["problem"] == ""


async def test_a_rejection_disputes_what_is_immature_of_that_wallet(ledger: Ledger, stage: Platform) -> None:
    job = await abandoned(ledger, stage, {0: 300, 1: 400}, reachable=2)
    found = await ledger.job(job)
    assert found is not None
    events: list[tuple[str, dict[str, Any]]] = []
    wallets = [str(seat.wallet) for seat in found.seats]
    run = SimpleNamespace(
        ledger=ledger,
        account=job,
        operator=stage.keys["operator"],
        round=SimpleNamespace(round=2, entries=[SimpleNamespace(seat=1, outcome="rejected")]),
        state=SimpleNamespace(seats=[SimpleNamespace(seat=i, wallet=one) for i, one in enumerate(wallets)]),
        sent=lambda stage_, signatures: events.append((stage_, {"count": len(signatures)})),
        event=lambda kind, **data: events.append((kind, data)),
    )
    for _ in range(2):
        await dispute_rejected(cast(Run, run), cast(RoundState, run.round))
    assert events == [("dispute", {"count": 1}), ("disputed", {"round": 2, "seats": {"1": "400"}})], "once"
    after = await ledger.job(job)
    assert after is not None and [bool(seat.disputed_at) for seat in after.seats] == [False, True]
    stage.chain.warp(2 * WINDOW)
    run.round.entries = [SimpleNamespace(seat=0, outcome="rejected")]
    await dispute_rejected(cast(Run, run), cast(RoundState, run.round))
    assert len(events) == 2, "what has matured stays payable"
