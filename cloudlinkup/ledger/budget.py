"""Compute limits: what a transaction asks for, so that its priority fee is not paid on units that it cannot use."""

from __future__ import annotations

import secrets

_TOKEN_CPI = 8_000  # a token transfer by the oldest token program seen takes 4,645


def units(own: int, transfers: int = 0) -> int:
    """A compute limit: the program's budget, its token transfers, and a margin of a quarter."""
    return (own + transfers * _TOKEN_CPI) * 5 // 4 + 1_000


def distinct(limit: int) -> int:
    """A compute limit that differs from call to call: two equal payments in one slot would otherwise be the same
    transaction, and the second would be dropped as a repetition of the first."""
    return limit + secrets.randbelow(10_000)
