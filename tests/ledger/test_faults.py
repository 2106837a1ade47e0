"""Lost answers, swallowed transactions, a killed chain, hostile RPC answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError, NotConfirmed, Unavailable
from cloudlinkup.ledger import seats
from cloudlinkup.ledger.connection import sign
from cloudlinkup.ledger.escrow import Ledger
from tests.ledger.faulty import http_server, proxy

if TYPE_CHECKING:
    from tests.conftest import Localnet, Platform
    from tests.ledger.conftest import Play


async def test_a_lost_answer_is_found_and_nothing_runs_twice(play: Play) -> None:
    lost = []

    async def lose(method: str, _: Any, forward: Callable[[], Awaitable[bytes]]) -> bytes | None:
        found = await forward()
        if method == "sendTransaction" and not lost:
            lost.append(found)
            return None  # it landed; the sender never hears so
        return found

    before = await play.ledger.free_balance(play.key("owner").public, play.stage.mint)
    async with proxy(play.stage.chain, lose) as url, Ledger.connect(url, play.ledger.program_id, poll=0.01) as ledger:
        terms = await play.terms(budget=1_000)
        [signature] = await ledger.open_job(**terms)
        assert json.loads(lost[0])["result"] == signature
        assert await ledger.open_job(**terms) == []
    assert await play.ledger.free_balance(play.key("owner").public, play.stage.mint) == before - 1_000


async def test_a_swallowed_transaction_is_sent_again_or_not_confirmed(
    start_localnet: Callable[..., Localnet],
) -> None:
    chain = start_localnet(slot_ms=10)  # a block hash lives 1.5 seconds
    swallow, sends = [True], [0]

    async def eat(method: str, request: Any, forward: Callable[[], Awaitable[bytes]]) -> bytes:
        if method == "sendTransaction":
            sends[0] += 1
            if swallow[0] or sends[0] == 1:
                return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "1" * 64}).encode()
        return await forward()

    async with proxy(chain, eat) as url, Ledger.connect(url, chain.program_id, poll=0.02) as ledger:
        key = Signer(Keypair())
        await ledger.airdrop(key.public, 10**9)
        with pytest.raises(NotConfirmed, match="before its block hash expired"):
            await ledger.create_mint(key, 6)

    slow = start_localnet(slot_ms=50)
    swallow[0], sends[0] = False, 0
    async with proxy(slow, eat) as url, Ledger.connect(url, slow.program_id, poll=0.02) as ledger:
        await ledger.airdrop(key.public, 10**9)
        mint, sent = await ledger.create_mint(key, 6)
        assert len(sent) == 1 and sends[0] == 2 and await ledger.mint_decimals(mint) == 6


async def test_a_chain_killed_between_sending_and_confirming(
    start_localnet: Callable[..., Localnet], make_platform: Callable[..., Platform]
) -> None:
    chain = start_localnet(slot_ms=100)
    stage = await asyncio.to_thread(make_platform, chain)
    async with Ledger.connect(chain.url, chain.program_id) as ledger:
        owner = stage.keys["owner"]
        before = await ledger.free_balance(owner.public, stage.mint)
        count = chain.call("getTransactionCount")
        call = asyncio.create_task(ledger.withdraw(owner, stage.mint, 77))
        while chain.call("getTransactionCount") == count:  # noqa: ASYNC110 (another process's event)
            await asyncio.sleep(0.001)
        chain.kill()
        await asyncio.to_thread(chain.start)
        assert len(await call) == 1
        assert await ledger.free_balance(owner.public, stage.mint) == before - 77
        assert await ledger.token_balance(owner.public, stage.mint) == 77


async def test_nobody_there() -> None:
    async with Ledger.connect("http://127.0.0.1:9", Keypair().pubkey()) as ledger:
        with pytest.raises(Unavailable, match="Fix: start it"):
            await ledger.now()
    with pytest.raises(Unavailable, match="does not answer"):
        await seats.read_genesis("http://127.0.0.1:9")


async def test_the_agents_reader_believes_nobody(stage: Platform, play: Play) -> None:
    chain, program = stage.chain, play.ledger.program_id
    assert await seats.read_genesis(chain.url) == await play.ledger.genesis()
    assert abs(await seats.read_clock(chain.url) - await play.ledger.now()) <= 1
    assert await seats.read_job(chain.url, Keypair().pubkey(), program) is None
    job = await play.open()
    assert await seats.read_job(chain.url, job, program) == await play.ledger.job(job)
    with pytest.raises(LedgerError, match="not to the escrow program"):
        await seats.read_job(chain.url, stage.mint, program)
    client = play.ledger.client_address(play.key("owner").public, stage.mint)
    with pytest.raises(LedgerError):
        await seats.read_job(chain.url, client, program)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"result":5}',
        b'{"result":{"value":{"owner":"x","data":["***","base64"]}}}',
        b'{"result":{"value":{"owner":"x","data":"AA=="}}}',
        b'{"error":{"code":-32005}}',
        b"[" * 100_000,
        b" " * 400_000,
    ],
)
async def test_malformed_answers_are_refused(body: bytes) -> None:
    async def answer(_: bytes) -> bytes:
        return body

    async with http_server(answer) as url:
        with pytest.raises(LedgerError):
            await seats.read_job(url, Keypair().pubkey(), Pubkey.default())


async def test_a_slow_answer_ends_with_the_timeout() -> None:
    async def answer(_: bytes) -> bytes:
        await asyncio.sleep(3)
        return b""

    async with http_server(answer) as url:
        start = time.monotonic()
        with pytest.raises(Unavailable):
            await seats.read_job(url, Keypair().pubkey(), Pubkey.default(), timeout=0.3)
        assert time.monotonic() - start < 2.9


def test_a_transaction_without_all_its_signers_is_not_made() -> None:
    payer, other = Signer(Keypair()), Keypair().pubkey()
    move = transfer(TransferParams(from_pubkey=other, to_pubkey=payer.public, lamports=1))
    with pytest.raises(LedgerError, match=f"no signer for {other}"):
        sign([move], payer, [], Hash.default())
