"""Nodes that are late, lossy, behind, or none at all: a clear word, nothing half done, and a repeat completes it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from solders.keypair import Keypair

from cloudlinkup.crypto.external import CommandSigner
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput, LedgerError, NotConfirmed, Unavailable
from cloudlinkup.ledger.escrow import Ledger
from tests.ledger.faulty import Forward, http_server, proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Localnet
    from tests.ledger.conftest import Play


async def test_a_node_that_answers_too_late(play: Play) -> None:
    """Reading it ends with the timeout. A transaction whose answer is late lands once, and its caller hears so."""
    late = {"getAccountInfo"}

    async def slow(method: str, _: Any, forward: Forward) -> bytes:
        answer = await forward()
        await asyncio.sleep(6 if method in late else 0)
        return answer

    terms = await play.terms(budget=1_000)
    before = await play.ledger.free_balance(terms["owner"], play.stage.mint)
    async with (
        proxy(play.stage.chain, slow) as url,
        Ledger.connect(url, play.ledger.program_id, poll=0.01, timeout=3) as ledger,
    ):
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"does not answer \(ReadTimeout\). Fix: start it"):
            await ledger.open_job(**terms)
        assert time.monotonic() - start < 6
        assert await play.ledger.free_balance(terms["owner"], play.stage.mint) == before, "nothing half done"
        late.clear()
        late.add("sendTransaction")
        assert len(await ledger.open_job(**terms)) == 1
        assert await ledger.open_job(**terms) == []
    assert await play.ledger.free_balance(terms["owner"], play.stage.mint) == before - 1_000


async def test_a_node_that_loses_every_third_message_either_way(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole job's calls through it, each repeated until it says that nothing is left to do."""
    monkeypatch.setattr("cloudlinkup.ledger.connection.RESEND_SECONDS", 0.2)
    dice, lost = random.Random(4), Counter[str]()

    async def lossy(method: str, _: Any, forward: Forward) -> bytes | None:
        way = dice.random()
        if way < 0.17:
            lost["asked"] += 1
            return None
        answer = await forward()
        if way < 0.34:
            lost["answered"] += 1
            return None
        return answer

    operator, verifier = play.key("operator"), play.key("verifier")
    terms, wallets = await play.terms(budget=10_000), await play.wallets(3)
    job = play.ledger.job_address(terms["owner"], terms["mint"], terms["job_id"])
    seats = [(wallet.public, 1_000, 0) for wallet in wallets]
    before = await play.ledger.free_balance(terms["owner"], play.stage.mint)
    async with (
        proxy(play.stage.chain, lossy) as url,
        Ledger.connect(url, play.ledger.program_id, poll=0.01, timeout=0.5) as ledger,
    ):
        for call in (
            lambda: ledger.open_job(**terms),
            lambda: ledger.assign_seats(operator, operator, job, seats),
            lambda: ledger.raise_caps(operator, job, {0: 2_000, 2: 1_500}),
            lambda: ledger.commit_round(verifier, job, 1, b"\x07" * 32),
            lambda: ledger.award(verifier, job, 1, {0: 900, 1: 50}),
        ):
            done = False
            for _ in range(60):
                try:
                    if await call() == []:
                        done = True
                        break
                except (Unavailable, NotConfirmed):
                    continue
            assert done
    found = await play.ledger.job(job)
    assert found is not None and lost["asked"] > 3 and lost["answered"] > 3
    assert [seat.cap for seat in found.seats] == [2_000, 1_000, 1_500]
    assert [seat.awarded for seat in found.seats] == [900, 50, 0] and found.round == 1
    assert await play.ledger.free_balance(terms["owner"], play.stage.mint) == before - 10_000


async def test_answers_out_of_order(play: Play) -> None:
    """Many readers and writers at once, whose answers come in any order: everybody gets its own."""
    dice = random.Random(9)

    async def shuffled(_: str, __: Any, forward: Forward) -> bytes:
        await asyncio.sleep(dice.random() * 0.05)
        answer = await forward()
        await asyncio.sleep(dice.random() * 0.15)
        return answer

    jobs = [await play.open(budget=100 + i) for i in range(4)]
    async with proxy(play.stage.chain, shuffled) as url, Ledger.connect(url, play.ledger.program_id) as ledger:
        wallets = [Keypair().pubkey() for _ in jobs]
        operator = play.key("operator")
        written = (
            ledger.assign_seats(operator, operator, job, [(wallet, 1 + i, 0)])
            for i, (job, wallet) in enumerate(zip(jobs, wallets, strict=True))
        )
        assert [len(one) for one in await asyncio.gather(*written)] == [1] * 4
        seen = await asyncio.gather(*(ledger.job(job) for job in jobs))
    for i, (job, wallet) in enumerate(zip(seen, wallets, strict=True)):
        assert job is not None and job.budget == 100 + i
        assert [(seat.wallet, seat.cap) for seat in job.seats] == [(wallet, 1 + i)]


