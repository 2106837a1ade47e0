"""Real parts that several test folders share: a local chain as a child process, and a whole local stack.

`localnet` is one chain for the whole session, with the escrow program when `programs/escrow.so` has been built.
A test that kills, restarts or warps far should start its own with `start_localnet`.
`local_stack` is what `cloudlinkup up` starts, once for the session, in a home of its own.
With several test processes (`make test` has two) a file stays in one of them, and so do all that use `local_stack`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.home import PORTS, PROGRAM_ID, ROLES, Home

ROOT = Path(__file__).resolve().parent.parent
ESCROW = ROOT / "programs" / "escrow.so"


STACK = ("tests/system/", "tests/deployments/test_stack.py", "tests/tasks/test_sweep.py")  # who may use `local_stack`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses the local stack comes first: it takes longest."""
    for item in items:
        if "local_stack" in getattr(item, "fixturenames", ()):
            if not item.nodeid.startswith(STACK):
                raise pytest.UsageError(f"{item.nodeid} uses local_stack. Fix: name its file in STACK")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(900))  # the first one starts the stack
    items.sort(key=lambda item: not item.nodeid.startswith(STACK))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What each test process gets: a file at a time, and all files of the local stack together."""
    from xdist.scheduler.loadfile import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "stack" if nodeid.startswith(STACK) else super()._split_scope(nodeid)

    return Files(config, log)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass
class Localnet:
    """A running local chain. `authority` is the program's upgrade authority."""

    db: Path
    program: Path | None = None
    program_id: Pubkey = field(default_factory=lambda: Pubkey.from_string(PROGRAM_ID))
    authority: Signer = field(default_factory=lambda: Signer(Keypair()))
    slot_ms: int = 50
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        line = [sys.executable, "-m", "services.localnet", "--port", str(self.port), "--db", str(self.db)]
        line += ["--slot-ms", str(self.slot_ms), "--upgrade-authority", str(self.authority.public)]
        if self.program is not None:
            line += ["--program", str(self.program), "--program-id", str(self.program_id)]
        return line

    def start(self) -> Localnet:
        with self.db.with_suffix(".log").open("ab") as output:
            self.process = subprocess.Popen(self.command(), cwd=ROOT, stdout=output, stderr=output)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health", timeout=5).text == "ok":
                    return self
            except httpx.TransportError:
                time.sleep(0.02)
        raise RuntimeError(f"localnet did not start: {self.db.with_suffix('.log').read_text()[-2_000:]}")

    def call(self, method: str, *params: Any) -> Any:
        """The result of one plain RPC call; raises AssertionError with the RPC error."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = httpx.post(self.url, json=body, timeout=60).json()
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def warp(self, seconds: int) -> None:
        """Moves the chain's clock and slots forward."""
        self.call("localnet_warp", {"seconds": seconds})

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def start_localnet(tmp_path: Path) -> Iterator[Callable[..., Localnet]]:
    """Starts local chains of this test's own: ``start_localnet(slot_ms=20, program=None)``."""
    running: list[Localnet] = []

    def start(**options: Any) -> Localnet:
        options.setdefault("program", ESCROW if ESCROW.exists() else None)
        chain = Localnet(tmp_path / f"chain{len(running)}.db", **options).start()
        running.append(chain)
        return chain

    yield start
    for chain in running:
        chain.stop()


@pytest.fixture(scope="session")
def localnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localnet]:
    """One local chain for the session, 50 ms a slot, with the escrow program if it has been built."""
    chain = Localnet(tmp_path_factory.mktemp("localnet") / "chain.db", ESCROW if ESCROW.exists() else None).start()
    yield chain
    chain.stop()


@dataclass(frozen=True)
class Platform:
    """A chain on which the program is initialized, with funded keys, a mint of 6 decimals and a client that has
    deposited `DEPOSIT` base units and allowed its operator to lock all of them."""

    chain: Localnet
    keys: dict[str, Signer]
    mint: Pubkey
    min_window: int
    arbiter_window: int
    fee_bps: int = 100


DEPOSIT = 10**12


