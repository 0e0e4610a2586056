"""The page of `inflame check`: every fault with its pictures, in one file that needs nothing else.

File names, labels and pictures are strangers' input: names are escaped, pictures are decoded and encoded anew.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from inflame.artifact import finding, preprocess
from inflame.artifact.contents import Contents
from inflame.errors import InflameError
from inflame.records import Check, Fault, Preprocess

SIDE = 96  # pixels of a thumbnail
PER_FAULT = 24  # thumbnails; the other names are listed
IN_ALL = 600  # thumbnails; about 2 MB
FAULTS = 200  # of one kind that are shown one by one
NAMES = 2_000  # of one fault that are listed

_THUMBNAIL = Preprocess(size=SIDE, resize=SIDE)
_TITLES = {
    "unreadable": "Unreadable files",
    "label_conflict": "The same under two labels",
    "empty_class": "Empty classes",
    "small_class": "Classes with too few pictures",
    "split_leak": "In two splits at once",
    "suspected_label": "Likely wrong labels",
    "duplicate": "The same file more than once",
    "near_duplicate": "Nearly the same more than once",
    "blank": "Nothing to be seen or read",
    "shortcut": "Shortcuts: what else tells the class",
    "imbalance": "Unequal classes",
    "outlier": "Like nothing else here",
    "odd_size": "Unusual sizes",
    "rotated": "Turned pictures",
    "odd_mode": "Unusual formats",
    "junk": "Files that are no items",
}
_PICTURED = set(_TITLES) - {"unreadable", "empty_class", "junk", "imbalance"}
_SEVERITIES = {"error": "left out of training", "warning": "look at it", "info": "handled, nothing to do"}


@dataclass(frozen=True, slots=True)
class _Shown:
    name: str
    short: str
    picture: str  # a data: uri


@dataclass(frozen=True, slots=True)
class _Card:
    reason: str
    items: tuple[str, ...]
    shown: list[_Shown]
    listed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    kind: str
    title: str
    severity: str
    meaning: str
    faults: int
    items: int
    cards: list[_Card]


def sheet(check: Check, root: Path) -> str:
    """One HTML page of all faults, by kind, with thumbnails; `root` is the data, or the folder of its items."""
    import jinja2  # late: whoever only opens data sets doesn't wait for it

    folder, left = _folder(root), IN_ALL
    kinds = [*_TITLES, *sorted({fault.kind for fault in check.faults} - set(_TITLES))]
    groups = []
    for kind in kinds:
        for severity in _SEVERITIES:
            found = [fault for fault in check.faults if (fault.kind, fault.severity) == (kind, severity)]
            if found:
                groups.append(_group(kind, severity, found, folder, left))
                left -= sum(len(card.shown) for card in groups[-1].cards)
    groups.sort(key=lambda group: list(_SEVERITIES).index(group.severity))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(check=check, root=str(root), groups=groups, side=SIDE)


def _group(kind: str, severity: str, faults: list[Fault], folder: Path, left: int) -> _Group:
    cards = []
    for fault in faults[:FAULTS]:
        names = fault.items[: min(PER_FAULT, left)] if kind in _PICTURED else ()
        pictures = [(name, _thumbnail(folder, name)) for name in names]
        shown = [_Shown(name, PurePosixPath(name).name, picture) for name, picture in pictures if picture]
        left -= len(shown)
        cards.append(_Card(fault.reason, fault.items, shown, fault.items[:NAMES]))
    title = _TITLES.get(kind, kind.replace("_", " ").capitalize())
    items = len({name for fault in faults for name in fault.items})
    return _Group(kind, title, severity, _SEVERITIES[severity], len(faults), items, cards)


def _thumbnail(folder: Path, name: str) -> str:
    """The picture as a small JPEG inside a data: uri; "" when it can't be shown."""
    try:
        packed, _, row = name.rpartition("#")
        if packed.endswith(".npy"):
            source = np.ascontiguousarray(np.load(folder / packed, mmap_mode="r")[int(row)])
            pixels = preprocess.pixels(source, _THUMBNAIL)
        else:
            pixels = preprocess.pixels(Contents(folder).read(name), _THUMBNAIL)
    except (InflameError, OSError, ValueError, IndexError):
        return ""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _folder(root: Path) -> Path:
    """The folder that item names are relative to: for an archive the one it was unpacked to, for a table its own."""
    if root.is_dir() or not root.exists():
        return root
    return Path(finding.listed(root).root)


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ check.dataset }}: data check</title>
<style>
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #fff; --ink: #1c1d20; --soft: #5d6068; --line: #e2e0db;
  --error: #b3261e; --warning: #8a5a00; --info: #2b5f9e }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --card: #1f2228; --ink: #e8e8ea; --soft: #a2a7b0; --line: #343942;
    --error: #ff8a80; --warning: #f2b84b; --info: #8cbcf5 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem }
