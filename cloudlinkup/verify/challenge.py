"""Which segments of a shard are opened.

Drawn from a seed that nobody could know when the contributor committed: H(secret, later block hash, its root). One
segment at random (two in a contributor's first round), and the last one with probability 1/2, always for a newcomer
and in a small job: the last segment is where the upload is tied to the training. How many more is `verify/rates.py`'s.

One cheat in ten segments is caught at about one draw in ten: a round alone is weak against it, a job is not
(1 - 0.9^20 = 88% after twenty rounds).
"""

from __future__ import annotations

from collections.abc import Iterator

from cloudlinkup.wire.hashes import digest

SMALL_JOB = 4  # contributors below which every last segment is opened


def _words(seed: bytes) -> Iterator[int]:
    counter = 0
    while True:
        block = digest("draw", seed, counter)
        yield from (int.from_bytes(block[i : i + 8], "little") for i in range(0, 32, 8))
        counter += 1


def _below(words: Iterator[int], bound: int) -> int:
    """Uniform in 0..bound-1: words above the last whole multiple of `bound` are drawn again."""
    limit = 2**64 - 2**64 % bound
    return next(word for word in words if word < limit) % bound


def draw(seed: bytes, segments: int, *, newcomer: bool, small_job: bool, extra: int = 0) -> frozenset[int]:
    """The 1-based numbers of the segments to open. `segments` is what the contributor committed to; 0 gives none.

    `extra`: that many more at random, and the last one always; it adds to the draw and moves nothing of it. Raises
    ValueError for a negative number.
    """
    if segments < 0 or extra < 0:
        raise ValueError("segments cannot be negative")
    if segments == 0:
        return frozenset()
    words = _words(seed)
    chosen = {1 + _below(words, segments)}
    if newcomer and segments > 1:  # a second, different one: drawn among the others
        second = 1 + _below(words, segments - 1)
        chosen.add(second + (second >= min(chosen)))
    coin = _below(words, 2)  # always drawn, so that the flags move nothing else
    words = _words(digest("more", seed))  # of their own: none of the words above is used twice
    rest = [k for k in range(1, segments + 1) if k not in chosen]
    for _ in range(min(extra, len(rest))):
        chosen.add(rest.pop(_below(words, len(rest))))
    if newcomer or small_job or extra or coin:
        chosen.add(segments)
    return frozenset(chosen)
