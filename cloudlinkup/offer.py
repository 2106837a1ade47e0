"""What a contributor asks and when it is there, as people write it and as it is sent.

    --ask 0.50/h       an hour of the device at full duty (also plain 0.50)
    --ask 0.000002/step    one optimizer step, whatever the job
    --ask 0.03/tmac    10^12 multiply-accumulates, as the job's graph counts them: a price for work, not for time
    --reserve 0.30     in the ask's unit: taken where a client's budget does not reach the asks; at most the ask
    --available 22:00-06:00,12:00-13:00    hours of every day, in UTC; nothing given means always

Pure. Not here: what a job's step costs by it (`models/pricing`), days of the week and holidays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from cloudlinkup.errors import BadInput
from cloudlinkup.types import BaseUnits, parse_tokens

AskPer = Literal["hour", "step", "tmac"]
Window = tuple[int, int]  # minutes after midnight UTC; the end may be on the next day (22:00-06:00) or 1440

DAY = 1440  # minutes
MOST_WINDOWS = 8
_UNITS: dict[str, AskPer] = {"": "hour", "h": "hour", "hour": "hour", "step": "step", "tmac": "tmac"}
UNIT_WORDS: dict[AskPer, str] = {
    "hour": "an hour at full duty",
    "step": "a step",
    "tmac": "10^12 multiply-accumulates",
}


def parse_ask(text: str, decimals: int) -> tuple[BaseUnits, AskPer]:
    """Base units and what they are asked for. Raises BadInput, for a price of 0 too."""
    amount, _, unit = text.strip().partition("/")
    if unit.strip() not in _UNITS:
        raise BadInput("--ask", text, "unknown unit of work", "write it as 0.50/h, 0.000002/step or 0.03/tmac")
    return _price(amount.strip(), decimals, "--ask"), _UNITS[unit.strip()]


def parse_reserve(text: str | None, ask: int, decimals: int) -> BaseUnits | None:
    """The least that is taken, in the ask's unit. Raises BadInput when it is 0 or above the ask."""
    if text is None:
        return None
    reserve = _price(text.strip(), decimals, "--reserve")
    if reserve > ask:
        raise BadInput("--reserve", text, "is above the ask", "lower it, or raise --ask")
    return reserve


def _price(text: str, decimals: int, field: str) -> BaseUnits:
    units = parse_tokens(text, decimals, field)
    if units == 0:
        raise BadInput(field, text, "a price of 0 pays for nothing", f"ask for at least 1 base unit, 10^-{decimals}")
    return units


def parse_windows(text: str | None) -> tuple[Window, ...]:
    """Hours of every day. Raises BadInput for anything but HH:MM-HH:MM, comma-separated, at most eight of them."""
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    found = [re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", part, flags=re.ASCII) for part in parts]
    windows: list[Window] = []
    for match in found:
        if match is None:
            break
        h1, m1, h2, m2 = map(int, match.groups())
        start, end = 60 * h1 + m1, 60 * h2 + m2
        if m1 > 59 or m2 > 59 or start >= DAY or end > DAY or start == end:
            break
        windows.append((start, end))
    if len(windows) != len(parts) or len(parts) > MOST_WINDOWS:
        raise BadInput("--available", text, "not hours of a day", 'write them in UTC, like "22:00-06:00,12:00-13:00"')
    return tuple(windows)


def format_windows(windows: Sequence[Window]) -> str:
    """As `parse_windows` reads them; "always" for none."""
    return ",".join(f"{a // 60:02}:{a % 60:02}-{b // 60:02}:{b % 60:02}" for a, b in windows) or "always"


def _spans(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The minutes of a day that are open, ordered, disjoint, none over midnight."""
    cut: list[tuple[int, int]] = []
    for start, end in windows:
        if start != end:  # a window without length, from a hostile hello, is none
            cut += [(start, end)] if start < end else [(start, DAY), (0, end)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in cut if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def open_seconds(windows: Sequence[Window], now: float) -> float | None:
    """Seconds from `now` (unix) for which it stays available without a gap: 0 when it is not, None for always."""
    spans = _spans(windows)
    if not windows or spans == [(0, DAY)]:
        return None
    minute = now % 86_400 / 60
    end = next((b for a, b in spans if a <= minute < b), None)
    if end is None:
        return 0.0
    if end == DAY and spans[0][0] == 0:  # it goes on after midnight
        end += spans[0][1]
    return (end - minute) * 60


def opens_in(windows: Sequence[Window], now: float) -> float:
    """Seconds from `now` until it is available: 0 when it is."""
    if open_seconds(windows, now) != 0.0:
        return 0.0
    minute = now % 86_400 / 60
    return min((a - minute) % DAY for a, _ in _spans(windows)) * 60
