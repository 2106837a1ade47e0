"""Opens an order's inputs: partition and published weights, from the cache by hash or from sealed blobs; and what its
seat's last result ended with.

Sizes are checked before anything is fetched or decrypted, hashes before anything is parsed. Raises checks.Refusal with
`seal`, `hash`, `weights`, `moments`, `terms` or `data`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cloudlinkup.agent.checks import Refusal
from cloudlinkup.agent.files import CACHE, JobFiles, read, write
from cloudlinkup.agent.ports import Io
from cloudlinkup.crypto.seal import SealingKey, decrypt_blob, open_key, sealed_size
from cloudlinkup.errors import SealError
from cloudlinkup.training.architectures import frozen_tensors
from cloudlinkup.training.data import MAX_PARTITION, unpack_partition
from cloudlinkup.training.frozen import check_finite, file_hash, largest_file, open_frozen
from cloudlinkup.training.moments import unpack_moments
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.outer import apply_delta
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.training.states import moments_of
from cloudlinkup.wire.calls import BlobRef, TrainCall
from cloudlinkup.wire.hashes import Field, partition_hash, seal_context, sha256
from cloudlinkup.wire.messages import Order


async def open_rows(
    call: TrainCall,
    order: Order,
    spec: TrainingSpec,
    *,
    keys: Sequence[SealingKey],
    files: JobFiles,
    io: Io,
    cache: int = CACHE,
) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets). Kept by hash until the job is over, as far as `cache` bytes for all jobs go; refused where
    they are more than that alone."""
    place = files.input(order.job_id, "partition", order.partition_hash)

    def fits(data: bytes) -> bool:
        return partition_hash(call.salt, data).hex() == order.partition_hash

    plain = await asyncio.to_thread(read, place)
    if plain is None or not await asyncio.to_thread(fits, plain):
        if call.partition.size > sealed_size(cache):
            raise Refusal("memory", f"{call.partition.size} bytes of rows, where at most {cache} are kept")
        context: tuple[Field, ...] = (bytes.fromhex(order.partition_hash),)
        plain = await _open(call.partition, "data", order, context=context, limit=MAX_PARTITION, keys=keys, io=io)
        if not await asyncio.to_thread(fits, plain):
            raise Refusal("hash", "the partition is not the one in the order")
        await asyncio.to_thread(files.make_room, len(plain), cache)
        await asyncio.to_thread(write, place, plain)
    files.used(place)
    try:
        return await asyncio.to_thread(unpack_partition, plain, spec)
    except ValueError as error:
        raise Refusal("data", str(error)) from None


async def open_weights(
    call: TrainCall, order: Order, count: int, *, keys: Sequence[SealingKey], files: JobFiles, io: Io
) -> np.ndarray:
    """Flat fp32 weights of `count`, whose hash is the order's. The latest two are kept, for the deltas to come."""
    place = files.input(order.job_id, "weights", order.weights_hash)
    if (kept := await asyncio.to_thread(_kept, place, order.weights_hash)) is not None and kept.size == count:
        return kept
    context: tuple[Field, ...] = (order.round, order.seat, order.attempt)
    ref = call.weights
    if ref.snapshot is not None:
        plain = await _open(ref.snapshot, "weights", order, context=context, limit=4 * count, keys=keys, io=io)
        if len(plain) != 4 * count:
            raise Refusal("weights", f"{len(plain)} bytes where {4 * count} are needed")
        flat = np.frombuffer(plain, "<f4").astype(np.float32)
    else:
        assert ref.delta is not None
        assert ref.base is not None
        base = await asyncio.to_thread(_kept, files.input(order.job_id, "weights", ref.base), ref.base)
        if base is None or base.size != count:
            raise Refusal("weights", "the base of the delta is not here: send the whole snapshot")
        delta = await _open(ref.delta, "weights", order, context=context, limit=ref.delta.size, keys=keys, io=io)
        try:
            flat = await asyncio.to_thread(apply_delta, base, delta)
        except ValueError as error:
            raise Refusal("weights", str(error)) from None
    data = flat.astype("<f4").tobytes()
    if sha256(data) != order.weights_hash:
        raise Refusal("weights", "the weights are not the ones in the order")
    if not np.isfinite(flat).all():
        raise Refusal("weights", "the weights are not finite")
    await asyncio.to_thread(write, place, data)
    files.keep_latest(order.job_id, "weights", 2)
    return flat


