"""The picture of the rooms and of who imports whom, read off the code: `python docs/rooms.py` writes it anew.

Rows are the layers of the contract in pyproject.toml; an arrow is an import between two rooms, late ones included. What
passes a row on its way down has a lane of its own there. Rows are ordered by the means of their neighbours, which keeps
crossings few (Sugiyama, Tagawa & Toda, 1981), and moved as near to these as there is room.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).with_name("pictures") / "rooms.svg"
FLOOR = "runs"  # the first layer of the floor, which every room stands on
START = "__main__"  # no room
FOR = {
    "cli": "words → one room",
    "notebook": "import inflame",
    "web": "pages, HTTP, chat",
    "factory": "many runs",
    "monitor": "after deployment",
    "project": "code of your own",
    "infra": "where training runs",
    "model": "training, answering",
    "artifact": "data",
}
WIDE, HIGH, GAP, LANE = 146, 56, 30, 26  # of a room, between two, and of an arrow that passes
STEP, EDGE = 118, 24  # from row to row, around everything

Arrow = tuple[str, str]


@dataclass(slots=True)
class _Layout:
    """Rooms and lanes, row by row; `links` lead from a row to the next one; `x` are the middles."""

    rows: list[list[str]]
    links: list[Arrow] = field(default_factory=list)
    x: dict[str, float] = field(default_factory=dict)

    def wide(self, name: str) -> int:
        return WIDE if name in FOR else LANE

    def near(self, name: str) -> list[str]:
        return [b if a == name else a for a, b in self.links if name in (a, b)]


def rooms() -> tuple[list[list[str]], list[str], set[Arrow]]:
    """Layers of rooms, the rooms of the floor, and the arrows between rooms that are none of the floor."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = told["contracts"][0]["layers"]
    layers = [[name.strip() for name in layer.split("|")] for layer in contract if layer != START]
    floor = next(number for number, layer in enumerate(layers) if FLOOR in layer)
    above = {name for layer in layers[:floor] for name in layer}
    assert above == FOR.keys(), "say in FOR what each room is for"
    graph = grimp.build_graph("inflame", exclude_type_checking_imports=True, cache_dir=None)
    found = {
        (_room(module), _room(other))
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    }
    arrows = {(a, b) for a, b in found if a != b and {a, b} <= above}
    return layers[:floor], [name for layer in layers[floor:] for name in layer], arrows


def picture() -> str:
    """The picture, SVG."""
    layers, floor, arrows = rooms()
    layout, chains = _layered(layers, arrows)
    for downwards in [True, False] * 8:
        _order(layout, downwards=downwards)
    for downwards in [True, False] * 20:
        _place(layout, downwards=downwards)
    left = min(x - layout.wide(name) / 2 for name, x in layout.x.items()) - EDGE
    layout.x = {name: x - left for name, x in layout.x.items()}
    width = max(x + layout.wide(name) / 2 for name, x in layout.x.items()) + EDGE
    bottom = EDGE + STEP * len(layers)
    parts = [_path(layout, chain, chains) for chain in chains]
    for number, row in enumerate(layout.rows):
        parts += [_box(name, layout.x[name], number) for name in row if name in FOR]
    parts += _ground(floor, width, bottom)
    uses = {name: [b for a, b in sorted(arrows) if a == name] for name in FOR}
    told = [f"{name} uses {', '.join(others)}" for name, others in uses.items() if others]
    height = bottom + HIGH + 2 * EDGE
    return _FRAME.format(width=width, height=height, told="; ".join(told), parts="\n".join(parts))


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _layered(layers: list[list[str]], arrows: set[Arrow]) -> tuple[_Layout, list[list[str]]]:
    """The rows with a lane in each row that an arrow passes; each arrow as the chain of what it leads through."""
    row = {name: number for number, layer in enumerate(layers) for name in layer}
    layout = _Layout(rows=[list(layer) for layer in layers])
    chains = []
    for a, b in sorted(arrows):
        lanes = {number: f"{a} {b} {number}" for number in range(row[a] + 1, row[b])}
        for number, lane in lanes.items():
            layout.rows[number].append(lane)
        chain = [a, *lanes.values(), b]
        layout.links += pairwise(chain)
        chains.append(chain)
    return layout, chains


def _order(layout: _Layout, *, downwards: bool) -> None:
    """Sorts each row by the mean place of its neighbours in the row before."""
    rows = layout.rows if downwards else layout.rows[::-1]
    for before, row in pairwise(rows):
        place = {name: number / len(before) for number, name in enumerate(before)}
        own = {name: number / len(row) for number, name in enumerate(row)}
        means = {name: [place[near] for near in layout.near(name) if near in place] or [own[name]] for name in row}
        row.sort(key=lambda name: sum(means[name]) / len(means[name]))


