"""One small plot as SVG text: how often intervals held, against how often they said they would. No library."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

SIZE, EDGE = 320, 44  # pixels
COLOURS = ("#888888", "#1f6feb", "#d9730d")


def calibration_svg(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """`curves`: by name, points (stated level, share that held), both 0 to 1. On the dashed line is calibrated."""
    inner = SIZE - 2 * EDGE

    def at(x: float, y: float) -> str:
        return f"{EDGE + x * inner:.1f},{SIZE - EDGE - y * inner:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" width="{SIZE}" height="{SIZE}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{SIZE}" height="{SIZE}" fill="#ffffff"/>',
        f'<polyline points="{at(0, 1)} {at(0, 0)} {at(1, 0)}" fill="none" stroke="#333333"/>',
        f'<polyline points="{at(0, 0)} {at(1, 1)}" stroke="#999999" stroke-dasharray="4"/>',
        f'<text x="{SIZE / 2}" y="{SIZE - 10}" text-anchor="middle">stated share of jobs inside</text>',
        f'<text x="14" y="{SIZE / 2}" text-anchor="middle" transform="rotate(-90 14 {SIZE / 2})">share inside</text>',
    ]
    for tick in (0.0, 0.5, 1.0):
        x, y = at(tick, 0).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 14:.1f}" text-anchor="middle">{tick:.0%}</text>')
        x, y = at(0, tick).split(",")
        parts.append(f'<text x="{float(x) - 4:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(at(x, y) for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="2.5" fill="{colour}"/>' for p in line.split()
        ]
        parts.append(f'<text x="{EDGE + 10}" y="{EDGE + 14 * number}" fill="{colour}">{name}</text>')
    return "".join([*parts, "</svg>"])


def data_uri(svg: str) -> str:
    """The image as a link that carries it, for Markdown."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
