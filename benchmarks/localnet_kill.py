"""Does the local chain keep its word under kill -9? Transfers pour in, the process is killed at a random moment, again
and again on the same database; after each restart every transaction is looked for.

    python -m benchmarks.localnet_kill --times 50 --seed 1

Counted: `answered` (sendTransaction returned), `confirmed` (a status said so), `lost` (confirmed or answered, and gone
after the restart), `twice` (its receiver, which nobody else pays, holds more than one amount; looked at again after
the same bytes were sent once more to the restarted chain). Not covered: a machine that loses power.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction

ROOT = Path(__file__).resolve().parent.parent
AMOUNT = 1_000_000  # lamports a transfer
SENDERS = 4  # at once
EARLIEST, LATEST = 0.02, 1.2  # seconds of pouring before a kill


@dataclass
class Tally:
    """What was seen over all kills."""

    kills: int = 0
    answered: int = 0
    confirmed: int = 0
    lost: int = 0
    twice: int = 0
    unanswered_landed: int = 0  # it landed, and the kill took the answer: allowed, and worth knowing
    seconds: list[float] = field(default_factory=list)  # from start to serving


@dataclass
class Sent:
    """One transfer to an address of its own."""

    signature: str
    raw: str
    to: Pubkey
    answered: bool = False
    confirmed: bool = False


class Node:
    """The service as a child process."""

    def __init__(self, folder: Path, slot_ms: int) -> None:
        self.folder, self.slot_ms = folder, slot_ms
        self.process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    async def start(self) -> float:
        began = time.monotonic()
        command = [sys.executable, "-m", "services.localnet", "--port", str(self.port)]
        command += ["--db", str(self.folder / "chain.db"), "--slot-ms", str(self.slot_ms)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)  # noqa: ASYNC220 (returns at once)
        async with httpx.AsyncClient(timeout=1) as client:
            while True:
                try:
                    if (await client.get(f"{self.url}/health")).text == "ok":
                        return time.monotonic() - began
                except httpx.TransportError:
                    if self.process.poll() is not None or time.monotonic() - began > 60:
                        raise RuntimeError((self.folder / "log").read_text()[-2_000:]) from None
                    await asyncio.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


async def run(times: int, seed: int, folder: Path, slot_ms: int = 50) -> Tally:
    """Raises RuntimeError when the chain does not start again."""
    dice, tally, node, payer = random.Random(seed), Tally(), Node(folder, slot_ms), Keypair()
    tally.seconds.append(await node.start())
    try:
        async with httpx.AsyncClient(timeout=5) as client:
            await call(client, node.url, "requestAirdrop", str(payer.pubkey()), 10**15)
            everything: list[Sent] = []
            for _ in range(times):
                sent: list[Sent] = []
                pour = [asyncio.create_task(_pour(node.url, payer, sent)) for _ in range(SENDERS)]
                watch = asyncio.create_task(_watch(node.url, sent))
                await asyncio.sleep(dice.uniform(EARLIEST, LATEST))
                await _worked(sent, tally)
                node.kill()
                await asyncio.gather(*pour, watch)
                tally.kills += 1
                tally.seconds.append(await node.start())
                await _judge(client, node.url, sent, tally)
                everything += sent
            later = await _balances(client, node.url, everything)  # once more, after all other kills
            tally.lost += sum(one.answered and balance == 0 for one, balance in zip(everything, later, strict=True))
            tally.twice += sum(balance > AMOUNT for balance in later)
    finally:
        node.kill()
    return tally


async def _worked(sent: list[Sent], tally: Tally) -> None:
    """Until something was answered, and anything so far confirmed: on a busy machine that can take longer."""
    while not (  # noqa: ASYNC110 (other tasks fill the list)
        any(one.answered for one in sent) and (tally.confirmed or any(one.confirmed for one in sent))
    ):
        await asyncio.sleep(0.001)


async def _pour(url: str, payer: Keypair, sent: list[Sent]) -> None:
    """Sends until nobody answers."""
    async with httpx.AsyncClient(timeout=5) as client:
        while True:
            try:
                block = await call(client, url, "getLatestBlockhash", {"commitment": "processed"})
                to = Keypair().pubkey()
                move = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=AMOUNT))
                block_hash = Hash.from_string(block["value"]["blockhash"])
                message = Message.new_with_blockhash([move], payer.pubkey(), block_hash)
                transaction = Transaction([payer], message, block_hash)
                one = Sent(str(transaction.signatures[0]), base64.b64encode(bytes(transaction)).decode(), to)
                sent.append(one)
                await call(client, url, "sendTransaction", one.raw, {"encoding": "base64", "skipPreflight": True})
                one.answered = True
            except httpx.TransportError:
                return


async def _watch(url: str, sent: list[Sent]) -> None:
    """Notes what the chain calls confirmed, until nobody answers."""
    async with httpx.AsyncClient(timeout=5) as client:
        while True:
            waiting = [one for one in sent if one.answered and not one.confirmed][:256]
            try:
                found = (await call(client, url, "getSignatureStatuses", [one.signature for one in waiting]))["value"]
            except httpx.TransportError:
                return
            for one, status in zip(waiting, found, strict=True):
                one.confirmed = status is not None and status["confirmationStatus"] != "processed"
            await asyncio.sleep(0.02)


async def _judge(client: httpx.AsyncClient, url: str, sent: list[Sent], tally: Tally) -> None:
    before = await _balances(client, url, sent)
    known: list[Any] = []
    for first in range(0, len(sent), 256):
        part = [one.signature for one in sent[first : first + 256]]
        known += (await call(client, url, "getSignatureStatuses", part, {"searchTransactionHistory": True}))["value"]
    for one, balance, status in zip(sent, before, known, strict=True):
        tally.answered += one.answered
        tally.confirmed += one.confirmed
        there = status is not None and status["err"] is None and balance >= AMOUNT
        tally.lost += (one.answered or one.confirmed) and not there
        tally.unanswered_landed += not one.answered and there
    for one in sent:  # the same bytes again: what landed must not land twice
        await call(client, url, "sendTransaction", one.raw, {"encoding": "base64", "skipPreflight": True})
    tally.twice += sum(balance > AMOUNT for balance in await _balances(client, url, sent))


async def _balances(client: httpx.AsyncClient, url: str, sent: list[Sent]) -> list[int]:
    found: list[int] = []
    for first in range(0, len(sent), 100):
        part = [str(one.to) for one in sent[first : first + 100]]
        options = {"commitment": "processed", "encoding": "base64"}
        values = (await call(client, url, "getMultipleAccounts", part, options))["value"]
        found += [0 if value is None else value["lamports"] for value in values]
    return found


async def call(client: httpx.AsyncClient, url: str, method: str, *params: Any) -> Any:
    """One RPC call. Raises RuntimeError with the chain's words."""
    answer = (await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})).json()
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with folder() as place:
        tally = asyncio.run(run(args.times, args.seed, place))
    print(f"seed {args.seed}: {tally.kills} kills, {tally.answered} answered, {tally.confirmed} confirmed")
    print(f"lost={tally.lost} twice={tally.twice} landed without an answer={tally.unanswered_landed}")
    print(f"start: {max(tally.seconds):.2f} s at most, {sum(tally.seconds) / len(tally.seconds):.2f} s on average")
    return 1 if tally.lost or tally.twice else 0


if __name__ == "__main__":
    sys.exit(main())