def _place(layout: _Layout, *, downwards: bool) -> None:
    """Moves each row to the mean of its neighbours, as near as there is room: by pooling those that would collide."""
    for row in layout.rows if downwards else layout.rows[::-1]:
        offset, offsets = 0.0, {}
        for before, name in zip(["", *row], row, strict=False):
            offset += (layout.wide(before) + layout.wide(name)) / 2 + GAP if before else 0.0
            offsets[name] = offset
        pools: list[tuple[float, int]] = []
        for name in row:
            known = [layout.x[near] for near in layout.near(name) if near in layout.x]
            wish = (sum(known) / len(known) if known else offsets[name]) - offsets[name]
            pools.append((wish, 1))
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (a, m), (b, n) = pools[-2:]
                pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
        moved = [value for value, count in pools for _ in range(count)]
        layout.x |= {name: value + offsets[name] for name, value in zip(row, moved, strict=True)}


def _path(layout: _Layout, chain: list[str], chains: list[list[str]]) -> str:
    """An arrow from the lower edge of a room to the upper edge of another."""
    top = {name: EDGE + STEP * number for number, names in enumerate(layout.rows) for name in names}
    start, end = chain[0], chain[-1]
    leaving = sorted((one for one in chains if one[0] == start), key=lambda one: layout.x[one[1]])
    coming = sorted((one for one in chains if one[-1] == end), key=lambda one: layout.x[one[-2]])
    x = _port(layout.x[start], leaving.index(chain), len(leaving))
    last = _port(layout.x[end], coming.index(chain), len(coming))
    y, words = top[start] + HIGH, [f"M{x:.0f} {top[start] + HIGH}"]
    for name in chain[1:]:
        to, stop = (last, top[name] - 7) if name == end else (layout.x[name], top[name])
        words.append(f"C{x:.0f} {(y + stop) / 2:.0f} {to:.0f} {(y + stop) / 2:.0f} {to:.0f} {stop}")
        x, y = to, stop
        if name != end:
            y += HIGH
            words.append(f"V{y}")
    return f'<path class="arrow" d="{" ".join(words)}"/>'


def _port(middle: float, number: int, count: int) -> float:
    return middle + (number - (count - 1) / 2) * min(16.0, (WIDE - 30) / count)


def _box(name: str, x: float, row: int) -> str:
    y = EDGE + STEP * row
    return (
        f'<rect class="room" x="{x - WIDE / 2:.0f}" y="{y}" width="{WIDE}" height="{HIGH}" rx="8"/>'
        f'<text class="name" x="{x:.0f}" y="{y + 24}">{name}</text>'
        f'<text class="for" x="{x:.0f}" y="{y + 42}">{escape(FOR[name])}</text>'
    )


def _ground(floor: list[str], width: float, top: float) -> list[str]:
    """The floor: its rooms, each of which may use those to its right."""
    wide = (width - 2 * EDGE) / len(floor)
    named = [(EDGE + wide * (number + 0.5), name) for number, name in enumerate(floor)]
    return [
        f'<rect class="floor" x="{EDGE}" y="{top}" width="{width - 2 * EDGE:.0f}" height="{HIGH + EDGE}" rx="8"/>',
        f'<text class="for" x="{width / 2:.0f}" y="{top + 22}">the floor, which every room may use</text>',
        *(f'<text class="name" x="{x:.0f}" y="{top + 54}">{name}</text>' for x, name in named),
    ]


_FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="t d">
<title id="t">The rooms of inflame</title>
<desc id="d">{told}. Every room uses the floor.</desc>
<style>
svg {{ --page: #fff; --room: #fff; --line: #c9ccd3; --arrow: #7d828c; --ink: #1f2328; --soft: #5b616b; --floor: #fbe9e4;
  --edge: #ff6e42; font-family: Roboto, system-ui, sans-serif; text-anchor: middle; }}
@media (prefers-color-scheme: dark) {{ svg {{ --page: #1e2129; --room: #272b35; --line: #4a5060; --arrow: #9aa1af;
  --ink: #eceef2; --soft: #b3b9c4; --floor: #3a2a26; --edge: #ff6e42; }} }}
.page {{ fill: var(--page); }}
.room {{ fill: var(--room); stroke: var(--line); stroke-width: 1.5; }}
.floor {{ fill: var(--floor); stroke: var(--edge); stroke-width: 1.5; }}
.name {{ fill: var(--ink); font-size: 15px; font-weight: 600; }}
.for {{ fill: var(--soft); font-size: 12.5px; }}
.arrow {{ fill: none; stroke: var(--arrow); stroke-width: 1.6; marker-end: url(#head); }}
#head path {{ fill: var(--arrow); }}
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="6.5" markerHeight="6.5" orient="auto">
<path d="M0 0 8 4 0 8z"/></marker></defs>
<rect class="page" width="100%" height="100%" rx="10"/>
{parts}
</svg>
"""

if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
