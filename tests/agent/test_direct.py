"""An operator's own machine as a plain Dask worker: the same calls, the same answers."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from cloudlinkup.cluster.direct import DirectIo
from cloudlinkup.cluster.dispatch import Cluster
from cloudlinkup.errors import ContributorRefused
from cloudlinkup.verify import merkle
from cloudlinkup.wire.calls import BlobRef, CallRequest, TrainReply
from cloudlinkup.wire.messages import Commit
from deployments.tls import Certificates
from services.cell.cell import Cell
from services.cell.config import CellConfig
from tests.agent.chain_server import GENESIS, ChainServer
from tests.agent.flow import JOB_ID, Desk
from tests.agent.site import PROGRAM_ID, Site
from tests.agent.test_handler import honest
from tests.conftest import ROOT


async def test_trains_through_dask(
    tmp_path: Path, certificates: Certificates, chain: ChainServer, verifier: object
) -> None:
    site = Site(tmp_path, certificates, chain, verifier)  # type: ignore[arg-type]
    config = CellConfig(
        genesis=GENESIS,
        program=PROGRAM_ID,
        gateway_name=site.gateway,
        gateway_port=site.port,
        tls_cert=certificates.cert,
        tls_key=certificates.key,
        blobs=str(tmp_path / "blobs"),
    )
    environment = os.environ | {
        "CLOUDLINKUP_HOME": str(site.home),
        "CLOUDLINKUP_CONTRIBUTOR": "one",
        "CLOUDLINKUP_RPC_URL": chain.url,
        "CLOUDLINKUP_GATEWAY_URL": site.gateway,
        "CLOUDLINKUP_BLOBS": str(tmp_path / "blobs"),
        "PYTHONPATH": str(ROOT),
    }
    async with Cell(config) as cell, Cluster.connect(cell.scheduler_address) as cluster:
        worker = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("dask")), "worker", cell.scheduler_address, "--no-nanny",
            "--nthreads", "4",
            "--resources", "CPU=1", "--preload", "cloudlinkup.cluster.direct", "--local-directory", str(tmp_path),
            "--no-dashboard", cwd=ROOT, env=environment, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                while True:
                    if found := [c for c in await cluster.contributors() if c.agent == site.flow.agent]:
                        break
                    await asyncio.sleep(0.2)
            assert found[0].via == "direct"
            signed = site.flow.order()
            result = await site.train(cluster, await site.flow.call(signed))
            site.flow.accepted(result.ack, signed)
            commit: Commit = site.flow.read(Commit, TrainReply.unpack(result.body, 10**6).commit)
            assert commit.root == merkle.root(honest(site.flow, signed)[1]).hex()
            assert result.bytes_up > 0
            assert result.bytes_down > 0
            with pytest.raises(ContributorRefused, match="unknown_order"):
                call = site.flow.challenge(site.flow.order(round=5), commit)
                await cluster.call(site.flow.agent, site.flow.challenge_request(call), "challenge")
        finally:
            worker.terminate()
            await worker.wait()


async def test_a_call_reaches_only_its_own_blobs(desk: Desk) -> None:
    request = CallRequest(kind="train", body=b"", deadline=5, job_id=JOB_ID, max_upload=10, max_uploads=1)
    io = DirectIo(desk.flow.store, request)
    name = await desk.flow.store.put(JOB_ID, b"another call's")
    with pytest.raises(ContributorRefused, match="no-grant"):
        await io.get_blob(BlobRef(sha256=name, size=14, sealed_key=b""))
    with pytest.raises(ContributorRefused, match="upload"):
        await io.put_blob(bytes(11))
    await io.put_blob(bytes(10))
    with pytest.raises(ContributorRefused, match="upload"):
        await io.put_blob(bytes(1))
