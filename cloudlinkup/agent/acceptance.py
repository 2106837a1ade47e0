"""Whether an order is taken: every check in the protocol's order, up to the work that is then done.

Asks the chain, fetches and opens the inputs, and posts the bond at the end. Not here: what is signed of the outcome.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass, field

from solders.pubkey import Pubkey

from cloudlinkup.agent import checks, inputs
from cloudlinkup.agent.bond import Agreed, Post, check_agreed, post_bond
from cloudlinkup.agent.chain import Chain, JobFacts
from cloudlinkup.agent.checks import Refusal
from cloudlinkup.agent.files import CACHE, JobFiles
from cloudlinkup.agent.hardware import extras
from cloudlinkup.agent.identity import Identity
from cloudlinkup.agent.ports import Io
from cloudlinkup.agent.shard import Work
from cloudlinkup.errors import CloudLinkUpError, LedgerError
from cloudlinkup.training.architectures import load_extra
from cloudlinkup.wire.calls import TrainCall
from cloudlinkup.wire.messages import Hardware


@dataclass(frozen=True)
class Terms:
    """What this contributor offers, and how it trains."""

    genesis: str
    program: str
    hardware: Hardware
    share: float = 1.0
    ask: int = 0  # base units an hour
    device: str = "cpu"
    threads: int = 1
    agreed: Agreed = Agreed()  # noqa: RUF009 (frozen)
    extras: tuple[str, ...] = field(default_factory=extras)  # optional parts that are installed
    cache: int = CACHE  # bytes of rows that are kept on disk, of all jobs together
    together: int = 1  # devices that share this disk


async def check_order(
    call: TrainCall, io: Io, *, identity: Identity, chain: Chain, terms: Terms, files: JobFiles, post: Post | None
) -> tuple[Work, JobFacts]:
    """The work that an order asks for, once everything about it stands, and its job on chain. Raises Refusal."""
    now = time.time()
    claimed = checks.unverified(call.order)
    job = await _read_job(chain, claimed.job)
    order = checks.check_terms(
        call.order,
        job,
        genesis=terms.genesis,
        program=terms.program,
        wallet=identity.wallet,
        agent=identity.name,
        ask=terms.ask,
        now=now,
    )
    assert job is not None
    check_agreed(job, terms.agreed)
    checks.check_history(files.record(order.job_id, order.seat), order, job)
    disk = shutil.disk_usage(files.root).free // (2 * terms.together)
    checks.check_mode(order, terms.hardware)
    spec, count = checks.check_spec(call, order, memory=terms.hardware.memory, disk=disk, extras=terms.extras)
    keys = [key for _, key in identity.sealing_keys]
    features, targets = await inputs.open_rows(call, order, spec, keys=keys, files=files, io=io, cache=terms.cache)
    weights = await inputs.open_weights(call, order, count, keys=keys, files=files, io=io)
    await asyncio.to_thread(load_extra, spec)
    frozen = await inputs.open_frozen_weights(call, order, spec, keys=keys, files=files, io=io)
    moments = await inputs.open_moments(order, count, files)
    work = Work(
        order=order,
        order_hash=call.order.hash,
        wallet=bytes(Pubkey.from_string(order.wallet)),
        spec=spec,
        weights=weights,
        features=features,
        targets=targets,
        time_box=checks.time_box(order, job, now),
        frozen=frozen,
        moments=moments,
    )
    await post_bond(order.job, job, order.seat, terms.agreed, post)
    return work, job


async def _read_job(chain: Chain, account: str, tries: int = 3) -> JobFacts | None:
    for left in reversed(range(tries)):
        try:
            return await chain.job(account)
        except ValueError:
            raise Refusal("seat", "the order names no account") from None
        except LedgerError:
            raise Refusal("seat", "the account that the order names is no job of our program") from None
        except CloudLinkUpError:
            if not left:
                raise Refusal("seat", "the chain could not be asked") from None
            await asyncio.sleep(0.5)
    return None
