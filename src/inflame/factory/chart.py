"""A line chart as inline SVG, coloured by the style sheet of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 250, 70, 10, 10, 38


def lines(
    series: Sequence[tuple[str, Sequence[Point]]], *, label: str, across: str, up: str, percent: bool = False
) -> Markup:
    """The series, each with the CSS class that colours it; `label` says in words what is shown. No points: empty."""
    points = [point for _, line in series for point in line]
    if not points:
        return Markup("")
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points), 5)
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 4)

    def place(x: float, y: float) -> Point:
        wide = (x - x_ticks[0]) / ((x_ticks[-1] - x_ticks[0]) or 1) * (WIDTH - LEFT - RIGHT)
        high = (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1) * (HEIGHT - TOP - BOTTOM)
        return LEFT + wide, HEIGHT - BOTTOM - high

    parts = [
        Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
            LEFT, place(0, y)[1], WIDTH - RIGHT, place(0, y)[1]
        )
        + _text(f"{100 * y:.4g} %" if percent else f"{y:.4g}", LEFT - 7, place(0, y)[1] + 4, "end")
        for y in y_ticks
    ]
    parts += [_text(f"{x:.4g}", place(x, 0)[0], HEIGHT - BOTTOM + 17, "middle") for x in x_ticks]
    parts += [_line(style, [place(*point) for point in line]) for style, line in series if line]
    parts += [_text(across, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "middle")]
    parts += [_text(up, 13, (TOP + HEIGHT - BOTTOM) / 2, "middle", turned=True)]
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    return head + Markup("").join(parts) + Markup("</svg>")


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that span low to high."""
    if not high > low:
        high = low + (abs(low) or 1)
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _line(style: str, points: Sequence[Point]) -> Markup:
    if len(points) == 1:
        return Markup('<circle class="point {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(style, *points[0])
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(style, path)


def _text(text: str, x: float, y: float, anchor: str, *, turned: bool = False) -> Markup:
    turn = Markup(' transform="rotate(-90 {:.1f} {:.1f})"').format(x, y) if turned else ""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(x, y, anchor, turn, text)
