"""Effects side by side, each to its own end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def every(*these: Awaitable[Any]) -> list[Any]:
    """What they return, in their order. Each comes to its end, whatever becomes of the others: a transaction that was
    begun is seen through. Then the first one's error."""
    found = await asyncio.gather(*these, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found
