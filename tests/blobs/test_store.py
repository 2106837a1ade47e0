"""The blob store on a real folder and in memory: whole or absent, named by hash, deleted with its job."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.blobs.store import READ, BlobStore
from cloudlinkup.errors import ProtocolError, Unavailable
from cloudlinkup.wire.hashes import sha256

JOB, OTHER = "0" * 31 + "1", "0" * 31 + "2"


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs" if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


@pytest.mark.parametrize("size", [0, 1, READ, 3 * READ + 7])
async def test_put_and_get(store: BlobStore, size: int) -> None:
    data = bytes(size)
    name = await store.put(JOB, data)
    assert name == sha256(data)
    assert await store.exists(JOB, name)
    assert await store.size(JOB, name) == size
    assert await store.get(JOB, name, size) == data
    assert b"".join([chunk async for chunk in store.stream(JOB, name)]) == data
    assert await store.put(JOB, data) == name  # again: nothing changes
    assert await store.get(JOB, name, size) == data


async def test_absent(store: BlobStore) -> None:
    name = await store.put(JOB, b"x")
    assert not await store.exists(OTHER, name)
    for job, blob in ((OTHER, name), (JOB, sha256(b"y"))):
        with pytest.raises(Unavailable):
            await store.get(job, blob, 10)


async def test_too_large_to_get(store: BlobStore) -> None:
    name = await store.put(JOB, b"four")
    with pytest.raises(ProtocolError, match="at most 3"):
        await store.get(JOB, name, 3)


async def test_streamed(store: BlobStore) -> None:
    name = sha256(b"onetwothree")
    assert await store.put_stream(JOB, name, pieces(b"one", b"two", b"three"), 11) == 11
    assert await store.get(JOB, name, 11) == b"onetwothree"


async def test_wrong_hash_overrun_and_broken_stream_leave_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield b"one"
        raise ConnectionError("gone")

    with pytest.raises(ProtocolError, match="SHA-256"):
        await store.put_stream(JOB, sha256(b"promised"), pieces(b"other"), 100)
    with pytest.raises(ProtocolError, match="larger"):
        await store.put_stream(JOB, sha256(b"onetwo"), pieces(b"one", b"two"), 5)
    with pytest.raises(ConnectionError):
        await store.put_stream(JOB, sha256(b"onetwo"), broken(), 100)
    assert list((tmp_path / JOB).iterdir()) == []


async def test_overrun_stops_reading() -> None:
    store = BlobStore(f"memory://{uuid.uuid4().hex}")
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1_000)

    with pytest.raises(ProtocolError):
        await store.put_stream(JOB, "a" * 64, endless(), 10_000)
    assert taken == 11


async def test_cancelled_put_leaves_nothing(tmp_path: Path) -> None:
    store, started = BlobStore(tmp_path), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(READ)
        started.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(store.put_stream(JOB, "a" * 64, slow(), 10 * READ))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / JOB).iterdir()) == []


async def test_changed_on_disk_is_noticed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    name = await store.put(JOB, b"right")
    (tmp_path / JOB / name).write_bytes(b"wrong")
    with pytest.raises(ProtocolError, match="SHA-256"):
        await store.get(JOB, name, 100)


async def test_deleted_with_its_job(store: BlobStore) -> None:
    mine, other = await store.put(JOB, b"mine"), await store.put(OTHER, b"other")
    await store.delete_job(JOB)
    await store.delete_job(JOB)
    assert not await store.exists(JOB, mine)
    assert await store.get(OTHER, other, 10) == b"other"


async def test_upload_that_outlives_its_job_is_lost(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)

    async def meanwhile() -> AsyncIterator[bytes]:
        yield b"one"
        await store.delete_job(JOB)
        yield b"two"

    with pytest.raises(Unavailable):
        await store.put_stream(JOB, sha256(b"onetwo"), meanwhile(), 100)
    assert not await store.exists(JOB, sha256(b"onetwo"))


NAMES = st.one_of(
    st.text(max_size=70),
    st.sampled_from(["..", "../" * 10 + "etc/passwd", "0" * 32 + "/..", "0" * 31, "0" * 32 + "\n", "٠" * 32, "%2e%2e"]),
)


@given(NAMES)
@settings(max_examples=200, deadline=None)
def test_names_that_are_no_names_are_refused(name: str) -> None:
    store = BlobStore("memory://names")

    async def refused() -> None:
        for call in (
            lambda: store.put(name, b""),
            lambda: store.delete_job(name),
            lambda: store.get(JOB, name, 1),
            lambda: store.exists(name, "a" * 64),
            lambda: store.put_stream(JOB, name, pieces(b""), 1),
        ):
            with pytest.raises(ProtocolError):
                await call()

    asyncio.run(refused())


async def test_full_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="blob store failed"):
        await BlobStore(tmp_path / "blobs").put(JOB, b"x")
