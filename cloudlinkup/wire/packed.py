"""msgpack for what travels: a size limit before anything is decoded, then strict pydantic models. Never pickle."""

from __future__ import annotations

from typing import Any, Self

import msgpack
from pydantic import BaseModel, ConfigDict, ValidationError

from cloudlinkup.errors import ProtocolError


def decode(data: bytes, limit: int) -> Any:
    """msgpack to Python values, at most `limit` bytes. Raises ProtocolError."""
    if len(data) > limit:
        raise ProtocolError(f"{len(data)} bytes where at most {limit} are allowed")
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not msgpack: {type(error).__name__}") from None


class Packed(BaseModel):
    """A frozen model with one byte form. Unknown keys, wrong types and oversized input raise ProtocolError."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def pack(self) -> bytes:
        packed = msgpack.packb(self.model_dump(mode="python"), use_bin_type=True)
        assert packed is not None
        return packed

    @classmethod
    def unpack(cls, data: bytes, limit: int) -> Self:
        try:
            return cls.model_validate(decode(data, limit))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ProtocolError(f"not a {cls.__name__}: {where}: {first['msg']}") from None