p { margin: .25rem 0 }
.soft { color: var(--soft) }
.error { color: var(--error) } .warning { color: var(--warning) } .info { color: var(--info) }
table { border-collapse: collapse; margin: 1.25rem 0 }
td, th { padding: .3rem 1.25rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line) }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
a { color: inherit }
section > p:first-of-type { margin-bottom: .75rem }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
  margin: .6rem 0 }
.reason { overflow-wrap: anywhere }
.reason::first-letter { text-transform: uppercase }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0 .25rem; padding: 0; list-style: none }
.pictures li { width: {{ side }}px; font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere }
.pictures img { display: block; width: {{ side }}px; height: {{ side }}px; border-radius: .3rem; margin-bottom: .25rem }
.pictures span { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden }
pre { margin: .5rem 0 0; padding: .6rem .8rem; max-height: 16rem; overflow: auto; border: 1px solid var(--line);
  border-radius: .4rem; font: .8rem/1.45 ui-monospace, monospace; user-select: all; white-space: pre }
summary { margin-top: .35rem; cursor: pointer; color: var(--soft); font-size: .875rem }
@media print { details > pre { max-height: none } }
</style>
</head>
<body>
<header>
<h1>{{ check.dataset }}</h1>
<p>{{ "{:,}".format(check.items) }} items in {{ check.classes }} classes, looked at in
{{ "%.1f" | format(check.seconds) }} s. Nothing in the data was changed.</p>
<p class="soft">All names are relative to <code>{{ root }}</code>; a click on a list of names selects it all.</p>
</header>
{% for advice in check.advice %}
<div class="card">
<div class="reason">{{ advice.reason }}</div>
<pre>{{ advice.command }}</pre>
</div>
{% endfor %}
{% if groups %}
<table>
<tr><th>what</th><th class="number">faults</th><th class="number">files</th><th>meaning</th></tr>
{% for group in groups %}
<tr><td><a href="#{{ group.kind }}-{{ group.severity }}">{{ group.title }}</a></td>
<td class="number">{{ "{:,}".format(group.faults) }}</td><td class="number">{{ "{:,}".format(group.items) }}</td>
<td class="{{ group.severity }}">{{ group.severity }}: {{ group.meaning }}</td></tr>
{% endfor %}
</table>
{% for group in groups %}
<section id="{{ group.kind }}-{{ group.severity }}">
<h2>{{ group.title }} <span class="soft">({{ "{:,}".format(group.items) }})</span></h2>
<p class="{{ group.severity }}">{{ group.severity }}: {{ group.meaning }}</p>
{% for card in group.cards %}
<div class="card">
<div class="reason">{{ card.reason }}</div>
{% if card.shown %}
<ul class="pictures">
{% for item in card.shown %}
<li title="{{ item.name }}">
<img src="{{ item.picture }}" alt="" width="{{ side }}" height="{{ side }}" loading="lazy">
<span>{{ item.short }}</span></li>
{% endfor %}
</ul>
{% endif %}
{% if card.items %}
<details{% if card.items | length <= 6 %} open{% endif %}>
{% set more = card.items | length - card.shown | length if card.shown else 0 %}
<summary>{{ "and {:,} more; ".format(more) if more }}{{ "{:,}".format(card.items | length) }}
name{{ "s" if card.items | length > 1 }}{{ " in all" if more }}</summary>
<pre>{{ card.listed | join("\\n") }}</pre>
{% if card.items | length > card.listed | length %}
<p class="soft">and {{ "{:,}".format(card.items | length - card.listed | length) }} more, all in check.json</p>
{% endif %}
</details>
{% endif %}
</div>
{% endfor %}
{% if group.faults > group.cards | length %}
<p class="soft">and {{ "{:,}".format(group.faults - group.cards | length) }} more like these, all in check.json</p>
{% endif %}
</section>
{% endfor %}
{% else %}
<p><strong>No faults found.</strong></p>
{% endif %}
</body>
</html>
"""
