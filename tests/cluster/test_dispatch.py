"""The flow's side of a cell: whose description holds, and what happens with workers that are nobody's."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest
from distributed import Worker
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.cluster.dispatch import Cluster, verify_description
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import ContributorRefused, ProtocolError, Unavailable
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.types import canonical_json
from cloudlinkup.wire.calls import CallRequest, Description
from cloudlinkup.wire.messages import Delegation, Hardware, Hello, Signed, sign
from tests.services.cell.contributor import Running

GENESIS, GATEWAY, NOW = "9" * 44, "wss://cell.test", 1_900_000_000.0
WALLET, AGENT, OTHER = (Signer(Keypair.from_seed(bytes([i] * 32))) for i in (1, 2, 3))
DELEGATION = Delegation(
    genesis=GENESIS,
    program=PROGRAM_ID,
    wallet=str(WALLET.public),
    agent=str(AGENT.public),
    gateway=GATEWAY,
    expires=int(NOW) + 1,
)
HELLO = Hello(
    genesis=GENESIS,
    program=PROGRAM_ID,
    nonce="0" * 64,
    gateway=GATEWAY,
    agent=str(AGENT.public),
    sealing_key="ab" * 32,
    sealing_expires=int(NOW) + 1,
    hardware=Hardware(kind="cuda", name="test", memory=1, threads=1, torch="none", capability="none"),
    probes=(),
    share=1.0,
    ask=1,
    version="test",
)


def described(
    delegation: Delegation = DELEGATION, hello: Hello = HELLO, by: Signer = WALLET, hello_by: Signer = AGENT
) -> Description:
    return Description(delegation=sign(by, delegation), hello=sign(hello_by, hello), via="gateway")


def test_description_that_holds() -> None:
    assert verify_description(described(), GENESIS, PROGRAM_ID, GATEWAY, NOW) == (DELEGATION, HELLO)


@pytest.mark.parametrize(
    "it",
    [
        pytest.param(described(by=OTHER), id="delegation not by its wallet"),
        pytest.param(described(by=AGENT), id="delegation by the agent itself"),
        pytest.param(described(hello_by=OTHER), id="hello not by the agent"),
        pytest.param(described(hello_by=WALLET), id="hello by the wallet"),
        pytest.param(described(DELEGATION.model_copy(update={"agent": str(OTHER.public)})), id="for another agent"),
        pytest.param(described(hello=HELLO.model_copy(update={"agent": str(OTHER.public)})), id="of another agent"),
        pytest.param(described(DELEGATION.model_copy(update={"gateway": "x"})), id="delegation: gateway"),
        pytest.param(described(hello=HELLO.model_copy(update={"gateway": "x"})), id="hello: gateway"),
        pytest.param(described(DELEGATION.model_copy(update={"expires": int(NOW)})), id="delegation expired"),
        pytest.param(described(hello=HELLO.model_copy(update={"sealing_expires": int(NOW)})), id="sealing expired"),
        pytest.param(described(DELEGATION.model_copy(update={"genesis": "8" * 44})), id="delegation: chain"),
        pytest.param(described(hello=HELLO.model_copy(update={"genesis": "8" * 44})), id="hello: chain"),
        pytest.param(described(DELEGATION.model_copy(update={"program": "1" * 32})), id="delegation: program"),
        pytest.param(described(hello=HELLO.model_copy(update={"program": "1" * 32})), id="hello: program"),
        pytest.param(
            Description(delegation=sign(AGENT, HELLO), hello=sign(WALLET, DELEGATION), via="gateway"), id="swapped"
        ),
    ],
)
def test_description_that_does_not_hold(it: Description) -> None:
    with pytest.raises(ProtocolError):
        verify_description(it, GENESIS, PROGRAM_ID, GATEWAY, NOW)


@given(st.sampled_from(["delegation", "hello"]), st.data())
def test_no_character_of_either_can_change(which: str, data: st.DataObject) -> None:
    it = described()
    signed: Signed = getattr(it, which)
    at = data.draw(st.integers(0, len(signed.text) - 1))
    to = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c != signed.text[at]))
    changed = signed.model_copy(update={"text": signed.text[:at] + to + signed.text[at + 1 :]})
    with pytest.raises(ProtocolError):
        verify_description(it.model_copy(update={which: changed}), GENESIS, PROGRAM_ID, GATEWAY, NOW)


def test_no_other_form_of_the_same_document() -> None:
    text = canonical_json(DELEGATION).replace(b'":', b'": ')
    signature = WALLET.sign_text(Pubkey.from_string(PROGRAM_ID), text)
    signed = Signed(
        text=text.decode(), signer=str(WALLET.public), signature=base64.b64encode(signature).decode("ascii")
    )
    with pytest.raises(ProtocolError, match="canonical"):
        verify_description(described().model_copy(update={"delegation": signed}), GENESIS, PROGRAM_ID, GATEWAY, NOW)


# ---------------------------------------------------------------- with a real scheduler


async def test_no_scheduler(unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudlinkup.cluster.dispatch.CONNECT", 0.5)
    with pytest.raises(Unavailable, match="Fix:"):
        async with Cluster.connect(f"tcp://127.0.0.1:{unused_tcp_port}"):
            pass


async def test_empty_cell(running: Running) -> None:
    assert await running.cluster.contributors() == []


async def test_worker_that_is_nobodys_is_left_out(running: Running) -> None:
    agent = await running.agent().join()
    async with Worker(running.cell.scheduler_address, name="stray", nthreads=1, dashboard_address=":0"):
        assert [c.agent for c in await running.cluster.contributors()] == [agent.name]
        with pytest.raises(ContributorRefused, match="no-contributor"):
            await running.cluster.call("stray", CallRequest(kind="challenge", body=b"", deadline=5), "stray")


async def test_two_flows_use_the_same_key(running: Running) -> None:
    agent = await running.agent().join()
    async with Cluster.connect(running.cell.scheduler_address) as other:
        requests = [CallRequest(kind="challenge", body=bytes([i]), deadline=5) for i in range(2)]
        results = await asyncio.gather(
            running.cluster.call(agent.name, requests[0], "same"), other.call(agent.name, requests[1], "same")
        )
    assert [result.body for result in results] == [b"\x00", b"\x01"]


async def test_many_small_calls(running: Running) -> None:
    agents = [await running.agent().join() for _ in range(4)]
    begun = time.monotonic()
    results = await asyncio.gather(
        *(
            running.cluster.call(agents[i % 4].name, CallRequest(kind="challenge", body=b"x", deadline=20), f"c-{i}")
            for i in range(200)
        )
    )
    print(f"200 calls on 4 contributors: {time.monotonic() - begun:.2f} s")
    assert all(result.body == b"x" for result in results)
