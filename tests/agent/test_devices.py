"""Several devices of one machine under one key: each a worker of its own, none of which ends the others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import torch

from cloudlinkup.agent.hardware import choose_devices, describe
from cloudlinkup.agent.identity import delegation_for, of_device, open_identity
from cloudlinkup.agent.probes import fingerprint
from cloudlinkup.cli.main import run
from cloudlinkup.cluster.dispatch import Cluster, verify_description
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput, ContributorLost, ProtocolError
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.wire.calls import TrainReply
from cloudlinkup.wire.messages import Commit, agent_key, sign
from deployments.tls import Certificates
from tests.agent.chain_server import GENESIS, ChainServer
from tests.agent.flow import until
from tests.agent.site import Child, Site

TWO = ("--device", "cpu,cpu")


@pytest.fixture
async def site(tmp_path: Path, certificates: Certificates, chain: ChainServer, verifier: Signer) -> AsyncIterator[Site]:
    made = Site(tmp_path, certificates, chain, verifier)
    kept = (made.identity.folder / "probes.json").read_bytes()
    document = json.loads(kept) | {"fingerprint": fingerprint(describe("cpu", 1, alike=2))}
    for number in (0, 1):  # measured before: it takes seconds
        (of_device(made.identity, number).folder / "probes.json").write_text(json.dumps(document))
    yield made
    await made.close()


async def connected(cluster: Cluster, names: set[str]) -> None:
    async with asyncio.timeout(90):
        while True:
            if {c.agent for c in await cluster.contributors()} == names:
                return
            await asyncio.sleep(0.05)


def processes(child: Child) -> list[psutil.Process]:
    """The devices' own, in the order in which they were started."""
    found = psutil.Process(child.process.pid).children()
    devices = [p for p in found if "resource_tracker" not in " ".join(p.cmdline())]
    return sorted(devices, key=lambda p: (p.create_time(), p.pid))


def test_which_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_devices("cpu") == {None: "cpu"}
    assert choose_devices("cpu,cpu") == {0: "cpu", 1: "cpu"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_devices("all") == {0: "cuda:0", 1: "cuda:1", 2: "cuda:2"}
    assert choose_devices("cuda:2,cuda:0") == {2: "cuda:2", 0: "cuda:0"}  # whatever else is offered, the same name
    assert choose_devices("cuda:1,cpu") == {0: "cuda:1", 1: "cpu"}
    assert choose_devices("cuda:1") == {None: "cuda:1"}
    for bad, why in (
        ("cuda:0,cuda:0", "twice"), ("cuda,cuda:0", "twice"), ("auto,cpu", "auto"), ("cuda:0,", "unknown"),
        ("cuda:7,cuda:0", "3 usable"), ("all,cpu", "unknown"), (",".join(["cpu"] * 40), "more than"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=why):
            choose_devices(bad)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_devices("all") == {None: "cpu"}


def test_the_devices_of_a_key_share_its_delegation_and_nothing_else(tmp_path: Path) -> None:
    facts = {"gateway": "wss://g.test:1", "genesis": GENESIS, "program": PROGRAM_ID}
    one = open_identity(tmp_path / "one", None)
    first, second = of_device(one, 0), of_device(one, 1)
    assert (first.name, second.name) == (f"{one.agent.public}/0", f"{one.agent.public}/1")
    assert one.name == agent_key(first.name) == str(one.agent.public)
    assert first.sealing_keys[0][1].public != second.sealing_keys[0][1].public
    cold = open_identity(tmp_path / "cold", one.wallet)
    with pytest.raises(BadInput, match="has not delegated"):
        delegation_for(of_device(cold, 0), None, **facts)
    signed = delegation_for(one, None, **facts)
    assert delegation_for(first, None, **facts) == signed, "found beside the keys"


def test_a_dry_run_tells_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path / "home"))
    assert run(["contribute", "--dry-run", "--json", *TWO]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(d["number"], d["device"]) for d in document["devices"]] == [(0, "cpu"), (1, "cpu")]
    memory = sum(d["hardware"]["memory"] for d in document["devices"])
    assert memory == pytest.approx(describe("cpu", 1).memory, abs=2), "both together offer what one would"
    assert run(["contribute", "--dry-run", *TWO]) == 0
    assert "Device 1" in capsys.readouterr().out and not (tmp_path / "home").exists()


async def test_each_is_a_worker_of_its_own_until_ctrl_c(site: Site) -> None:
    key = str(site.identity.agent.public)
    async with site.cell() as cluster:
        child = await site.contribute(*TWO)
        await connected(cluster, {f"{key}/0", f"{key}/1"})
        described = [
            verify_description(c.description, GENESIS, PROGRAM_ID, site.gateway, time.time())
            for c in await cluster.contributors()
        ]
        assert {delegation.wallet for delegation, _ in described} == {site.identity.wallet}
        assert len({hello.sealing_key for _, hello in described}) == 2
        child.signal(signal.SIGINT)
        code, out = await child.exit(60)
    document = json.loads(out)
    assert code == 0 and [(d["agent"], d["exit_code"]) for d in document["devices"]] == [
        (f"{key}/0", 0),
        (f"{key}/1", 0),
    ]
    assert {event["device"] for event in child.seen("left")} == {0, 1}


