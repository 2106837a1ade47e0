"""Effects side by side, each to its own end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast

First = TypeVar("First")
Second = TypeVar("Second")


async def every(*these: Awaitable[object]) -> None:
    """Each comes to its end, whatever becomes of the others: a transaction that was begun is seen through. Then the
    first one's error."""
    for one in await asyncio.gather(*these, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one


async def both(first: Awaitable[First], second: Awaitable[Second]) -> tuple[First, Second]:
    """What both return, as `every`: the first one's error, or the second's."""
    found = await asyncio.gather(first, second, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return cast(tuple[First, Second], tuple(found))
