"""The agent against a real cell over TLS: rounds, lost connections, refusals, signals, kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from cloudlinkup.agent.agent import Agent
from cloudlinkup.agent.channel import Refusal, gateway_parts
from cloudlinkup.cluster.dispatch import Cluster, verify_description
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput, ClusterLost, ContributorLost, LedgerError, ProtocolError
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.verify import merkle
from cloudlinkup.wire.calls import CallRequest, CallResult, ChallengeReply, FinishCall, TrainReply
from cloudlinkup.wire.frames import MAX_FRAME, Call, Challenge, Welcome
from cloudlinkup.wire.messages import Commit, Order
from deployments.tls import Certificates, make_certificates
from tests.agent.chain_server import GENESIS, ChainServer
from tests.agent.flow import JOB_ID, until
from tests.agent.site import Site
from tests.agent.test_handler import honest

Events = list[tuple[str, dict[str, Any]]]


@pytest.fixture
async def site(tmp_path: Path, certificates: Certificates, chain: ChainServer, verifier: Signer) -> AsyncIterator[Site]:
    made = Site(tmp_path, certificates, chain, verifier)
    yield made
    await made.close()


class Slow(SegmentRunner):
    def step(self, index: int) -> None:
        time.sleep(0.01)
        super().step(index)


def commit_of(site: Site, result: CallResult) -> tuple[TrainReply, Commit]:
    reply = TrainReply.unpack(result.body, 10**6)
    return reply, site.flow.read(Commit, reply.commit)


async def joined(site: Site, cluster: Cluster) -> None:
    """Until the flow sees the contributor."""
    async with asyncio.timeout(60):
        while True:
            if site.flow.agent in {c.agent for c in await cluster.contributors()}:
                return
            await asyncio.sleep(0.05)


async def challenge(site: Site, cluster: Cluster, call: Any, deadline: float = 20) -> ChallengeReply:
    request = site.flow.challenge_request(call).model_copy(update={"deadline": deadline})
    result = await cluster.call(site.flow.agent, request, "challenge")
    return ChallengeReply.unpack(result.body, 10**6)


# ---------------------------------------------------------------- in this process


async def test_it_leaves_at_the_end_of_its_hours_and_comes_back(site: Site) -> None:
    events: Events = []
    hour = [12.5]
    async with site.cell() as cluster:
        agent = site.agent(
            events, ask=5, ask_per="step", reserve=3, windows=((720, 780),), clock=lambda: 3_600 * hour[0]
        )
        running = site.start(agent)
        await joined(site, cluster)
        (one,) = await cluster.contributors()
        _, hello = verify_description(one.description, GENESIS, PROGRAM_ID, site.gateway, time.time())
        assert (hello.ask, hello.ask_per, hello.reserve, hello.windows) == (5, "step", 3, ((720, 780),))
        hour[0] = 13.25
        await until(lambda: any("outside our hours (12:00-13:00 UTC)" in str(f.get("why")) for _, f in events))
        assert not running.done() and not await cluster.contributors()
        hour[0] = 36.0  # noon of the next day
        await joined(site, cluster)


async def test_a_round_through_a_real_gateway(site: Site) -> None:
    events: Events = []
    async with site.cell() as cluster:
        site.start(site.agent(events))
        await joined(site, cluster)
        (described,) = await cluster.contributors()
        delegation, hello = verify_description(described.description, GENESIS, PROGRAM_ID, site.gateway, time.time())
        assert (delegation.wallet, hello.share) == (site.identity.wallet, 1.0)
        signed = site.flow.order()
        result = await site.train(cluster, await site.flow.call(signed))
        site.flow.accepted(result.ack, signed)
        assert 0 < result.seconds_to_ack < 30
        _, commit = commit_of(site, result)
        assert commit.root == merkle.root(honest(site.flow, signed)[1]).hex()
        opened = await challenge(site, cluster, site.flow.challenge(signed, commit, open=(2,)))
        order = Order.model_validate_json(signed.text)
        state = await site.flow.open(opened.openings[0].state, order, "opening", 1)
        assert state == honest(site.flow, signed)[0][1]
        bad = site.flow.order(round=2, wallet=str(Keypair().pubkey()))
        result = await site.train(cluster, await site.flow.call(bad))
        assert (site.flow.bad(result.ack).reason, result.body) == ("terms", b"")
        finish = CallRequest(kind="finish", body=FinishCall(job_id=JOB_ID, reason="done").pack(), deadline=5)
        await cluster.call(site.flow.agent, finish, "finish")
        assert not list((site.identity.folder / "jobs").iterdir())
    assert [event for event, _ in events if event != "segment"] == [
        "connected", "order", "trained", "included", "refused", "finished",
    ]  # fmt: skip


async def test_a_lost_connection_loses_no_work(site: Site) -> None:
    events: Events = []
    signed = site.flow.order()
    call = await site.flow.call(signed)
    async with site.cell_process() as cluster:
        site.start(site.agent(events, Slow))
        await joined(site, cluster)
        training = asyncio.create_task(site.train(cluster, call))
        await until(lambda: any(event == "segment" for event, _ in events))
    with pytest.raises(ClusterLost):
        await training
    await until(lambda: any(event == "trained" for event, _ in events))  # with no gateway at all
    async with site.cell() as cluster:
        await joined(site, cluster)
        result = await site.train(cluster, call)
        _, commit = commit_of(site, result)
        assert commit.root == merkle.root(honest(site.flow, signed)[1]).hex()
    names = [event for event, _ in events]
    assert names.count("trained") == 1
    assert names.count("connected") == 2
    assert "waiting" in names


async def test_a_cancelled_call_frees_the_device(site: Site) -> None:
    events: Events = []
    async with site.cell() as cluster:
        site.start(site.agent(events, Slow))
        await joined(site, cluster)
        long = await site.flow.call(site.flow.order(max_segments=200, progress_to=900_000))
        training = asyncio.create_task(site.train(cluster, long))
        await until(lambda: any(event == "segment" for event, _ in events))
        training.cancel()
        await asyncio.gather(training, return_exceptions=True)
        signed = site.flow.order(attempt=1)
        result = await site.train(cluster, await site.flow.call(signed))
        assert commit_of(site, result)[1].segments == 4


async def ends_with(agent: Agent, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        async with asyncio.timeout(60):
            await agent.run()


async def test_refusals_that_cannot_heal_end_the_agent(site: Site, chain: ChainServer) -> None:
    other = str(Keypair().pubkey())
    async with site.cell(allow=frozenset({other})):
        await ends_with(site.agent([]), Refusal, "wallet")
    async with site.cell(gateway_name="wss://another.test"):
        await ends_with(site.agent([]), ProtocolError, "another.test")
    async with site.cell(genesis=other):
        await ends_with(site.agent([]), LedgerError, "another chain")
    async with site.cell(program=other):
        await ends_with(site.agent([]), LedgerError, "program")
    assert (Refusal("wallet", "").exit_code, LedgerError().exit_code) == (6, 4)


async def test_an_untrusted_certificate_is_no_gateway(site: Site, tmp_path: Path) -> None:
    events: Events = []
    strangers = make_certificates(tmp_path / "strangers")
    async with site.cell() as cluster:
        site.start(site.agent(events, ca_file=strangers.ca))
        await until(lambda: sum(event == "waiting" for event, _ in events) >= 2)
        assert await cluster.contributors() == []
    assert all("certificate" in facts["why"] for event, facts in events if event == "waiting")


async def test_one_that_was_started_before_its_home_was_made_finds_the_ca_later(site: Site, tmp_path: Path) -> None:
    events: Events = []
    ca = tmp_path / "later" / "ca.pem"
    async with site.cell() as cluster:
        site.start(site.agent(events, ca_file=None, home_ca=ca))
        await until(lambda: any(event == "waiting" for event, _ in events))
        ca.parent.mkdir()
        ca.write_text("half written")
        await until(lambda: any("PEM" in facts.get("why", "") for _, facts in events))
        shutil.copy(site.certificates.ca, ca)
        await joined(site, cluster)


async def test_a_ca_that_is_made_anew_is_read_again(site: Site, tmp_path: Path) -> None:
    events: Events = []
    ca = tmp_path / "ca.pem"
    shutil.copy(make_certificates(tmp_path / "old").ca, ca)
    async with site.cell() as cluster:
        site.start(site.agent(events, ca_file=ca))
        await until(lambda: any("certificate" in facts.get("why", "") for _, facts in events))
        shutil.copy(site.certificates.ca, ca)
        await joined(site, cluster)


VERSION_99 = Challenge(protocol=99, nonce="0" * 64, gateway="wss://g", genesis=GENESIS, program=PROGRAM_ID).pack()


@pytest.mark.parametrize(
    "said",
    [
        "text",
        b"\xc1junk",
        b"\x80" * 10,
        Call(id=1, kind="train", body=b"", deadline=1.0).pack(),
        Welcome(session="s" * 32).pack(),
        VERSION_99,
        bytes(MAX_FRAME + 1),
    ],
    ids=["text", "junk", "maps", "call first", "welcome first", "version", "giant"],
)
async def test_a_hostile_gateway_gets_nothing_and_stops_nobody(
    site: Site, certificates: Certificates, said: bytes | str
) -> None:
    """The agent hangs up, says why, and dials again: except where another version could not heal."""
    events: Events = []
    heard: list[bytes | str] = []

    async def talk(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(said)
            heard.append(await asyncio.wait_for(socket.recv(), 5))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    async with serve(talk, "127.0.0.1", site.port, ssl=context):
        agent = site.start(site.agent(events))
        if said == VERSION_99:
            with pytest.raises(Refusal, match="version 99"):
                await agent
        else:
            await until(lambda: any(event == "waiting" for event, _ in events))
            assert not agent.done()
        await site.stop_agents()
    assert heard == []


def test_gateway_addresses() -> None:
    assert gateway_parts("wss://host:1") == ("wss://host:1/ws", "https://host:1")
    for url in ("ws://host:1", "wss://", "wss://user@host", "wss://host/x", "wss://host?q=1", "wss://host:x", "host"):
        with pytest.raises(BadInput):
            gateway_parts(url)


# ---------------------------------------------------------------- signals


async def training_begun(site: Site, cluster: Cluster, events: Events, **order: Any) -> tuple[Any, asyncio.Task[Any]]:
    await joined(site, cluster)
    signed = site.flow.order(progress_to=900_000, **order)
    training = asyncio.create_task(site.train(cluster, await site.flow.call(signed)))
    await until(lambda: any(event == "segment" for event, _ in events))
    return signed, training


async def test_drain_bound_commits_what_is_done_and_a_second_signal_stops(site: Site) -> None:
    events: Events = []
    async with site.cell() as cluster:
        agent = site.start(site.agent(events, Slow, drain_seconds=0.2))
        _, training = await training_begun(site, cluster, events, max_segments=2_000)
        os.kill(os.getpid(), signal.SIGTERM)
        _, commit = commit_of(site, await training)
        assert 1 <= commit.segments < 20
        await asyncio.sleep(0.2)
        assert not agent.done()  # it waits for the audit of what it delivered
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await agent == 130


async def test_sigint_waits_for_shard_and_audit_and_no_longer(site: Site) -> None:
    events: Events = []
    async with site.cell() as cluster:
        agent = site.start(site.agent(events, Slow))
        signed, training = await training_begun(site, cluster, events, max_segments=6)
        os.kill(os.getpid(), signal.SIGINT)
        _, commit = commit_of(site, await training)
        assert commit.segments == 6
        await challenge(site, cluster, site.flow.challenge(signed, commit, open=(4,)))
        async with asyncio.timeout(60):
            assert await agent == 0
    assert [event for event, _ in events][-2:] == ["included", "left"]


# ---------------------------------------------------------------- the command, as a process


async def test_kill_9_then_the_same_order_then_sigterm(site: Site) -> None:
    async with site.cell() as cluster:
        child = await site.contribute("--share", "0.05")
        await joined(site, cluster)
        signed = site.flow.order(max_segments=40, progress_to=900_000)
        call = await site.flow.call(signed)
        training = asyncio.create_task(site.train(cluster, call))
        await until(lambda: len(child.seen("segment")) > 1, 40)  # a state is written while the next segment is trained
        child.signal(signal.SIGKILL)
        with pytest.raises(ContributorLost):
            await training
        await child.exit()
        again = await site.contribute()
        await joined(site, cluster)
        result = await site.train(cluster, call)
        _, commit = commit_of(site, result)
        assert commit.root == merkle.root(honest(site.flow, signed)[1]).hex()
        await until(lambda: bool(again.seen("trained")))
        assert again.seen("segment")[0]["done"] > 1  # it went on, and did not begin anew
        await challenge(site, cluster, site.flow.challenge(signed, commit, open=(30,)))
        again.signal(signal.SIGTERM)
        code, out = await again.exit()
    assert code == 0
    document = json.loads(out)
    assert (document["agent"], document["segments"]) == (site.flow.agent, 40)
    assert document["pay_if_verified"] == str(40 * 5 * 7)
