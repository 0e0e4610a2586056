"""Charts as inline SVG, drawn by hand: sharp on every screen, coloured by the page's style sheet (also in the dark),
a few kilobytes each, and no plotting package to import (matplotlib alone costs 0.7 s)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

LEAST = 0.02  # of an axis of shares, from its foot to its top
Point = tuple[float, float]
_LEFT = 62
_NAME, _LETTER = 26, 8  # what the name of an axis takes beside its numbers, and a letter of these in the widest fonts


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A plot area with its scales: `low` to `high` on both axes; sizes in SVG units."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 420
    height: float = 240
    left: float = _LEFT
    right: float = 12
    top: float = 10
    bottom: float = 40

    def place(self, x: float, y: float) -> Point:
        """Where the data point (x, y) is drawn."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = (x - x0) / ((x1 - x0) or 1) * (self.width - self.left - self.right)
        up = (y - y0) / ((y1 - y0) or 1) * (self.height - self.top - self.bottom)
        return self.left + across, self.height - self.bottom - up


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series: its points, the CSS class that colours it, and its name at the end of the line."""

    points: Sequence[Point]
    style: str
    name: str = ""


def lines(series: Sequence[Line], *, label: str, x_name: str, y_name: str, percent: bool = False) -> Markup:
    """A line chart; `label` says in words what it shows, for those who can't see it. No points: empty."""
    points = [point for line in series for point in line.points]
    if not points:
        return Markup("")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(0.0, *ys), max(ys)
    if percent:  # near the data, and never outside of what a share can be
        high = min(1.0, max(high, LEAST))
        low = max(0.0, min(*ys, high - LEAST))
    y_ticks = ticks(low, high, 4)
    x_ticks = ticks(min(xs), max(xs), 5)
    written = max(len(_number(tick, percent)) for tick in y_ticks)
    left = max(_LEFT, _NAME + _LETTER * written)
    frame = Frame(x=(min(xs), max(xs)), y=(min(*y_ticks, *ys), max(*y_ticks, *ys)), left=left)
    body = [_grid(frame, [t for t in x_ticks if min(xs) <= t <= max(xs)], y_ticks, percent_y=percent)]
    body += [_polyline(frame, line.points, line.style) for line in series if line.points]
    return _svg(frame, label, [*body, _names(frame, x_name, y_name)])


def reliability(bins: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]], *, label: str) -> Markup:
    """How often right at each level of confidence: dots as large as their bin with their interval (`rate_low`,
    `rate_high`), on the diagonal when honest; rings show `before`."""
    if not bins:
        return Markup("")
    frame = Frame(x=(0, 1), y=(0, 1), width=380, height=320)
    quarters = [0, 0.25, 0.5, 0.75, 1]
    body = [_grid(frame, quarters, quarters, percent_x=True, percent_y=True)]
    body.append(_polyline(frame, [(0, 0), (1, 1)], "ideal"))
    body += [_circle(frame, entry["confidence"], entry["accuracy"], "ring", 4.5) for entry in before]
    most = max(entry["n"] for entry in bins)
    for entry in bins:
        x, bottom = frame.place(entry["confidence"], entry["rate_low"])
        top = frame.place(0, entry["rate_high"])[1]
        body.append(_stroke("whisker", x, bottom, x, top))
        title = f"{entry['n']} items: {entry['confidence']:.0%} sure, {entry['accuracy']:.0%} right"
        radius = 3 + 8 * math.sqrt(entry["n"] / most)
        body.append(_circle(frame, entry["confidence"], entry["accuracy"], "dot", radius, title))
    return _svg(frame, label, [*body, _names(frame, "how sure it was", "how often it was right")])