async def test_one_that_dies_does_not_end_the_other(site: Site) -> None:
    key = str(site.identity.agent.public)
    async with site.cell() as cluster:
        child = await site.contribute(*TWO)
        await connected(cluster, {f"{key}/0", f"{key}/1"})
        processes(child)[0].kill()
        await connected(cluster, {f"{key}/1"})
        await until(lambda: bool(child.seen("failed")))
        assert child.seen("failed")[0]["device"] == 0
        with pytest.raises(ContributorLost):
            await _train(site, cluster, f"{key}/0")
        assert (await _train(site, cluster, f"{key}/1")).segments > 0
        child.signal(signal.SIGTERM)
        code, out = await child.exit(90)
    assert code == 1 and [d["exit_code"] for d in json.loads(out)["devices"]] == [1, 0]


async def _train(site: Site, cluster: Cluster, name: str) -> Commit:
    for one in await cluster.contributors():
        if one.agent == name:
            _, hello = verify_description(one.description, GENESIS, PROGRAM_ID, site.gateway, time.time())
            site.flow.agent, site.flow.sealing = name, hello.sealing_key
    signed = site.flow.order()
    result = await cluster.call(name, site.flow.request(await site.flow.call(signed), 60.0), "train")
    commit = site.flow.read(Commit, TrainReply.unpack(result.body, 10**6).commit)
    opening = site.flow.challenge_request(site.flow.challenge(signed, commit, open=(2,)))
    await cluster.call(name, opening.model_copy(update={"deadline": 20.0}), "challenge")  # else it waits for it
    return commit


async def test_they_leave_when_the_process_that_began_them_is_killed(site: Site) -> None:
    key = str(site.identity.agent.public)
    async with site.cell() as cluster:
        child = await site.contribute(*TWO)
        await connected(cluster, {f"{key}/0", f"{key}/1"})
        devices = processes(child)
        os.kill(child.process.pid, signal.SIGKILL)
        await connected(cluster, set())
        await until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in devices))


async def test_an_order_for_one_device_is_refused_by_the_other(site: Site) -> None:
    key = str(site.identity.agent.public)
    async with site.cell() as cluster:
        await site.contribute(*TWO)
        await connected(cluster, {f"{key}/0", f"{key}/1"})
        site.flow.agent = f"{key}/0"
        call = await site.flow.call(site.flow.order())
        result = await cluster.call(f"{key}/1", site.flow.request(call, 60.0), "train")
        assert result.ack is not None and '"terms"' in result.ack.text


async def test_a_hello_is_of_its_own_key_s_devices_only(site: Site) -> None:
    """Nobody takes another's name, whatever number it adds."""
    other = open_identity(site.folder / "other", None)
    async with site.cell() as cluster:
        child = await site.contribute(*TWO)
        await connected(cluster, {f"{site.identity.name}/0", f"{site.identity.name}/1"})
        described = (await cluster.contributors())[0].description
        hello = json.loads(described.hello.text)
        child.signal(signal.SIGTERM)
    _, told = verify_description(described, GENESIS, PROGRAM_ID, site.gateway, time.time())
    own = delegation_for(other, None, gateway=site.gateway, genesis=GENESIS, program=PROGRAM_ID)
    forged = described.model_copy(update={"hello": sign(other.agent, told), "delegation": own})
    assert hello["agent"].startswith(site.identity.name)
    with pytest.raises(ProtocolError, match="another agent key"):
        verify_description(forged, GENESIS, PROGRAM_ID, site.gateway, time.time())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
async def test_a_gpu_and_the_cpu_work_side_by_side(site: Site) -> None:
    key = str(site.identity.agent.public)
    async with site.cell() as cluster:
        child = await site.contribute("--device", "cuda:0,cpu")
        await connected(cluster, {f"{key}/0", f"{key}/1"})
        for name in (f"{key}/0", f"{key}/1"):
            assert (await _train(site, cluster, name)).segments > 0
        child.signal(signal.SIGINT)
        code, _ = await child.exit(90)
    assert code == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_described_and_numbered_by_torch() -> None:
    found = choose_devices("all")
    assert len(found) == max(1, torch.cuda.device_count()) and "cpu" not in found.values()
    assert describe("cuda:0", 1).kind == "cuda"
    if torch.cuda.device_count() > 1:
        assert choose_devices("cuda:0,cuda:1") == {0: "cuda:0", 1: "cuda:1"}
