"""One shard's order and what comes back of it: building, sealing, sending, checking. No Prefect in here."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cloudlinkup.crypto.seal import decrypt_blob, open_key, seal_key
from cloudlinkup.errors import ContributorLost, ContributorRefused, ProtocolError, ShardTimeout
from cloudlinkup.wire.calls import BlobRef, CallRequest, CallResult, TrainCall, TrainReply, WeightsRef
from cloudlinkup.wire.hashes import rows_seed, seal_context, sha256
from cloudlinkup.wire.messages import Ack, BadShard, Commit, Order, Signed, agent_key, sign, verify
from models.correction import Correction
from tasks.context import Run
from tasks.peers import Peer
from tasks.state import Entry, RoundState, Seat, Start
from tasks.subject import partition, subject

TRANSFER = 60.0  # seconds allowed beside training for blobs and queueing


def update_limit(parameters: int) -> int:
    """Most bytes of one sealed update: 4 bits a parameter, a 16-bit scale in 64, headers and tags."""
    return parameters // 2 + parameters // 16 + 16_384


def make_order(
    run: Run,
    round_: RoundState,
    seat: Seat,
    *,
    max_segments: int,
    span: tuple[int, int],
    time_box: float,
    trial: int | None = None,
    start: Start | None = None,
) -> Signed:
    """The signed order of `seat`'s next attempt. `span`: schedule position before and after, in millionths. `start`:
    of `trial`, where the job has several trainings."""
    assert run.state.terms is not None
    of = subject(run, trial)
    spec = of.spec
    job_id = run.state.terms.job_id
    goes_on = spec.rounds == "kept" and bool(seat.moments)
    rows = partition(run, seat, trial)
    seed = rows_seed(bytes.fromhex(job_id), bytes.fromhex(rows.hash), spec.seed)
    before = seat.rows_before if trial is None else run.state.trials[trial].done * spec.batch
    order = Order(
        genesis=run.genesis,
        program=run.settings.program_id,
        job=run.state.terms.account,
        job_id=job_id,
        round=round_.round,
        seat=seat.seat,
        attempt=seat.attempts,
        wallet=seat.wallet,
        agent=seat.agent,
        spec_hash=spec.hash,
        partition_hash=rows.hash,
        weights_hash=(start or round_).weights_hash,
        seed=seed.hex(),
        segment_steps=int(run.state.plan["segment_steps"]),
        max_segments=max_segments,
        progress_from=span[0],
        progress_to=span[1],
        pay_per_step=run.state.price,
        time_box=time_box,
        max_bytes=update_limit(of.published.weights.size),
        numeric_mode=spec.precision,
        result_key=run.sealing.public,
        moments=seat.moments if goes_on else None,
        steps_before=seat.moments_steps if goes_on else 0,
        rows_before=before,
    )
    return sign(run.verifier, order)


def read_order(run: Run, entry: Entry) -> Order:
    """Our own order, as stored."""
    return verify(
        Order, entry.order, signer=str(run.verifier.public), genesis=run.genesis, program=run.settings.program_id
    )


def train_request(run: Run, round_: RoundState, entry: Entry, peer: Peer, seat: Seat) -> CallRequest:
    """The call that carries the order: keys sealed to the sealing key of the peer's present connection."""
    order, rows, recipient = read_order(run, entry), partition(run, seat, entry.trial), peer.hello.sealing_key
    start = entry.start or round_
    public = bytes.fromhex(recipient)
    place = (order.round, order.seat, order.attempt)

    def sealed(key: str, context: bytes) -> bytes:
        return seal_key(bytes.fromhex(key), public, context)

    weights_context = seal_context("weights", order.job_id, recipient, *place)
    if entry.snapshot:
        blob = BlobRef(
            sha256=start.snapshot_blob,
            size=start.snapshot_size,
            sealed_key=sealed(start.snapshot_key, weights_context),
        )
        weights = WeightsRef(snapshot=blob)
    else:
        blob = BlobRef(
            sha256=start.delta_blob, size=start.delta_size, sealed_key=sealed(start.delta_key, weights_context)
        )
        weights = WeightsRef(delta=blob, base=start.base_hash)
    data_context = seal_context("data", order.job_id, recipient, bytes.fromhex(rows.hash))
    call = TrainCall(
        order=entry.order,
        spec=subject(run, entry.trial).spec.to_bytes(),
        partition=BlobRef(sha256=rows.blob, size=rows.size, sealed_key=sealed(rows.content_key, data_context)),
        salt=bytes.fromhex(rows.salt),
        weights=weights,
        frozen=_frozen(run, order, recipient),
    )
    reads = (rows.blob, blob.sha256, *((call.frozen.sha256,) if call.frozen else ()))
    return CallRequest(
        kind="train",
        body=call.pack(),
        deadline=call.ack_seconds + order.time_box + TRANSFER,
        ack_within=call.ack_seconds,
        job_id=order.job_id,
        reads=reads,
        max_upload=order.max_bytes,
        max_uploads=1,
    )


