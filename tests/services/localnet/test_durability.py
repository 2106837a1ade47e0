"""kill -9, restarts, and starts that must fail with a clear word."""

from __future__ import annotations

import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from cloudlinkup.errors import BadInput, Unavailable
from services.localnet.chain import LOADER, Chain

if TYPE_CHECKING:
    from tests.conftest import Localnet

ROOT = Path(__file__).resolve().parents[3]


def test_what_was_answered_survives_kill_9(start_localnet: Callable[..., Localnet]) -> None:
    chain = start_localnet(program=None)
    genesis, receiver = chain.call("getGenesisHash"), Keypair().pubkey()
    answered: list[str] = []

    def pour() -> None:
        while True:
            try:
                answered.append(chain.call("requestAirdrop", str(receiver), 1_000_000))
            except (httpx.HTTPError, ValueError):
                return  # killed under our hands

    thread = threading.Thread(target=pour)
    thread.start()
    while len(answered) < 40:
        time.sleep(0.005)
    slot = chain.call("getSlot", {"commitment": "processed"})
    chain.kill()
    thread.join(10)
    assert not thread.is_alive()

    chain.start()
    statuses = chain.call("getSignatureStatuses", answered[:250], {"searchTransactionHistory": True})["value"]
    assert all(one is not None and one["err"] is None for one in statuses)
    landed = chain.call("getSignaturesForAddress", str(receiver), {"commitment": "confirmed"})
    # One airdrop may have landed without its answer reaching us; never the other way round.
    assert len(answered) <= len(landed) <= len(answered) + 1 or len(answered) > 990
    balance = chain.call("getBalance", str(receiver))["value"]
    assert balance == 1_000_000 * chain.call("getTransactionCount")
    assert chain.call("getGenesisHash") == genesis
    assert chain.call("getSlot", {"commitment": "processed"}) >= slot
    detail = chain.call("getTransaction", answered[0], {"commitment": "confirmed"})
    assert detail["meta"]["logMessages"][-1].endswith("success")
    again = chain.call("requestAirdrop", str(receiver), 1_000_000)
    assert again not in answered


def test_a_warp_survives_a_restart_and_sigterm_ends_with_0(start_localnet: Callable[..., Localnet]) -> None:
    chain = start_localnet(program=None)
    before = time.time()
    chain.warp(86_400)
    slot = chain.call("getSlot", {"commitment": "finalized"})
    assert chain.call("getBlockTime", slot) >= int(before) + 86_390
    assert chain.stop() == 0
    chain.start()
    assert chain.call("getSlot", {"commitment": "finalized"}) >= slot
    assert chain.call("getBlockTime", chain.call("getSlot")) >= int(before) + 86_400


def test_the_program_lies_behind_the_upgradeable_loader(
    start_localnet: Callable[..., Localnet], token_elf: Path
) -> None:
    chain = start_localnet(program=token_elf)
    data_at, _ = Pubkey.find_program_address([bytes(chain.program_id)], LOADER)
    vm = Chain(
        token_elf.with_suffix(".db"),
        program=token_elf,
        program_id=chain.program_id,
        upgrade_authority=chain.authority.public,
    )
    account, program = vm.account(data_at), vm.account(chain.program_id)
    vm.close()
    assert account is not None and program is not None
    assert account.owner == LOADER and program.owner == LOADER and program.executable
    assert account.data[:45] == struct.pack("<IQB", 3, 0, 1) + bytes(chain.authority.public)
    assert account.data[45:] == token_elf.read_bytes()
    assert program.data == struct.pack("<I", 2) + bytes(data_at)
    seen = chain.call("getAccountInfo", str(data_at), {"encoding": "base64", "dataSlice": {"offset": 0, "length": 45}})
    assert seen["value"]["owner"] == str(LOADER) and seen["value"]["space"] == len(account.data)


@pytest.mark.parametrize("content", [b"no program", b"\x7fELF" + bytes(400)])
def test_a_bad_program_file_is_refused_before_serving(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.so"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="not a loadable SBF program"):
        Chain(tmp_path / "a.db", program=file, program_id=Keypair().pubkey())


def run(chain: Localnet, *more: str) -> tuple[int, str]:
    done = subprocess.run([*chain.command(), *more], cwd=ROOT, capture_output=True, timeout=20, check=False)
    return done.returncode, done.stderr.decode()


def test_starts_that_fail_say_why(start_localnet: Callable[..., Localnet]) -> None:
    chain = start_localnet(program=None)
    code, words = run(chain)
    assert code == 3 and "another localnet" in words
    chain.stop()
    code, words = run(chain, "--upgrade-authority", "me")
    assert code == 2 and "base58" in words
    with pytest.raises(BadInput, match="this chain was made with 50"):
        Chain(chain.db, slot_ms=400)
    with pytest.raises(Unavailable, match=r"/nowhere\.so"):
        Chain(chain.db, slot_ms=50, program=Path("/nowhere.so"), program_id=chain.program_id)


def test_memory_never_runs_ahead_of_the_disk(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "a.db")
    receiver = Keypair().pubkey()
    chain.store._db.execute("PRAGMA query_only=ON")  # the disk refuses
    with pytest.raises(Exception, match="readonly"):
        chain.airdrop(receiver, 5_000_000)
    assert chain.account(receiver) is None
    chain.store._db.execute("PRAGMA query_only=OFF")
    signature = chain.airdrop(receiver, 5_000_000)
    landed = chain.store.transaction(bytes(signature))
    assert landed is not None and VersionedTransaction.from_bytes(landed.raw).signatures[0] == signature
    chain.close()
    again = Chain(tmp_path / "a.db")
    account = again.account(receiver)
    assert account is not None and account.lamports == 5_000_000
    again.close()
