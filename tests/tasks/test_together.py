from __future__ import annotations

from collections.abc import Awaitable

import pytest

from tasks.together import every


async def test_both_run_to_their_end_whatever_becomes_of_the_other() -> None:
    ended: list[str] = []

    async def fails(why: str) -> None:
        raise ValueError(why)

    async def works() -> None:
        ended.append("works")

    def pair(one: Awaitable[None], other: Awaitable[None]) -> Awaitable[object]:
        return every(one, other)

    for first, second, why in ((fails("a"), works(), "a"), (works(), fails("b"), "b"), (fails("a"), fails("b"), "a")):
        with pytest.raises(ValueError, match=why):
            await pair(first, second)
    assert ended == ["works", "works"]
    assert await every(says("a"), says("b")) == ["a", "b"]


async def says(what: str) -> str:
    return what
