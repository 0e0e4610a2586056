"""The file `model-config.toml` of a model folder, or another of settings: its values, and on which line each stands."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inflame import store
from inflame.errors import DataError, SettingError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "model-config.toml"

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#\s*(.*))?$")
_ENTRY = re.compile(r"\s*([\w.\"'-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A parsed file. `lines` gives the line of a dotted key, `comments` what is said beside or above it,
    `head` the comment that the file opens with."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    comments: dict[str, str]
    head: str

    def where(self, key: str) -> str:
        """`path:line` of a key (or of the nearest table that holds it); the path alone when it can't be told."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.path}:{self.lines[key]}" if key else str(self.path)


def read(folder: Path) -> Config:
    """The folder's `model-config.toml`. No such file: DataError. Not TOML: SettingError with its line."""
    path = folder / FILE
    if not path.is_file():
        raise DataError(
            f"{folder} has no {FILE}.",
            where=str(folder),
            remedy="Name a model folder, or make one: inflame new my_model",
        )
    return parse(path)


def parse(path: Path) -> Config:
    """A file of settings. Not TOML: SettingError with its line."""
    text = store.read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
        line = re.search(r"line (\d+)", place)
        raise SettingError(
            f"{path.name} is not valid TOML: {what}.",
            where=f"{path}:{line[1]}" if line else str(path),
            remedy="Correct that line; text stands in quotes, numbers don't.",
        ) from error
    lines, comments = _scan(text)
    return Config(path=path, values=values, lines=lines, comments=comments, head=_head(text))


def _scan(text: str) -> tuple[dict[str, int], dict[str, str]]:
    """Line and comment of each dotted key. Text over several lines may hide a key: then its table's line serves."""
    lines: dict[str, int] = {}
    comments: dict[str, str] = {}
    table, above = "", ""
    head = len(_head(text).splitlines())  # says something about the whole file, not about its first key
    for number, line in enumerate(text.splitlines(), start=1):
        if number <= head:
            continue
        if line.lstrip().startswith("#"):
            above = f"{above} {line.strip().lstrip('# ')}".strip()
            continue
        if found := _TABLE.match(line):
            table = _dotted(found[1])
            lines.setdefault(table, number)
        elif found := _ENTRY.match(line):
            key = ".".join(filter(None, (table, _dotted(found[1]))))
            lines.setdefault(key, number)
            comments.setdefault(key, _comment(line[found.end() :]) or above)
        above = ""
    return lines, comments


def _dotted(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def _comment(rest: str) -> str:
    """What follows the `#` of a line, where that is not inside quotes."""
    found = re.match(r"""(?:[^#"']|"(?:\\.|[^"\\])*"|'[^']*')*#\s*(.*)$""", rest)
    return found[1].strip() if found else ""


def _head(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" ").rstrip())
    return "\n".join(lines)
