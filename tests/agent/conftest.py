"""A job of a client and a contributor's handler, with real keys, crypto, files, chain reader and training."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from cloudlinkup.agent.identity import open_identity
from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.crypto.identity import Signer
from deployments.tls import Certificates, make_certificates
from tests.agent.chain_server import ChainServer, serving
from tests.agent.flow import Desk, Flow, make_chain, make_handler, seat_both


@pytest.fixture
def verifier() -> Signer:
    return Signer(Keypair())


@pytest.fixture
def chain(verifier: Signer) -> Iterator[ChainServer]:
    with serving(make_chain(verifier)) as server:
        yield server


@pytest.fixture
async def make_desk(tmp_path: Path, chain: ChainServer, verifier: Signer) -> AsyncIterator[Callable[..., Desk]]:
    """Makes a contributor's desk; called again with the same name, it is the same contributor restarted."""
    desks: list[Desk] = []

    def make(name: str = "one", flow: Flow | None = None, **options: Any) -> Desk:
        folder = tmp_path / name
        identity = open_identity(folder, None)
        seat_both(chain, identity.wallet) if flow is None else None
        flow = flow or Flow(
            chain=chain,
            store=BlobStore(tmp_path / "blobs"),
            wallet=identity.wallet,
            agent=str(identity.agent.public),
            sealing=identity.sealing_keys[0][1].public,
            verifier=verifier,
        )
        handler, events = make_handler(folder, chain, **options)
        desks.append(Desk(flow, identity, handler, events))
        return desks[-1]

    yield make
    for desk in desks:
        await desk.handler.close()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("agent-tls"))
