"""The command: what --dry-run says and does not do, bad options, the delegation to sign elsewhere, the lazy example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.cli.main import run
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.verify import merkle
from cloudlinkup.verify.replay import Case, Claim, replay
from cloudlinkup.wire.messages import Commit, Order
from examples.lazy_contributor import LazyRunner
from tests.agent.chain_server import GENESIS, ChainServer
from tests.agent.flow import Desk
from tests.agent.test_handler import honest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GATEWAY_URL", "RPC_URL", "CA_FILE", "PROGRAM_ID"):
        monkeypatch.delenv(f"CLOUDLINKUP_{name}", raising=False)
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_dry_run_says_what_would_happen_and_does_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["contribute", "--dry-run", "--share", "0.25", "--ask", "2.5", "--gateway", "wss://gateway.test:1"]
    assert run([*line, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for said in ("wss://gateway.test:1", "25% of the device for 2.5 tokens", "What leaves this machine", "threads"):
        assert said in text.replace("thread(s)", "threads")
    assert run(["contribute", "--dry-run", "--json", "--ask", "2.5", "--device", "cpu"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (document["ask"], document["probes"], document["agent"]) == ("2500000", None, None)
    assert (document["reserve"], document["available"]) == (None, "always")
    offer = ["--ask", "0.000002/step", "--reserve", "0.000001", "--available", "22:00-06:00"]
    assert run(["contribute", "--dry-run", "--json", "--device", "cpu", *offer]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ask"], document["ask_unit"]) == ("2", "base units a step")
    assert (document["reserve"], document["available"]) == ("1", "22:00-06:00")
    assert (document["most_bond"], document["mint"], document["longest_window"]) == ("0", None, 604_800)
    mint = "So11111111111111111111111111111111111111112"
    takes = ["--bond", "2", "--mint", mint, "--longest-window", "60"]
    assert run(["contribute", "--dry-run", "--json", "--device", "cpu", *takes]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["most_bond"], document["mint"], document["longest_window"]) == ("2000000", mint, 60)
    assert not home.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--share", "0"],
        ["--cache", "0"],
        ["--share", "1.5"],
        ["--ask", "cheap"],
        ["--ask", "0.0000001"],
        ["--ask", "0"],
        ["--ask", "1/epoch"],
        ["--ask", "99999999999999999999"],
        ["--ask", "1", "--reserve", "2"],
        ["--available", "at night"],
        ["--name", "../x"],
        ["--gateway", "http://gateway.test"],
        ["--device", "tpu"],
        ["--threads", "0"],
        ["--bond", "some"],
        ["--mint", "gold"],
        ["--longest-window", "0"],
        ["--no-such-option"],
    ],
)
def test_bad_options(home: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert run(["contribute", "--dry-run", "--json", *options]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2
    assert not home.exists()


def test_print_delegation(home: Path, capsys: pytest.CaptureFixture[str], chain: ChainServer) -> None:
    wallet = str(Keypair().pubkey())
    options = ["--wallet", wallet, "--gateway", "wss://gateway.test:1", "--rpc-url", chain.url]
    assert run(["contribute", "--print-delegation", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    text = json.loads(printed["text"])
    assert (text["wallet"], text["gateway"], text["genesis"]) == (wallet, "wss://gateway.test:1", GENESIS)
    assert run(["contribute", "--dry-run", "--json", *options]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["agent"] == text["agent"]
    assert "--print-delegation" in shown["delegation"]
    assert not (home / "contributors" / "default" / "wallet.json").exists()
    chain.silent = True
    assert run(["contribute", "--print-delegation", "--json", *options]) == 3


async def test_the_lazy_contributor_is_caught_by_a_replay(make_desk: Any) -> None:
    desk: Desk = make_desk(runner_factory=LazyRunner)
    signed, _, reply = await desk.order(max_segments=4)
    commit: Commit = desk.flow.read(Commit, reply.commit)
    order = Order.model_validate_json(signed.text)
    assert commit.segments == 4
    assert commit.root != merkle.root(honest(desk.flow, signed)[1]).hex()
    folder = next(desk.jobs.glob("*/orders/*"))
    data = (folder / "leaves").read_bytes()
    leaves = tuple(data[i : i + 32] for i in range(0, len(data), 32))
    case = Case(
        spec=desk.flow.spec,
        work=ShardWork(bytes.fromhex(order.seed), 5, 4, order.progress_from, order.progress_to),
        published=desk.flow.weights,
        features=desk.flow.features,
        targets=desk.flow.targets,
        claim=Claim(
            order_hash=signed.hash,
            wallet=bytes(Pubkey.from_string(order.wallet)),
            root=bytes.fromhex(commit.root),
            segments=4,
            upload_hash=bytes.fromhex(commit.upload),
            leaves=leaves,
        ),
        drawn=frozenset({2}),
    )
    result = replay(case)  # its steps 10 and 20 are missing: segments 2 and 4
    assert result.miss is not None
    assert (result.miss.what, result.miss.segment) == ("leaf", 2)
