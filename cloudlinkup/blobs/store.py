"""Sealed blobs, on any fsspec store: ``<root>/<job id>/<SHA-256 of the blob>``.

A blob appears whole or not at all: it is written beside its place, hashed on the way, and renamed once the hash is
right. What is read is hashed again. Job ids and hashes are checked before they become part of a path. Everything that
touches the store runs in a thread, so that the event loop of gateway and flow stays free.

Not covered: encryption (`crypto/seal.py`; a store only ever sees ciphertext) and who may read what (the gateway).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from cloudlinkup.errors import ProtocolError, Unavailable
from cloudlinkup.wire.hashes import sha256

READ = 2**20  # bytes a read or write
T = TypeVar("T")


class BlobStore:
    """`root`: a folder, or an fsspec URL such as ``s3://bucket/prefix`` (credentials come from the environment)."""

    def __init__(self, root: str | Path) -> None:
        self._fs: Any
        self._fs, path = url_to_fs(str(root))
        self._root: str = path.rstrip("/")

    async def put(self, job_id: str, data: bytes) -> str:
        """Stores a blob and returns its name, the hex SHA-256. Storing the same one again changes nothing."""
        name = sha256(data)

        async def chunks() -> AsyncIterator[bytes]:
            view = memoryview(data)
            for start in range(0, len(view), READ):
                yield bytes(view[start : start + READ])

        await self.put_stream(job_id, name, chunks(), len(data))
        return name

    async def put_stream(self, job_id: str, name: str, chunks: AsyncIterable[bytes], max_bytes: int) -> int:
        """Stores what arrives under `name` and returns its size.

        Raises ProtocolError as soon as it is larger than `max_bytes`, and when its SHA-256 is not `name`; Unavailable
        when the store fails. Nothing is left behind then.
        """
        place = self._path(job_id, name)
        part = f"{self._folder(job_id)}/.{uuid.uuid4().hex}.part"
        hasher, size, buffer = hashlib.sha256(), 0, bytearray()
        file: Any = await self._run(self._create, part)

        def write(data: bytes) -> None:
            hasher.update(data)
            file.write(data)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise ProtocolError(f"a blob larger than the {max_bytes} bytes allowed")
                buffer += chunk
                if len(buffer) >= READ:
                    await self._run(write, bytes(buffer))
                    buffer.clear()
            await self._run(write, bytes(buffer))
            await self._run(file.close)
            if hasher.hexdigest() != name:
                raise ProtocolError(f"a blob whose SHA-256 is not {name}")
            await self._run(self._fs.mv, part, place)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._discard, file, part))
            raise
        return size

    async def get(self, job_id: str, name: str, max_bytes: int) -> bytes:
        """The blob. Raises Unavailable when absent, ProtocolError when too large or not what its name says."""
        size = await self.size(job_id, name)
        if size > max_bytes:
            raise ProtocolError(f"a blob of {size} bytes where at most {max_bytes} are allowed")
        data = await self._run(self._read, self._path(job_id, name), max_bytes)
        if await asyncio.to_thread(sha256, data) != name:
            raise ProtocolError(f"a stored blob's SHA-256 is not {name}")
        return data

    async def stream(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        """The blob's bytes in order, unchecked: for the gateway, whose other end hashes what it receives."""
        file: Any = await self._run(self._fs.open, self._path(job_id, name), "rb")
        try:
            while chunk := await self._run(file.read, READ):
                yield chunk
        finally:
            await asyncio.shield(asyncio.to_thread(file.close))

    async def size(self, job_id: str, name: str) -> int:
        """Bytes. Raises Unavailable when absent."""
        return int(await self._run(self._fs.size, self._path(job_id, name)))

    async def exists(self, job_id: str, name: str) -> bool:
        return bool(await self._run(self._fs.exists, self._path(job_id, name)))

    async def delete_job(self, job_id: str) -> None:
        """Deletes all blobs of a job, unfinished ones too. Nothing happens when there are none."""
        await self._run(self._delete, self._folder(job_id))

    # ---------------------------------------------------------------- in the thread

    def _create(self, part: str) -> Any:
        self._fs.makedirs(part.rpartition("/")[0], exist_ok=True)
        return self._fs.open(part, "wb")

    def _discard(self, file: Any, part: str) -> None:
        with contextlib.suppress(Exception):
            file.close()
        with contextlib.suppress(Exception):
            self._fs.rm_file(part)

    def _read(self, path: str, max_bytes: int) -> bytes:
        with self._fs.open(path, "rb") as file:
            return bytes(file.read(max_bytes))

    def _delete(self, folder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(folder, recursive=True)

    # ---------------------------------------------------------------- names

    def _folder(self, job_id: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{32}", job_id, flags=re.ASCII):
            raise ProtocolError("a job id is 32 hex digits")
        return f"{self._root}/{job_id}"

    def _path(self, job_id: str, name: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", name, flags=re.ASCII):
            raise ProtocolError("a blob's name is 64 hex digits")
        return f"{self._folder(job_id)}/{name}"

    async def _run(self, action: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.to_thread(action, *args)
        except FileNotFoundError:
            raise Unavailable("a blob is not in the store: its job is over, or it was never stored") from None
        except OSError as error:
            raise Unavailable(f"the blob store failed: {error.strerror or type(error).__name__}") from None
