"""The money commands against a real local chain with the escrow program, as owner, operator, contributor, arbiter."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer, read_key
from cloudlinkup.ledger.accounts import OPEN_WINDOW, token_address
from cloudlinkup.ledger.escrow import Ledger
from models.registry import Registry

if TYPE_CHECKING:
    from tests.cli.conftest import Cli
    from tests.conftest import Localnet, Platform

ESCROW = Path(__file__).resolve().parents[2] / "programs" / "escrow.so"
WINDOW, ARBITER, LASTS = 60, 120, 600


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, localnet: Localnet, make_platform: Callable[..., Platform]
) -> Iterator[Platform]:
    """A chain whose clock these tests warp."""
    folder = tmp_path_factory.mktemp("money")
    chain = type(localnet)(folder / "chain.db", program=ESCROW, slot_ms=20).start()
    yield make_platform(chain, min_window=WINDOW, arbiter_window=ARBITER)
    chain.stop()


def save(path: Path, key: Keypair) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(list(bytes(key))))
    return str(path)


@pytest.fixture
def home(cli: Cli, stage: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with every role's key, bound to the stage's chain, mint and owner."""
    root = tmp_path / "home"
    for role, signer in stage.keys.items():
        save(root / "keys" / f"{role}.json", signer.keypair)
    monkeypatch.setenv("CLOUDLINKUP_RPC_URL", stage.chain.url)
    monkeypatch.setenv("CLOUDLINKUP_MINT", str(stage.mint))
    monkeypatch.setenv("CLOUDLINKUP_OWNER", str(stage.keys["owner"].public))
    return root