def risk(curve: Sequence[Sequence[float]], *, error: float, at: Point | None, label: str) -> Markup:
    """Error rate among the answered against the share that is answered, with the wanted rate and the chosen point."""
    if not curve:
        return Markup("")
    top = max(0.02, error, at[1] if at else 0, *(y for _, y in curve)) * 1.1
    y_ticks = ticks(0, top, 4)
    frame = Frame(x=(0, 1), y=(0, y_ticks[-1]), width=380, height=320)
    body = [_grid(frame, [0, 0.25, 0.5, 0.75, 1], y_ticks, percent_x=True, percent_y=True)]
    body.append(_polyline(frame, [(0, error), (1, error)], "ideal"))
    body.append(_polyline(frame, [(x, y) for x, y in curve], "main"))
    body += [_circle(frame, *at, "dot", 7)] if at else []
    return _svg(frame, label, [*body, _names(frame, "share of items answered", "wrong among the answered")])


def heat(matrix: Sequence[Sequence[int]], *, label: str, side: float = 640) -> Markup:
    """A confusion matrix too large for numbers: one square per cell, coloured by its share of the row."""
    cell = side / max(len(matrix), 1)
    square = Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" fill-opacity="{:.2f}"/>')
    body = [
        square.format(
            "good" if i == j else "bad", j * cell, i * cell, cell, cell, 0.15 + 0.85 * math.sqrt(count / sum(row))
        )
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if count
    ]
    frame = Frame(x=(0, 1), y=(0, 1), width=side, height=side)
    return _svg(frame, label, [Markup('<rect class="plate" width="{0}" height="{0}"/>').format(side), *body])


def interval(low: float, high: float, value: float, *, baseline: float | None, label: str) -> Markup:
    """A share from 0 to 100 % as a dot on its interval, with the baseline to beat as a mark."""
    frame = Frame(x=(0, 1), y=(0, 1), width=560, height=64, left=14, right=14, top=8, bottom=24)
    middle = frame.place(0, 0.5)[1]
    start, left, right, end = (frame.place(share, 0)[0] for share in (0, low, high, 1))
    parts = [_stroke("track", start, middle, end, middle), _stroke("range", left, middle, right, middle)]
    if baseline is not None:
        x = frame.place(baseline, 0)[0]
        parts.append(_stroke("base", x, middle - 12, x, middle + 12))
    parts.append(_circle(frame, value, 0.5, "dot", 8))
    parts += [_text(_number(share, True), frame.place(share, 0)[0], 60, "middle") for share in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(frame, label, parts)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that span low to high."""
    if not high > low:
        high = low + (abs(low) or 1)
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw - 1e-12)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _grid(
    frame: Frame, xs: Sequence[float], ys: Sequence[float], *, percent_x: bool = False, percent_y: bool = False
) -> Markup:
    parts = []
    for y in ys:
        place = frame.place(0, y)[1]
        parts.append(_stroke("grid", frame.left, place, frame.width - frame.right, place))
        parts.append(_text(_number(y, percent_y), frame.left - 7, place + 4, "end"))
    foot = frame.height - frame.bottom + 17
    parts += [_text(_number(x, percent_x), frame.place(x, 0)[0], foot, "middle") for x in xs]
    return Markup("").join(parts)


def _stroke(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return line.format(style, x1, y1, x2, y2)


def _circle(frame: Frame, x: float, y: float, style: str, radius: float, title: str = "") -> Markup:
    across, down = frame.place(x, y)
    said = Markup("<title>{}</title>").format(title) if title else ""
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}">{}</circle>').format(
        style, across, down, radius, said
    )


def _polyline(frame: Frame, points: Sequence[Point], style: str) -> Markup:
    if len(points) == 1:
        return _circle(frame, *points[0], f"point {style}", 3.5)
    path = " ".join("{:.1f},{:.1f}".format(*frame.place(*point)) for point in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(style, path)


def _names(frame: Frame, x_name: str, y_name: str) -> Markup:
    across = _text(x_name, (frame.left + frame.width - frame.right) / 2, frame.height - 5, "middle")
    x, y = 13, (frame.top + frame.height - frame.bottom) / 2
    up = Markup('<text x="{x}" y="{y}" text-anchor="middle" transform="rotate(-90 {x} {y})">{}</text>').format(
        y_name, x=x, y=y
    )
    return across + up


def _text(text: str, x: float, y: float, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.4g}"


def _svg(frame: Frame, label: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(
        frame.width, frame.height, escape(label)
    )
    return head + Markup("").join(parts) + Markup("</svg>")
