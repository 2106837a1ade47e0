"""Effects side by side, each to its own end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast

First = TypeVar("First")
Second = TypeVar("Second")


async def both(first: Awaitable[First], second: Awaitable[Second]) -> tuple[First, Second]:
    """What both return. Each comes to its end, whatever becomes of the other: a transaction that was begun is seen
    through. Then the first one's error, or the second's."""
    found = await asyncio.gather(first, second, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return cast(tuple[First, Second], tuple(found))
