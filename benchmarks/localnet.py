"""How quick is the local chain? Milliseconds a call over HTTP on this machine, from one client in this process.

Run: ``python -m benchmarks.localnet``; `localnet_load` asks for a steady rate, `localnet_kill` for durability. Nothing
here says anything about a real cluster: there, confirmation takes about one or two seconds and every call a network
round trip.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from solana.rpc.commitment import Confirmed
from solana.rpc.types import TxOpts
from solders.keypair import Keypair
from solders.system_program import TransferParams, transfer

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import Unavailable
from cloudlinkup.ledger.connection import sign
from cloudlinkup.ledger.escrow import Ledger

ROOT = Path(__file__).resolve().parent.parent


async def measure(name: str, call: Callable[[], Awaitable[object]], times: int) -> None:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await call()
        taken.append(1_000 * (time.perf_counter() - start))
    taken.sort()
    print(f"{name:<44}{times:>6}{statistics.median(taken):>10.2f}{taken[int(0.99 * (times - 1))]:>10.2f}")


async def run(url: str) -> None:
    key = Signer(Keypair())
    async with Ledger.connect(url, Keypair().pubkey(), poll=0.02) as ledger:
        until = time.monotonic() + 20
        while True:
            try:
                await ledger.genesis()
                break
            except Unavailable:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.05)
        await ledger.airdrop(key.public, 10**12)
        client = ledger._rpc.client

        async def send() -> None:
            to = Keypair().pubkey()
            move = transfer(TransferParams(from_pubkey=key.public, to_pubkey=to, lamports=10**6))
            block_hash = (await client.get_latest_blockhash()).value.blockhash
            raw = bytes(sign([move], key, [], block_hash))
            await client.send_raw_transaction(raw, TxOpts(preflight_commitment=Confirmed))

        print(f"{'call':<44}{'times':>6}{'p50 ms':>10}{'p99 ms':>10}")
        await measure("getSlot", ledger.slot, 500)
        await measure("getAccountInfo", lambda: ledger._rpc.account(key.public), 500)
        await measure("getLatestBlockhash + sign + sendTransaction", send, 300)
        await measure("token mint sent and confirmed (100 ms slots)", lambda: ledger.create_mint(key, 6), 20)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "services.localnet", "--port", str(port), "--db", f"{folder}/chain.db"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            asyncio.run(run(f"http://127.0.0.1:{port}"))
        finally:
            process.terminate()
            process.wait(10)


if __name__ == "__main__":
    main()
