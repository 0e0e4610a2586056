"""What verbs print: JSON for programs, and tables for a terminal, aligned, never wider than it, without colour where
nobody sees it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any


def findings(found: Sequence[tuple[str, str, str]]) -> str:
    """State, what was looked at, and the sentence about it: in a narrow terminal that goes on in the next lines."""
    columns = [max(map(_width, column)) for column in zip(("", "what", ""), *found, strict=True)][:2]
    room = max(20, _room() - sum(columns) - 4)
    lines = [" " * (columns[0] + 2) + f"{'what':{columns[1]}}  found"]
    for state, what, text in found:
        first, *more = textwrap.wrap(_flat(text), room) or [""]
        lines.append(f"{_pad(state, columns[0], False)}  {_pad(what, columns[1], False)}  {first}")
        lines += [" " * (sum(columns) + 4) + line for line in more]
    return "\n".join([bold(lines[0]), *lines[1:]])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The rows below their heads. Columns of numbers stand to the right. In a narrow terminal the widest columns
    lose the middle of their texts; in a pipe nothing is lost."""
    cells = [[_flat(value) for value in row] for row in (head, *rows)]
    widths = _fit([max(map(_width, column)) for column in zip(*cells, strict=True)])
    right = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(_pad(cell, width, flush) for cell, width, flush in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([bold(lines[0]), *lines[1:]])


def as_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON: letters as they are, but for file names that are no text in any encoding."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def bold(text: str) -> str:
    """The text in bold where that is wanted and can be seen."""
    seen = sys.stdout is not None and sys.stdout.isatty()
    plain = not seen or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[0m"


def _flat(value: object) -> str:
    return " ".join(str(value).split())


def _room() -> int:
    """Columns that there are; in a pipe, as many as one likes."""
    told = os.environ.get("COLUMNS", "").isdigit() or (sys.stdout is not None and sys.stdout.isatty())
    return shutil.get_terminal_size().columns if told else sys.maxsize


def _fit(widths: list[int]) -> list[int]:
    room = _room() - 2 * (len(widths) - 1)
    while sum(widths) > room and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    return widths


def _pad(text: str, width: int, flush: bool) -> str:
    text = _shorten(text, width)
    gap = " " * (width - _width(text))
    return gap + text if flush else text + gap


def _shorten(text: str, width: int) -> str:
    """The text with its middle left out: both ends of a path tell most."""
    if _width(text) <= width:
        return text
    head, tail = text[: (width - 1) // 2], text[len(text) - width // 2 :]
    while _width(head) + 1 + _width(tail) > width:
        head, tail = (head[:-1], tail) if _width(head) >= _width(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def _width(text: str) -> int:
    """How many columns a terminal gives to the text."""
    if text.isascii():
        return len(text)
    shown = (letter for letter in text if not unicodedata.combining(letter))
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in shown)