def _frozen(run: Run, order: Order, recipient: str) -> BlobRef | None:
    """What of the network is not trained, where there is such: the same blob for everybody, fetched once by each."""
    kept, named = run.state.frozen, run.data.spec.frozen
    if named is None:
        return None
    assert kept is not None, "it is sealed before orders are made"
    context = seal_context("frozen", order.job_id, recipient, bytes.fromhex(named))
    key = seal_key(bytes.fromhex(kept.content_key), bytes.fromhex(recipient), context)
    return BlobRef(sha256=kept.blob, size=kept.size, sealed_key=key)


async def send_order(run: Run, round_: RoundState, entry: Entry, peer: Peer, seat: Seat) -> BadShard | None:
    """Sends one order and records what came of it in `entry`. Returns the BadShard when it was refused.

    Whatever the contributor does, this returns: its faults are outcomes, not exceptions. ClusterLost passes through.
    """
    request = train_request(run, round_, entry, peer, seat)
    key = f"train-{run.request_id}-{round_.round}-{seat.seat}-{entry.attempt}"
    try:
        result = await run.cluster.call(entry.agent, request, key)
    except ContributorLost as error:
        entry.outcome, entry.reason = "lost", str(error)[:200]
        return None
    except ShardTimeout as error:
        entry.outcome, entry.reason = "timeout", str(error)[:200]
        return None
    except (ContributorRefused, ProtocolError) as error:
        entry.outcome, entry.reason = "refused", str(error)[:200]
        return None
    entry.bytes_up += result.bytes_up
    entry.bytes_down += result.bytes_down
    entry.seconds = max(result.seconds - result.seconds_to_ack, 1e-6)
    entry.ack_seconds = result.seconds_to_ack
    try:
        if (bad := _read_ack(run, entry, result)) is not None:
            entry.outcome, entry.reason = "refused", f"{bad.reason}: {bad.detail}"
            return bad
        await _read_reply(run, round_, entry, result)
    except ProtocolError as error:
        entry.outcome, entry.reason = "refused", str(error)[:200]
    return None


def _read_ack(run: Run, entry: Entry, result: CallResult) -> BadShard | None:
    if result.ack is None:
        raise ProtocolError("no acknowledgement of the order came")
    of = {"signer": agent_key(entry.agent), "genesis": run.genesis, "program": run.settings.program_id}
    if '"cloudlinkup bad shard 1"' in result.ack.text:
        bad = verify(BadShard, result.ack, **of)
        if bad.order != entry.order.hash.hex():
            raise ProtocolError("the refusal is of another order")
        return bad
    if verify(Ack, result.ack, **of).order != entry.order.hash.hex():
        raise ProtocolError("the acknowledgement is of another order")
    return None


async def _read_reply(run: Run, round_: RoundState, entry: Entry, result: CallResult) -> None:
    reply = TrainReply.unpack(result.body, limit=len(result.body))
    order = read_order(run, entry)
    commit = verify(
        Commit, reply.commit, signer=agent_key(entry.agent), genesis=run.genesis, program=run.settings.program_id
    )
    if commit.order != entry.order.hash.hex():
        raise ProtocolError("the commit is of another order")
    if commit.segments > order.max_segments:
        raise ProtocolError(f"{commit.segments} segments where {order.max_segments} were ordered")
    if commit.segments == 0:
        entry.outcome, entry.reason = "empty", "no segment was finished in time"
        return
    if subject(run, entry.trial).spec.rounds == "kept" and not commit.end_moments:
        raise ProtocolError("the commit does not say what optimizer state the shard ended with")
    if reply.upload is None:
        raise ProtocolError("segments are claimed, but no update was uploaded")
    context = seal_context("update", order.job_id, order.result_key, order.round, order.seat, order.attempt)
    plain = await open_blob(run, reply.upload, context, order.max_bytes)
    if sha256(plain) != commit.upload:
        raise ProtocolError("the uploaded update is not the one that was signed")
    run.write(update_name(round_.round, entry.seat), plain)
    # only now: an entry with a commit has its update here, and goes under the round's root
    entry.commit, entry.root, entry.segments, entry.upload = reply.commit, commit.root, commit.segments, commit.upload
    entry.end_moments = commit.end_moments or ""
    fastest = Correction(**run.state.seat(entry.seat).belief).prediction.low * entry.segments * order.segment_steps
    entry.pace = fastest / entry.seconds
    entry.outcome = "committed"


async def open_blob(run: Run, ref: BlobRef, context: bytes, limit: int) -> bytes:
    """A blob sealed to this job's key. Raises ProtocolError (SealError) for anything that does not open."""
    assert run.state.terms is not None
    if ref.size > limit:
        raise ProtocolError(f"a blob of {ref.size} bytes where at most {limit} are allowed")
    if not await run.blobs.exists(run.state.terms.job_id, ref.sha256):  # its fault; a store that fails is ours
        raise ProtocolError("a blob is referred to that was never stored")
    sealed = await run.blobs.get(run.state.terms.job_id, ref.sha256, limit)
    key = open_key(ref.sealed_key, run.sealing, context)
    return await asyncio.to_thread(decrypt_blob, sealed, key, limit)


def update_name(round_: int, seat: int) -> str:
    return str(Path("updates") / f"{round_}-{seat}.bin")