async def test_a_node_that_is_behind(play: Play) -> None:
    """It shows the past for a while: what was sent is not sent twice, and what cannot be decided yet is refused."""
    behind, old = [True], {}

    async def stale(method: str, request: Any, forward: Forward) -> bytes:
        answer = await forward()
        if method != "getAccountInfo":
            return answer
        return old.setdefault(request["params"][0], answer) if behind[0] else answer

    operator = play.key("operator")
    terms = await play.terms(budget=1_000)
    job = play.ledger.job_address(terms["owner"], terms["mint"], terms["job_id"])
    before = await play.ledger.free_balance(terms["owner"], play.stage.mint)
    seats = [(Keypair().pubkey(), 10, 0)]
    async with proxy(play.stage.chain, stale) as url, Ledger.connect(url, play.ledger.program_id, poll=0.01) as ledger:
        await ledger.open_job(**terms)
        with pytest.raises(LedgerError, match="AccountExists"):
            await ledger.open_job(**terms)  # the node still says that there is no such job
        with pytest.raises(LedgerError, match=f"{job}"):
            await ledger.assign_seats(operator, operator, job, seats)
        behind[0] = False
        assert await ledger.open_job(**terms) == []
        assert len(await ledger.assign_seats(operator, operator, job, seats)) == 1
        behind[0] = True
        old.clear()
        assert await ledger.job(job) is not None
        behind[0] = False
        await ledger.raise_caps(operator, job, {0: 20})
        behind[0] = True
        with pytest.raises(LedgerError, match="CapBelowCurrent"):
            await ledger.raise_caps(operator, job, {0: 15})  # seen through the past, it looks like a raise
        behind[0] = False
        assert await ledger.raise_caps(operator, job, {0: 15}) == []
    assert await play.ledger.free_balance(terms["owner"], play.stage.mint) == before - 1_000


async def test_an_expired_block_hash_and_a_repeat(start_localnet: Callable[..., Localnet]) -> None:
    chain = start_localnet(slot_ms=10)  # a block hash lives 1.5 seconds
    swallow = [True]

    async def eat(method: str, request: Any, forward: Forward) -> bytes:
        if method == "sendTransaction" and swallow[0]:
            return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "1" * 64}).encode()
        return await forward()

    async with proxy(chain, eat) as url, Ledger.connect(url, chain.program_id, poll=0.02) as ledger:
        key, mint = Signer(Keypair()), Signer(Keypair())
        await ledger.airdrop(key.public, 10**9)
        with pytest.raises(NotConfirmed, match="before its block hash expired"):
            await ledger.create_mint(key, 6, mint=mint)
        swallow[0] = False
        assert len((await ledger.create_mint(key, 6, mint=mint))[1]) == 1
        assert (await ledger.create_mint(key, 6, mint=mint))[1] == []


def refusal(code: int, message: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 0, "error": {"code": code, "message": message}}).encode()


@pytest.mark.parametrize(
    ("body", "status", "error", "words"),
    [
        (b"<html>", "200 OK", LedgerError, "none of Solana's. Fix: set the RPC URL of a Solana node"),
        (b"{}", "200 OK", LedgerError, "none of Solana's"),
        (b"nothing", "404 Not Found", Unavailable, "HTTP 404"),
        (b"slow down", "429 Too Many Requests", Unavailable, "HTTP 429"),
        (b"oops", "503 Service Unavailable", Unavailable, "HTTP 503"),
        (refusal(-32601, "Method not found"), "200 OK", LedgerError, "refused: Method not found"),
        (refusal(-32000, "key required"), "200 OK", LedgerError, "refused: error -32000"),
    ],
)
async def test_what_answers_is_no_solana_node(body: bytes, status: str, error: type[Exception], words: str) -> None:
    async def answer(_: bytes) -> bytes:
        return body

    async with http_server(answer, status) as url, Ledger.connect(url + "/v2/api-key", Keypair().pubkey()) as ledger:
        key = Signer(Keypair())
        for call in (ledger.now(), ledger.config(), ledger.genesis(), ledger.create_mint(key, 6)):
            with pytest.raises(error, match=words) as caught:
                await call
            assert "api-key" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8899", "ftp://x", "wss://x", "http://", "https://a b:x"])
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(BadInput, match=r"not an http or https URL. Fix: give it like"):
        async with Ledger.connect(url, Keypair().pubkey()):
            pass


async def test_an_external_signer_pays_and_signs(play: Play, tmp_path: Path) -> None:
    """The owner's key is in another process; when that fails, nothing was sent, and a repeat completes it."""
    from tests.crypto.test_external import SIGN, sys, write_new_key

    key = write_new_key(tmp_path / "key.json")
    words = (sys.executable, "-c", SIGN, str(tmp_path / "key.json"), "base58")
    owner = CommandSigner(key.pubkey(), words)
    await play.ledger.airdrop(owner.public, 10**9)
    broken = CommandSigner(key.pubkey(), (sys.executable, "-c", "import sys; sys.exit(1)"))
    with pytest.raises(Unavailable, match="exit code 1"):
        await play.ledger.open_client(broken, play.stage.mint)
    assert await play.ledger.client(owner.public, play.stage.mint) is None
    assert len(await play.ledger.open_client(owner, play.stage.mint)) == 1
    assert await play.ledger.open_client(owner, play.stage.mint) == []
