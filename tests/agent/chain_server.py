"""A tiny JSON-RPC that shows one job account in the escrow program's own bytes, for the agent's real reader."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from solders.hash import Hash
from solders.pubkey import Pubkey

from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.ledger.accounts import JOB_TAG

GENESIS = str(Hash(bytes([9] * 32)))


@dataclass
class SeatState:
    wallet: str
    cap: int = 10**9
    awarded: int = 0
    state: int = 1

    def encode(self) -> bytes:
        rest = struct.pack("<QQQQQQqIBB2x", self.cap, self.awarded, 0, 0, 0, 0, 0, 0, self.state, 0)
        return bytes(Pubkey.from_string(self.wallet)) + rest


@dataclass
class JobState:
    """What the chain shows; tests change it as they go."""

    verifier: str
    job_id: str
    deadline: int
    seats: list[SeatState]
    round: int = 0
    commit_root: bytes = bytes(32)
    exists: bool = True

    def encode(self) -> bytes:
        keys = [bytes([i] * 32) for i in (1, 2, 3)]
        head = JOB_TAG + b"".join(keys) + bytes(Pubkey.from_string(self.verifier)) + bytes(32) + bytes(32)
        head += self.commit_root + bytes.fromhex(self.job_id)
        head += struct.pack("<QQQQqqQ", 10**12, 0, 0, 0, 0, self.deadline, 0)
        head += struct.pack("<IIIHB5x", 60, 60, self.round, 0, 255)
        return head + struct.pack("<I", len(self.seats)) + b"".join(seat.encode() for seat in self.seats)


@dataclass
class ChainServer:
    account: str
    job: JobState
    url: str = ""
    silent: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, question: dict[str, Any]) -> Any:
        self.asked.append(question["method"])
        if question["method"] == "getGenesisHash":
            return GENESIS
        if question["params"][0] != self.account or not self.job.exists:
            return {"context": {"slot": 1}, "value": None}
        data = base64.b64encode(self.job.encode()).decode()
        return {"context": {"slot": 1}, "value": {"owner": PROGRAM_ID, "data": [data, "base64"]}}


@contextmanager
def serving(chain: ChainServer) -> Iterator[ChainServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = 503 if chain.silent else 200
            body = json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": chain.answer(question)}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    chain.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield chain
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
