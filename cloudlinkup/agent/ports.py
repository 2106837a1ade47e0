"""What the handler needs of whoever carries its calls: blobs in and out, and the early acknowledgement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from cloudlinkup.wire.calls import BlobRef
from cloudlinkup.wire.messages import Signed

Report = Callable[[str, dict[str, Any]], None]  # (event, facts): progress for people; no row values, no secrets


class Io(Protocol):
    """One call's transport. `abandoned` turns true when the other side cancelled the call itself."""

    abandoned: bool

    async def get_blob(self, ref: BlobRef) -> bytes:
        """The ciphertext, at most `ref.size` bytes."""
        ...

    async def put_blob(self, data: bytes) -> str:
        """Stores ciphertext; its hex SHA-256."""
        ...

    async def send_ack(self, signed: Signed) -> None: ...
