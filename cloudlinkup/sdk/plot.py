"""A line plot as PNG bytes with numpy and zlib alone: what a delivered folder shows of its training.

Enough for a few curves with ticks and two labels. Not covered: legends, log axes, anything a plotting library is for.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10

import numpy as np

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 96, 24, 40, 64  # margins in pixels
SCALE = 2  # pixels of one dot of the 5 by 7 letters
INK, GRID, FAINT, STRONG = (40, 40, 40), (228, 228, 228), (158, 184, 214), (20, 84, 160)
_LETTERS = (
    "0:3E5149453E 1:00427F4000 2:4261514946 3:2141454B31 4:1814127F10 5:2745454539 6:3C4A494930 7:0171090503 "
    "8:3649494936 9:064949291E A:7E1111117E B:7F49494936 C:3E41414122 D:7F4141221C E:7F49494941 F:7F09090901 "
    "G:3E4149497A H:7F0808087F I:00417F4100 J:2040413F01 K:7F08142241 L:7F40404040 M:7F020C027F N:7F0408107F "
    "O:3E4141413E P:7F09090906 Q:3E4151215E R:7F09192946 S:4649494931 T:01017F0101 U:3F4040403F V:1F2040201F "
    "W:3F4038403F X:6314081463 Y:0708700807 Z:6151494543 .:0060600000 -:0808080808 ,:0050300000 (:001C224100 "
    "):0041221C00 /:2010080402 +:08083E0808 _:4040404040"
)
# five columns a letter, lowest bit on top
FONT = {letter: bytes.fromhex(columns) for letter, columns in (pair.split(":") for pair in _LETTERS.split(" "))}


@dataclass(frozen=True)
class Line:
    """One curve: (x, y) points from left to right. `strong` stands out from the others."""

    points: Sequence[tuple[float, float]]
    strong: bool = True


def line_plot(lines: Sequence[Line], *, title: str, x: str, y: str) -> bytes:
    """The curves as a PNG of 760 by 460 pixels. Points that are not finite are left out; nothing to draw is fine."""
    kept = [Line([p for p in line.points if isfinite(p[0]) and isfinite(p[1])], line.strong) for line in lines]
    every = [point for line in kept for point in line.points]
    xs, ys = ([p[0] for p in every] or [0.0, 1.0]), ([p[1] for p in every] or [0.0, 1.0])
    canvas = _Canvas(_ticks(min(xs), max(xs)), _ticks(min(ys), max(ys)))
    canvas.frame(title, x, y)
    for line in sorted(kept, key=lambda one: one.strong):
        canvas.curve(line.points, STRONG if line.strong else FAINT)
    return png(canvas.pixels)


def png(pixels: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as a PNG file."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # filter 0 a row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def _ticks(low: float, high: float) -> list[float]:
    """About five round values that enclose the range."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 5
    unit = 10.0 ** floor(log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw * (1 - 1e-9))
    return [round(k * step, 12) for k in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


class _Canvas:
    def __init__(self, xs: list[float], ys: list[float]) -> None:
        self.pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        self.xs, self.ys = xs, ys

    def place(self, x: float, y: float) -> tuple[float, float]:
        """(column, row) of a point."""
        across = (x - self.xs[0]) / (self.xs[-1] - self.xs[0])
        up = (y - self.ys[0]) / (self.ys[-1] - self.ys[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def frame(self, title: str, x: str, y: str) -> None:
        for tick in self.ys:
            row = round(self.place(self.xs[0], tick)[1])
            self.pixels[row, LEFT : WIDTH - RIGHT] = GRID
            self.text(f"{tick:g}", LEFT - 10, row - 7, anchor=1.0)
        for tick in self.xs:
            column = round(self.place(tick, self.ys[0])[0])
            self.pixels[TOP : HEIGHT - BOTTOM, column] = GRID
            self.text(f"{tick:g}", column, HEIGHT - BOTTOM + 8, anchor=0.5)
        self.pixels[HEIGHT - BOTTOM, LEFT : WIDTH - RIGHT] = INK
        self.pixels[TOP : HEIGHT - BOTTOM, LEFT] = INK
        self.text(title, (LEFT + WIDTH - RIGHT) // 2, 12, anchor=0.5)
        self.text(x, (LEFT + WIDTH - RIGHT) // 2, HEIGHT - 26, anchor=0.5)
        self.text(y, 8, 12, anchor=0.0)

    def text(self, text: str, column: int, row: int, *, anchor: float) -> None:
        """`anchor`: which part of the text's width lies left of `column`. Unknown characters are blank."""
        start = column - round(anchor * 6 * SCALE * len(text))
        for k, letter in enumerate(text.upper()):
            for offset, bits in enumerate(FONT.get(letter, bytes(5))):
                for dot in range(7):
                    if bits >> dot & 1:
                        left, top = start + (6 * k + offset) * SCALE, row + dot * SCALE
                        self.pixels[max(0, top) : top + SCALE, max(0, left) : left + SCALE] = INK

    def curve(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        places = [self.place(*point) for point in points]
        for column, row in places:
            self._dot(np.array([column]), np.array([row]), colour, 2)
        for (c0, r0), (c1, r1) in pairwise(places):
            count = int(max(abs(c1 - c0), abs(r1 - r0))) + 2
            self._dot(np.linspace(c0, c1, count), np.linspace(r0, r1, count), colour, 1)

    def _dot(self, columns: np.ndarray, rows: np.ndarray, colour: tuple[int, int, int], size: int) -> None:
        for down in range(-size + 1, size + 1):
            for across in range(-size + 1, size + 1):
                r, c = np.rint(rows).astype(int) + down, np.rint(columns).astype(int) + across
                self.pixels[np.clip(r, 0, HEIGHT - 1), np.clip(c, 0, WIDTH - 1)] = colour
