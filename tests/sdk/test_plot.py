import struct
import zlib

import numpy as np
import pytest

from cloudlinkup.sdk.plot import FAINT, STRONG, Line, line_plot


def decode(data):
    """A PNG that `png` wrote, as pixels; every chunk's checksum is held."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def where(pixels, colour):
    return np.argwhere((pixels == colour).all(axis=2))


def test_a_rising_curve_rises():
    pixels = decode(line_plot([Line([(0, 0.1), (50, 0.4), (100, 0.9)])], title="score", x="steps", y="accuracy"))
    dots = where(pixels, STRONG)
    rows = {column: dots[dots[:, 1] == column, 0].mean() for column in np.unique(dots[:, 1])}
    columns = sorted(rows)
    assert rows[columns[0]] > rows[columns[len(columns) // 2]] > rows[columns[-1]]
    assert len(columns) == columns[-1] - columns[0] + 1, "a line has no gaps"


def test_the_strong_curve_lies_over_the_others():
    points = [(0, 0.0), (1, 1.0)]
    pixels = decode(line_plot([Line(points), Line(points, strong=False)], title="", x="", y=""))
    assert len(where(pixels, STRONG)) and not len(where(pixels, FAINT))


@pytest.mark.parametrize(
    "points",
    [[], [(0, 0.5)], [(0, 0.5), (1, 0.5)], [(0, float("nan")), (1, float("inf"))], [(0, -1e9), (1, 1e9)], [(3, 1e-9)]],
)
def test_whatever_there_is_to_draw_is_a_picture(points):
    assert decode(line_plot([Line(points)], title="?", x="verified steps", y="r2")).shape == (460, 760, 3)