async def _set_up(chain: Localnet, min_window: int, arbiter_window: int) -> Platform:
    from cloudlinkup.ledger.escrow import Ledger

    keys = {name: Signer(Keypair()) for name in ROLES} | {"authority": chain.authority}
    async with Ledger.connect(chain.url, chain.program_id) as ledger:
        await asyncio.gather(*(ledger.airdrop(signer.public, 100 * 10**9) for signer in keys.values()))
        terms: dict[str, Any] = {"fee_bps": 100, "min_window": min_window, "arbiter_window": arbiter_window}
        parties = {name: keys[name].public for name in ("admin", "arbiter", "treasury")}
        await ledger.initialize(keys["authority"], **parties, **terms)
        mint, _ = await ledger.create_mint(keys["admin"], 6)
        await ledger.mint_to(keys["admin"], mint, keys["owner"].public, DEPOSIT)
        await ledger.create_token_account(keys["sponsor"], keys["treasury"].public, mint)
        await ledger.open_client(keys["owner"], mint)
        await ledger.deposit(keys["owner"], mint, DEPOSIT)
        await ledger.set_operator(
            keys["owner"],
            mint,
            operator=keys["operator"].public,
            verifier=keys["verifier"].public,
            max_per_job=DEPOSIT,
            allowance=DEPOSIT,
            expires=await ledger.now() + 10 * 31_622_400,
        )
    return Platform(chain, keys, mint, min_window, arbiter_window)


@pytest.fixture(scope="session")
def make_platform() -> Callable[..., Platform]:
    """``make_platform(chain, min_window=60, arbiter_window=120)`` sets the escrow program up on a fresh local chain."""

    def make(chain: Localnet, *, min_window: int = 1, arbiter_window: int = 2) -> Platform:
        return asyncio.run(_set_up(chain, min_window, arbiter_window))

    return make


@pytest.fixture(scope="session")
def platform(localnet: Localnet, make_platform: Callable[..., Platform]) -> Platform:
    """The session's chain with the program initialized; windows of 1 and 2 seconds. Others use it: do not warp it."""
    if localnet.program is None:
        pytest.fail("programs/escrow.so is missing. Fix: build the program")
    return make_platform(localnet)


# ---------------------------------------------------------------- the local stack


def free_base() -> int:
    """A port base whose ports are all free now; ranges of other test processes are elsewhere or the very same."""
    for base in range(21_000 + os.getpid() % 500 * 20, 32_000, 20):
        probes: list[socket.socket] = []
        try:
            for offset in PORTS.values():
                probes.append(socket.socket())
                probes[-1].bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return base
    raise RuntimeError("no free ports")


def post(url: str, body: object) -> httpx.Response:
    """To Prefect's API, again while it is too busy: it answers 503 where its database was locked for too long."""
    until = time.monotonic() + 120
    while (answer := httpx.post(url, json=body, timeout=60)).status_code == 503 and time.monotonic() < until:
        time.sleep(0.5)
    return answer


# `python -m cloudlinkup`, also where these tests are a background job of a shell: those ignore Ctrl-C, and so would it
HEEDING_CTRL_C = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('cloudlinkup', run_name='__main__')"
)


@dataclass(frozen=True)
class LocalStack:
    """A home, and the command line upon it. Jobs may name files below `rows`."""

    home: Home
    base: int

    @property
    def rows(self) -> Path:
        return self.home.root.with_name(f"{self.home.root.name}-rows")

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLOUDLINKUP_", "PREFECT_"))}
        return {**kept, "CLOUDLINKUP_HOME": str(self.home.root)}

    def call(self, *words: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "cloudlinkup", *words]
        return subprocess.run(
            argv, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A command in the background."""
        argv, pipe = [sys.executable, "-m", "cloudlinkup", *words], subprocess.PIPE
        return subprocess.Popen(argv, env=self.env, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    def start(self) -> subprocess.Popen[str]:
        """`up` in the background, to be interrupted."""
        argv = [sys.executable, "-c", HEEDING_CTRL_C, "up", "--port-base", str(self.base)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(argv, env=self.env, cwd=ROOT, stdout=quiet, stderr=subprocess.PIPE, text=True)

    def up(self) -> dict[str, Any]:
        """Starts it, or finds it up. Returns the document that `up` prints."""
        self.rows.mkdir(exist_ok=True)
        done = self.call("up", "--port-base", str(self.base), "--file-root", str(self.rows), "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def down(self) -> None:
        assert self.call("down").returncode == 0

    def processes(self) -> list[psutil.Process]:
        """Every process that has this home in its environment."""
        mark = f"CLOUDLINKUP_HOME={self.home.root}".encode()
        found = []
        for process in psutil.process_iter():
            try:
                if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                    found.append(process)
            except OSError:
                continue
        return found


@pytest.fixture(scope="session")
def local_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One stack for the session. A test that needs it running calls `up()`: another test may have taken it down."""
    stack = LocalStack(Home(tmp_path_factory.mktemp("stack") / "home"), free_base())
    stack.up()
    yield stack
    stack.down()
