"""An operator's own machine as a Dask worker, without a gateway in between. **Trusted machines only.**

    dask worker tcp://HOST:PORT --preload cloudlinkup.cluster.direct --no-nanny --nthreads 4 --resources "CPU=1"

It speaks the Dask protocol, which unpickles what arrives on both sides: whoever runs such a worker can run code in the
scheduler and in every flow, and the other way round. So this is for machines that their operator would give a shell
anyway; everybody else runs `cloudlinkup contribute`, which speaks only the gateway's frames. It answers the same calls
by the same `Handler`, with the same signatures and checks, and reads and writes sealed blobs in the store itself, so it
needs the store's folder (or URL) that the cell uses. Four threads, so that a challenge does not wait behind a shard,
which takes the device alone. Works from a checkout only.

Environment: CLOUDLINKUP_CONTRIBUTOR (its folder's name, default "direct"), CLOUDLINKUP_SHARE (1), CLOUDLINKUP_ASK
(tokens an hour, default 0), CLOUDLINKUP_MOST_BOND (tokens a seat, default 0), CLOUDLINKUP_BLOBS (the store; default:
the home's), and those of `home.Settings`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import ExitStack
from typing import Any

import structlog
import torch
from distributed import Worker

import cloudlinkup
from cloudlinkup.agent.acceptance import Terms
from cloudlinkup.agent.bond import Agreed, poster
from cloudlinkup.agent.chain import RpcChain
from cloudlinkup.agent.handler import Handler
from cloudlinkup.agent.hardware import choose_device, describe
from cloudlinkup.agent.identity import Identity, contributor_name, delegation_for, locked, open_identity
from cloudlinkup.agent.probes import measure_or_cached
from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.errors import BadInput, CloudLinkUpError, ContributorRefused, ShardTimeout
from cloudlinkup.home import Settings
from cloudlinkup.types import parse_tokens
from cloudlinkup.wire.calls import BlobRef, CallRequest, CallResult, Description
from cloudlinkup.wire.messages import LEAST_SHARE, Hello, Probe, Signed, sign

log = structlog.get_logger()


class DirectIo:
    """One call's blobs and acknowledgement, on the store itself but within the call's own rights."""

    def __init__(self, store: BlobStore, request: CallRequest) -> None:
        self.abandoned = True  # here a call that is cancelled was given up: there is no connection to come back
        self.ack: Signed | None = None
        self.seconds_to_ack = 0.0
        self.up = self.down = 0
        self._store, self._request = store, request
        self._begun, self._uploads = time.monotonic(), 0

    async def get_blob(self, ref: BlobRef) -> bytes:
        if ref.sha256 not in self._request.reads:
            raise ContributorRefused("no-grant", "this call does not read that blob")
        data = await self._store.get(self._request.job_id, ref.sha256, ref.size)
        self.down += len(data)
        return data

    async def put_blob(self, data: bytes) -> str:
        if self._uploads >= self._request.max_uploads or len(data) > self._request.max_upload:
            raise ContributorRefused("upload", "this call may not store (more) blobs of that size")
        self._uploads += 1
        self.up += len(data)
        return await self._store.put(self._request.job_id, data)

    async def send_ack(self, signed: Signed) -> None:
        self.ack, self.seconds_to_ack = signed, time.monotonic() - self._begun


class DirectContributor:
    """What `cluster.shard.call` finds on a direct worker."""

    def __init__(self, handler: Handler, identity: Identity, store: BlobStore, gateway: str, probes: tuple[Probe, ...]):
        self.handler = handler
        self._identity, self._store, self._gateway, self._probes = identity, store, gateway, probes

    async def call(self, request: CallRequest) -> CallResult:
        """Raises ContributorRefused, ShardTimeout."""
        begun, io = time.monotonic(), DirectIo(self._store, request)
        if request.kind == "describe":
            return CallResult(body=self.describe().pack(), seconds=0.0, bytes_up=0, bytes_down=0)
        try:
            async with asyncio.timeout(request.deadline):
                body = await self.handler.call(request.kind, request.body, io)
        except TimeoutError:
            raise ShardTimeout(f"no result of {request.kind} in {request.deadline:g} s") from None
        except (ContributorRefused, ShardTimeout):
            raise
        except CloudLinkUpError as error:
            raise ContributorRefused(type(error).__name__, str(error)) from None
        return CallResult(
            body=body,
            ack=io.ack,
            seconds_to_ack=io.seconds_to_ack,
            seconds=time.monotonic() - begun,
            bytes_up=io.up,
            bytes_down=io.down,
        )

    def describe(self) -> Description:
        """Signed anew each time, so that the sealing key in it is always a present one."""
        terms, (expires, sealing) = self.handler.terms, self._identity.sealing_keys[0]
        hello = Hello(
            genesis=terms.genesis,
            program=terms.program,
            gateway=self._gateway,
            nonce=secrets.token_hex(32),  # nobody asked: the scheduler's own network is the border here
            agent=self._identity.name,
            sealing_key=sealing.public,
            sealing_expires=expires,
            hardware=terms.hardware,
            probes=self._probes,
            share=terms.share,
            ask=terms.ask,
            version=cloudlinkup.__version__,
            extras=terms.extras,
        )
        delegation = delegation_for(
            self._identity, None, gateway=self._gateway, genesis=terms.genesis, program=terms.program
        )
        return Description(delegation=delegation, hello=sign(self._identity.agent, hello), via="direct")


async def dask_setup(worker: Worker) -> None:
    """Called by Dask's --preload. Raises BadInput, Unavailable, LedgerError: the worker then does not start."""
    settings = Settings.load()
    name = contributor_name(os.environ.get("CLOUDLINKUP_CONTRIBUTOR", "direct"))
    share = os.environ.get("CLOUDLINKUP_SHARE", "1")
    try:
        offered = float(share)
    except ValueError:
        raise BadInput("CLOUDLINKUP_SHARE", share, "not a number", "use a number from 0.001 to 1") from None
    if not LEAST_SHARE <= offered <= 1:
        raise BadInput("CLOUDLINKUP_SHARE", share, "out of range", f"use a number from {LEAST_SHARE:g} to 1")
    folder = settings.home.make().contributor(name)
    identity = open_identity(folder, None)
    held = ExitStack()
    held.enter_context(locked(folder))
    chain = RpcChain(settings.rpc_url, settings.program_id)
    device = choose_device("auto" if worker.state.total_resources.get("GPU") else "cpu")
    torch.set_num_threads(1)
    hardware = describe(device, 1)
    terms = Terms(
        genesis=await chain.genesis(),
        program=settings.program_id,
        hardware=hardware,
        share=offered,
        ask=parse_tokens(os.environ.get("CLOUDLINKUP_ASK", "0"), 6, "CLOUDLINKUP_ASK"),
        device=device,
        agreed=Agreed(settings.mint, bond=parse_tokens(os.environ.get("CLOUDLINKUP_MOST_BOND", "0"), 6, "most bond")),
    )
    post = (
        poster(settings.rpc_url, settings.program_id, identity.own_wallet, lambda: None)
        if identity.own_wallet
        else None
    )
    probes = await asyncio.to_thread(measure_or_cached, folder / "probes.json", hardware)
    handler = Handler(identity, chain, terms, report=lambda event, facts: log.info(event, **facts), post=post)
    handler.clean()
    store = BlobStore(os.environ.get("CLOUDLINKUP_BLOBS") or settings.home.blobs)
    carrier: Any = worker
    carrier.contributor = DirectContributor(handler, identity, store, settings.gateway_url, probes)
    carrier.contributor_lock = held


async def dask_teardown(worker: Worker) -> None:
    """Stops training; states stay for the next start."""
    contributor: DirectContributor | None = getattr(worker, "contributor", None)
    if contributor is not None:
        await contributor.handler.close()
