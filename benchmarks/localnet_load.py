"""Can the local chain take a steady load? So many transfers a second through RPC, for so long, each looked for.

    python -m benchmarks.localnet_load --rate 200 --seconds 60

Each transfer has its own amount and is due at its own moment, whether or not those before it are answered; times are
counted from that moment, so a stall is not hidden. Preflight is on, as clients have it. `lost` counts transfers that
were answered and are not confirmed without error 15 s after the end, and the receiver's balance has to be the exact
sum. The baseline is the same client asking `getHealth` as fast as it is answered: what HTTP and JSON alone allow here.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction

from benchmarks.localnet_kill import Node

SENDERS = 24
PAYERS = 8
BASE = 1_000_000  # lamports of the first transfer; each next one moves one more
SETTLE = 15.0  # seconds
POLL = 0.1
BASELINE_SECONDS = 5.0


class Wire:
    """One kept connection, one request at a time: a general HTTP client costs more CPU here than the chain does."""

    def __init__(self, url: str) -> None:
        self.host, self.port = url.removeprefix("http://").split(":")
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, *params: Any) -> Any:
        """Raises RuntimeError with the chain's words, OSError or EOFError when the connection ends."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self.host, int(self.port))
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        head = f"POST / HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        start = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(start.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = json.loads(await self._reader.readexactly(length))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@dataclass
class Load:
    """Seconds from each transfer's due moment to its answer and to its confirmation, by signature."""

    due: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    confirmed: dict[str, float] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)  # answered, not confirmed yet
    failed: int = 0
    amount: int = 0
    ended: bool = False


async def load(url: str, rate: float, seconds: float) -> tuple[Load, float, int]:
    """(what was seen, seconds that sending took, lamports that the receiver lacks)."""
    seen, payers, receiver = Load(), [Keypair() for _ in range(PAYERS)], Keypair().pubkey()
    first = Wire(url)
    for payer in payers:
        await first.call("requestAirdrop", str(payer.pubkey()), 10**15)
    block = [await _block_hash(first)]
    numbers = iter(range(int(rate * seconds)))
    watch = asyncio.create_task(_watch(Wire(url), seen))
    renew = asyncio.create_task(_renew(Wire(url), block))
    began = time.monotonic()

    async def sender() -> None:
        wire = Wire(url)
        for number in numbers:
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await _send(wire, payers[number % PAYERS], receiver, number, due, block[0], seen)
        wire.close()

    await asyncio.gather(*(sender() for _ in range(SENDERS)))
    took = time.monotonic() - began
    seen.ended = True
    await watch
    renew.cancel()
    first.close()  # idle for longer than a server keeps a connection
    last = Wire(url)
    held = (await last.call("getBalance", str(receiver), {"commitment": "processed"}))["value"]
    last.close()
    return seen, took, seen.amount - held


async def _send(wire: Wire, payer: Keypair, to: Pubkey, number: int, due: float, block: Hash, seen: Load) -> None:
    amount = BASE + number
    move = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=amount))
    transaction = Transaction([payer], Message.new_with_blockhash([move], payer.pubkey(), block), block)
    raw = base64.b64encode(bytes(transaction)).decode()
    try:
        signature = await wire.call("sendTransaction", raw, {"encoding": "base64", "preflightCommitment": "processed"})
    except (OSError, EOFError, RuntimeError):
        seen.failed += 1
        return
    seen.due[signature], seen.answered[signature] = due, time.monotonic() - due
    seen.waiting.append(signature)
    seen.amount += amount


async def _watch(wire: Wire, seen: Load) -> None:
    until = None
    while until is None or time.monotonic() < until:
        if seen.ended:
            if not seen.waiting:
                return
            until = until or time.monotonic() + SETTLE
        if part := seen.waiting[:256]:
            found = (await wire.call("getSignatureStatuses", part))["value"]
            now, done = time.monotonic(), set()
            for one, status in zip(part, found, strict=True):
                if status is not None and status["confirmationStatus"] != "processed" and status["err"] is None:
                    seen.confirmed[one] = now - seen.due[one]
                    done.add(one)
            seen.waiting = [one for one in seen.waiting if one not in done]
        await asyncio.sleep(POLL)


async def _block_hash(wire: Wire) -> Hash:
    found = await wire.call("getLatestBlockhash", {"commitment": "processed"})
    return Hash.from_string(found["value"]["blockhash"])


async def _renew(wire: Wire, block: list[Hash]) -> None:
    while True:
        await asyncio.sleep(1)
        block[0] = await _block_hash(wire)


async def baseline(url: str, seconds: float) -> float:
    """`getHealth` calls a second."""
    count, end = 0, time.monotonic() + seconds

    async def ask() -> None:
        nonlocal count
        wire = Wire(url)
        while time.monotonic() < end:
            await wire.call("getHealth")
            count += 1
        wire.close()

    await asyncio.gather(*(ask() for _ in range(SENDERS)))
    return count / seconds


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _row(name: str, values: list[float]) -> str:
    values = sorted(values)
    if not values:
        return f"{name:<28}{'-':>10}{'-':>10}{'-':>10}"
    at = [values[int(share * (len(values) - 1))] * 1_000 for share in (0.5, 0.99, 1.0)]
    return f"{name:<28}" + "".join(f"{one:>10.1f}" for one in at)


async def run(rate: float, seconds: float) -> int:
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder), slot_ms=100)
        await node.start()
        try:
            assert node.process is not None
            server, client = psutil.Process(node.process.pid), psutil.Process()
            idle = await baseline(node.url, BASELINE_SECONDS)
            before = _cpu(server), _cpu(client)
            seen, took, missing = await load(node.url, rate, seconds)
            spent = _cpu(server) - before[0], _cpu(client) - before[1]
        finally:
            node.kill()
    lost = len(seen.due) - len(seen.confirmed)
    print(f"asked for {rate:g} a second for {seconds:g} s; baseline (getHealth): {idle:.0f} calls a second")
    print(f"sent {len(seen.due)} in {took:.1f} s: {len(seen.due) / took:.1f} a second, {seen.failed} without an answer")
    print(f"{'milliseconds from its moment':<28}{'p50':>10}{'p99':>10}{'max':>10}")
    print(_row("to the answer", list(seen.answered.values())))
    print(_row("to confirmed (2 slots)", list(seen.confirmed.values())))
    each = [1_000 * one / max(1, len(seen.due)) for one in spent]
    print(f"CPU milliseconds a transfer, polls included: chain {each[0]:.2f}, this client {each[1]:.2f}")
    print(f"lost={lost} lamports missing={missing}")
    return 1 if lost or missing else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="transfers a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    return asyncio.run(run(args.rate, args.seconds))


if __name__ == "__main__":
    raise SystemExit(main())