async def open_frozen_weights(
    call: TrainCall, order: Order, spec: TrainingSpec, *, keys: Sequence[SealingKey], files: JobFiles, io: Io
) -> FrozenWeights | None:
    """What is not trained, mapped from the file that the spec names by hash; None where it names none. Fetched once a
    job, and kept until that is over."""
    if spec.frozen is None or call.frozen is None:
        return None
    place, expected = files.input(order.job_id, "frozen", spec.frozen), frozen_tensors(spec)
    fresh = not place.exists() or await asyncio.to_thread(file_hash, place) != spec.frozen
    if fresh:
        context: tuple[Field, ...] = (bytes.fromhex(spec.frozen),)
        limit = largest_file(expected)
        plain = await _open(call.frozen, "frozen", order, context=context, limit=limit, keys=keys, io=io)
        if await asyncio.to_thread(sha256, plain) != spec.frozen:
            raise Refusal("hash", "the weights that are not trained are not those of the spec")
        await asyncio.to_thread(write, place, plain)
    try:
        found = await asyncio.to_thread(open_frozen, place, expected)
        if fresh:
            await asyncio.to_thread(check_finite, found)
    except ValueError as error:
        place.unlink(missing_ok=True)
        raise Refusal("weights", str(error)) from None
    return found


KEEP_MOMENTS = 4  # also what the present order, an attempt at it and the one before began with, which may be audited


async def open_moments(order: Order, count: int, files: JobFiles) -> bytes | None:
    """The optimizer state that the order begins with, by its hash; None for a fresh one."""
    if order.moments is None:
        if order.steps_before:
            raise Refusal("terms", "a fresh start has no steps before it")
        return None
    data = await asyncio.to_thread(start_moments, order, files)
    if data is None:
        raise Refusal("moments", "the optimizer state that the order names is not here: let it begin afresh")
    try:
        *_, steps = await asyncio.to_thread(unpack_moments, data, count)
    except ValueError as error:
        raise Refusal("moments", str(error)) from None
    if steps != order.steps_before:
        raise Refusal("terms", "the optimizer state has other steps before it than the order says")
    return data


def start_moments(order: Order, files: JobFiles) -> bytes | None:
    """The packed moments that the order names, where they are here and undamaged."""
    if order.moments is None:
        return None
    data = read(files.input(order.job_id, f"moments-{order.seat}", order.moments))
    return data if data is not None and sha256(data) == order.moments else None


def keep_end(order: Order, state: bytes, files: JobFiles) -> str:
    """Stores the moments of a result's last state, packed, for the seat's next order; their hash, as hex."""
    kind, moments = f"moments-{order.seat}", moments_of(state)
    name = sha256(moments)
    write(files.input(order.job_id, kind, name), moments)
    files.keep_latest(order.job_id, kind, KEEP_MOMENTS)
    return name


def _kept(place: Path, hash_: str) -> np.ndarray | None:
    data = read(place)
    if data is None or len(data) % 4 or sha256(data) != hash_:
        return None
    return np.frombuffer(data, "<f4").astype(np.float32)


async def _open(
    ref: BlobRef,
    direction: str,
    order: Order,
    *,
    context: tuple[Field, ...],
    limit: int,
    keys: Sequence[SealingKey],
    io: Io,
) -> bytes:
    content_key = None
    for key in keys:  # the present sealing key, then ones that an order in flight may still name
        try:
            content_key = open_key(ref.sealed_key, key, seal_context(direction, order.job_id, key.public, *context))
            break
        except SealError:
            continue
    if content_key is None:
        raise Refusal("seal", f"the key of the {direction} blob does not open for us here")
    sealed = await io.get_blob(ref)
    if len(sealed) != ref.size or await asyncio.to_thread(sha256, sealed) != ref.sha256:
        raise Refusal("hash", f"the {direction} blob is not the one referred to")
    try:
        return await asyncio.to_thread(decrypt_blob, sealed, content_key, limit)
    except SealError as error:
        raise Refusal("seal", str(error)) from None