def on_chain(stage: Platform, work: Callable[[Ledger], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        async with Ledger.connect(stage.chain.url, stage.chain.program_id, poll=0.01) as ledger:
            return await work(ledger)

    return asyncio.run(whole())


def a_job(
    stage: Platform, wallets: list[Signer], awards: dict[int, int], bonded: dict[Pubkey, int] | None = None
) -> tuple[Pubkey, bytes]:
    """An open job with a budget of 10 tokens and a cap of 1 token a seat, awarded once. (account, job id)

    `bonded`: further seats, whose wallets hold what the seat asks for.
    """

    async def make(ledger: Ledger) -> tuple[Pubkey, bytes]:
        keys, now = stage.keys, await ledger.now()
        job_id = bytearray((now * 1_000).to_bytes(6, "big") + secrets.token_bytes(10))
        job_id[6], job_id[8] = 0x70 | job_id[6] & 15, 0x80 | job_id[8] & 63
        numbers: dict[str, Any] = {"budget": 10**7, "deadline": now + LASTS, "dispute_window": WINDOW}
        numbers |= {"arbiter_window": ARBITER, "fee_bps": stage.fee_bps, "spec_hash": bytes(32)}
        roles: dict[str, Any] = {"authority": keys["operator"], "payer": keys["operator"]}
        roles |= {"owner": keys["owner"].public, "verifier": keys["verifier"].public, "mint": stage.mint}
        await ledger.open_job(job_id=bytes(job_id), **roles, **numbers)
        job = ledger.job_address(keys["owner"].public, stage.mint, bytes(job_id))
        for one in wallets:
            await ledger.create_token_account(keys["sponsor"], one.public, stage.mint)
        seats = [(one.public, 10**6, 0) for one in wallets]
        for one, bond in (bonded or {}).items():
            await ledger.mint_to(keys["admin"], stage.mint, one, bond)
            seats.append((one, 10**6, bond))
        await ledger.assign_seats(keys["operator"], keys["operator"], job, seats)
        await ledger.commit_round(keys["verifier"], job, 1, bytes(32))
        if awards:
            await ledger.award(keys["verifier"], job, 1, awards)
        return job, bytes(job_id)

    return on_chain(stage, make)


def done(answer: Any) -> Any:
    """The document of a command that must have worked."""
    assert answer.code == 0, answer.err + answer.out
    return answer.document


def test_a_wallet_is_made_filled_and_shown(cli: Cli, home: Path, tmp_path: Path) -> None:
    made = done(cli("wallet", "new", "--key", "w.json", "--json"))
    assert made["address"] == str(read_key(tmp_path / "w.json").pubkey())
    assert stat.S_IMODE((tmp_path / "w.json").stat().st_mode) == 0o600
    before = (tmp_path / "w.json").read_bytes()
    again = cli("wallet", "new", "--key", "w.json")
    assert again.code == 2 and "exists already" in again.err and (tmp_path / "w.json").read_bytes() == before
    assert len(done(cli("wallet", "airdrop", "2.5", "--key", "w.json", "--json"))["signatures"]) == 1
    shown = done(cli("wallet", "show", "--key", "w.json", "--json"))
    assert (shown["sol"], shown["tokens"], shown["deposit"], shown["can_be_paid"]) == ("2.5", "0", "0", False)
    text = cli("wallet", "show", "--key", "w.json").out
    assert "2.5 (for fees)" in text and "cannot be paid" in text
    assert str(list(json.loads(before)))[:20] not in text, "never the key itself"


def test_an_owner_opens_deposits_approves_and_withdraws(cli: Cli, home: Path, stage: Platform, tmp_path: Path) -> None:
    owner = Signer(Keypair())
    key = save(tmp_path / "o.json", owner.keypair)
    on_chain(stage, lambda one: one.mint_to(stage.keys["admin"], stage.mint, owner.public, 5_000_000))
    assert len(done(cli("account", "open", "--key", key, "--json"))["signatures"]) == 1, "the sponsor pays the fee"
    assert "says so already" in cli("account", "open", "--key", key).out
    assert "none" in cli("account", "show", "--owner", str(owner.public)).out
    done(cli("account", "deposit", "3.25", "--key", key, "--json"))
    done(cli("account", "withdraw", "0.000001", "--key", key, "--json"))
    limits = ("--max-per-job", "1.5", "--limit", "2", "--days", "7", "--key", key)
    done(cli("account", "operator", *limits, "--json"))
    shown = done(cli("account", "show", "--owner", str(owner.public), "--json"))
    assert (shown["deposit"], shown["max_per_job"], shown["spending_limit"]) == ("3.249999", "1.5", "2")
    assert shown["operator"] == str(stage.keys["operator"].public) and not shown["expired"]
    assert "spending limit  2 left, 1.5 a job" in cli("account", "show", "--owner", str(owner.public)).out
    assert "Taken back" in cli("account", "operator", "--revoke", "--key", key).out
    shown = done(cli("account", "show", "--owner", str(owner.public), "--json"))
    assert shown["spending_limit"] == "0" and shown["operator"] == str(Pubkey.default())
    poor = cli("account", "withdraw", "99", "--key", key, "--json")
    assert poor.code == 4 and poor.document["error"]["name"] == "InsufficientFunds"
    assert poor.document["error"]["fix"].startswith("deposit more") and poor.document["error"]["code"] == 6021


def test_a_jobs_money_from_award_to_rent(cli: Cli, home: Path, stage: Platform) -> None:
    honest, accused, missed = (Signer(Keypair()) for _ in range(3))
    job, job_id = a_job(stage, [honest, accused, missed], {0: 400_000, 1: 300_000, 2: 100_000})
    save(home / "contributors" / "three" / "wallet.json", missed.keypair)
    listed = done(cli("escrow", "list", "--json"))["jobs"]
    assert [(one["state"], one["approved"]) for one in listed if one["job"] == str(job)] == [("running", "0.8")]
    assert str(job) in cli("escrow", "list").out

    done(cli("escrow", "dispute", str(job), "1", "--json"))
    assert "says so already" in cli("escrow", "dispute", job_id.hex(), "1").out
    shown = done(cli("escrow", "show", job_id.hex(), "--json"))
    assert (shown["budget"], shown["approved"], shown["payable_now"]) == ("10", "0.8", "0")
    assert [seat["state"] for seat in shown["seats"]] == ["active", "disputed", "active"]
    assert (shown["seats"][1]["ruling_from"], shown["seats"][1]["ruling_to"]) == ("0", "0.3")
    text = cli("escrow", "show", str(job)).out
    assert "approved pay 0.8" in text and "disputed" in text and "approved pay from 0 to 0.3" in text
    too_much = cli("escrow", "resolve", str(job), "1", "0.4", "--json")
    assert too_much.code == 4 and too_much.document["error"]["name"] == "AwardOutOfRange"
    done(cli("escrow", "resolve", str(job), "1", "0.05", "--json"))

    stage.chain.warp(2 * WINDOW)
    assert len(done(cli("escrow", "pay", str(job), "--json"))["signatures"]) == 1
    assert "says so already" in cli("escrow", "pay", str(job)).out
    held = [on_chain(stage, lambda one, w=w: one.token_balance(w.public, stage.mint)) for w in (honest, accused)]
    assert held == [400_000, 50_000]

    early = cli("escrow", "close", str(job), "--json")
    assert early.code == 4 and early.document["error"]["name"] == "JobNotEnded"
    early = cli("escrow", "appeal", str(job), "2", "0.7", "--json")
    assert early.code == 4 and early.document["error"]["name"] == "AppealClosed"
    stage.chain.warp(LASTS - 2 * WINDOW)
    done(cli("escrow", "appeal", str(job), "2", "0.7", "--json"))
    assert done(cli("escrow", "show", str(job), "--json"))["seats"][2]["state"] == "appealed"
    done(cli("escrow", "resolve", str(job), "2", "0.65", "--json"))
    done(cli("escrow", "pay", str(job), "--json"))
    assert on_chain(stage, lambda one: one.token_balance(missed.public, stage.mint)) == 650_000
    stage.chain.warp(WINDOW)
    done(cli("escrow", "close", str(job), "--json"))
    assert done(cli("escrow", "show", str(job), "--json"))["held"] == "0"
    stage.chain.warp(OPEN_WINDOW)
    done(cli("escrow", "close", str(job), "--json"))
    gone = cli("escrow", "show", str(job))
    assert gone.code == 2 and "no such job" in gone.err


ONLY_THE_WHEEL = """
import sys
from pathlib import Path
absent = ("anchorpy", "solana", "spl", "based58", "prefect", "xgboost", "distributed")
sys.modules.update(dict.fromkeys(absent))
import cloudlinkup.home
cloudlinkup.home.checkout = lambda: None
from cloudlinkup.cli.main import run
sys.exit(max(run([*line.split(), "--json"]) for line in sys.argv[1:]))
"""


def test_a_contributor_needs_only_the_wheel(home: Path, stage: Platform, cli: Cli) -> None:
    """It looks at its seat, posts the bond and appeals without AnchorPy or a checkout; and takes its pay elsewhere."""
    wallet = Signer(Keypair())
    job, _ = a_job(stage, [], {}, bonded={wallet.public: 50_000})
    save(home / "contributors" / "mine" / "wallet.json", wallet.keypair)

    def wheel(*lines: str) -> list[Any]:
        argv = [sys.executable, "-c", ONLY_THE_WHEEL, *lines]
        env = {**os.environ, "CLOUDLINKUP_HOME": str(home)}
        ran = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        decoder, documents, rest = json.JSONDecoder(), [], ran.stdout.strip()
        while rest:
            document, end = decoder.raw_decode(rest)
            documents, rest = [*documents, document], rest[end:].strip()
        return documents

    shown, first, again = wheel(f"escrow show {job}", f"escrow accept {job} 0", f"escrow accept {job} 0")
    assert (shown["seats"][0]["state"], shown["seats"][0]["bond"], shown["mint"]) == (
        "bond asked",
        "0.05",
        str(stage.mint),
    )
    assert (len(first["signatures"]), again["signatures"]) == (1, [])
    stage.chain.warp(LASTS)
    [appealed] = wheel(f"escrow appeal {job} 0 0.9")
    assert len(appealed["signatures"]) == 1
    done(cli("escrow", "resolve", str(job), "0", "0.8", "--slash", "0.02", "--json"))
    target = token_address(stage.keys["treasury"].public, stage.mint)[0]
    before = on_chain(stage, lambda one: one.vault_balance(target))
    assert len(done(cli("escrow", "collect", str(job), "0", "--to", str(target), "--json"))["signatures"]) == 1
    assert on_chain(stage, lambda one: one.vault_balance(target)) == before + 800_000
    stage.chain.warp(WINDOW)
    done(cli("escrow", "pay", str(job), "--json"))
    assert on_chain(stage, lambda one: one.token_balance(wallet.public, stage.mint)) == 30_000, "what was not slashed"


def test_the_platforms_terms(cli: Cli, home: Path, stage: Platform, tmp_path: Path) -> None:
    heir = Signer(Keypair())
    key = save(tmp_path / "heir.json", heir.keypair)
    old = done(cli("ops", "config", "show", "--json"))
    assert (old["fee_bps"], old["min_window"], old["next_admin"]) == (stage.fee_bps, WINDOW, None)
    done(cli("ops", "config", "set", "--fee-bps", "123", "--json"))
    assert "123 basis points" in cli("ops", "config", "show").out
    assert "says so already" in cli("ops", "config", "set", "--fee-bps", "123").out
    done(cli("ops", "config", "set", "--fee-bps", str(stage.fee_bps), "--json"))
    assert cli("ops", "config", "accept", "--key", key).code == 4
    for _ in range(2):
        cli("ops", "config", "hand-over", str(heir.public))
        assert "has not accepted yet" in cli("ops", "config", "show").out
        cli("ops", "config", "hand-over", "--cancel")
        assert done(cli("ops", "config", "show", "--json"))["next_admin"] is None
    done(cli("ops", "config", "hand-over", str(heir.public), "--json"))
    assert done(cli("ops", "config", "accept", "--key", key, "--json"))["admin"] == str(heir.public)
    refused = cli("ops", "config", "set", "--fee-bps", "1", "--json")
    assert refused.code == 4 and refused.document["error"]["name"] == "Unauthorized"
    done(cli("ops", "config", "hand-over", str(stage.keys["admin"].public), "--key", key, "--json"))
    done(cli("ops", "config", "accept", "--key", str(home / "keys" / "admin.json"), "--json"))


def test_versions_of_the_predictor(cli: Cli, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home" / "models")
    assert cli("ops", "model", "rollback").code == 3
    registry.add(replace(registry.load("0"), version="1"))
    listed = done(cli("ops", "model", "list", "--json"))
    assert [(one["version"], one["plans"]) for one in listed["versions"]] == [("0", True), ("1", False)]
    assert done(cli("ops", "model", "promote", "1", "--json")) == {"version": "1", "previous": "0"}
    assert registry.pointer.version == "1" and "plans" in cli("ops", "model", "list").out
    assert done(cli("ops", "model", "show", "--json"))["version"] == "1"
    assert "Version 0 plans now" in cli("ops", "model", "rollback").out and registry.pointer.version == "0"
    assert cli("ops", "model", "promote", "7").code == 2


BAD = [
    ("account deposit 1e3", "amount = '1e3'"),
    ("account deposit 0.0000001", "finer than this mint's 6 decimals"),
    ("account deposit 0", "is nothing"),
    ("account deposit nan", "amount = 'nan'"),
    ("account deposit 99999999999999999999", "larger than any token account"),
    ("account withdraw 1 --to here", "to = 'here'"),
    ("account operator --limit 5", "both limits"),
    ("account operator --limit 5 --max-per-job x", "max-per-job = 'x'"),
    ("account operator --limit 5 --max-per-job 5 --days 0", "days = 0"),
    ("account operator --revoke --limit 5", "leave the limits out"),
    ("wallet airdrop 0", "sol = '0'"),
    ("wallet airdrop 2000000", "sol = '2000000'"),
    ("escrow show nothing", "not a request id, job id or account"),
    ("escrow pay 00000000-0000-4000-8000-000000000000", "there is no such job"),
    ("escrow dispute JOB 7", "the job has 1 seats"),
    ("escrow dispute JOB x", "command line"),
    ("escrow appeal JOB 0 1", "is not in this home"),
    ("escrow resolve JOB 0 -- -1", "amount = '-1'"),
    ("escrow resolve JOB 0 1 --slash 0.00000001", "slash = '0.00000001'"),
    ("ops config set", "nothing to change"),
    ("ops config set --fee-bps -1", "fee-bps = -1"),
    ("ops config set --arbiter nobody", "arbiter = 'nobody'"),
    ("ops config hand-over", "one of an address and --cancel"),
]


@pytest.fixture(scope="module")
def one_job(stage: Platform) -> str:
    return str(a_job(stage, [Signer(Keypair())], {0: 1})[0])


@pytest.mark.parametrize(("words", "problem"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_ends_with_2_and_names_the_field(
    cli: Cli, home: Path, one_job: str, words: str, problem: str
) -> None:
    answer = cli(*words.replace("JOB", one_job).split())
    assert answer.code == 2 and problem in answer.err and "Fix: " in answer.err, answer.err


@pytest.mark.parametrize("words", ["wallet show", "escrow list", "account open", "ops config show"])
def test_no_chain_ends_with_3(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("CLOUDLINKUP_RPC_URL", "http://127.0.0.1:9/secret-key")
    answer = cli(*words.split())
    assert answer.code == 3 and "Fix: start it" in answer.err and "secret" not in answer.err


def test_no_key_ends_with_3(cli: Cli, home: Path) -> None:
    answer = cli("account", "open", "--key", "nowhere.json")
    assert answer.code == 3 and "nowhere.json is missing" in answer.err
