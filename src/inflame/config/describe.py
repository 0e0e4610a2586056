"""What a model folder can be told: one row per setting, for `--help` and for the docs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inflame.config import reading, toml
from inflame.config.load import has_effect, keys_of

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting: its full name, its value in the file (empty: not set there) and what is said about it."""

    key: str
    value: str
    comment: str


def describe(folder: Path) -> tuple[str, list[Row]]:
    """The comment that opens the folder's file, and the settings that have an effect: those of the file first."""
    folder = folder.resolve()
    config, code = toml.read(folder), reading.read(folder)
    set_here = {name: value for name, value in config.values.items() if not isinstance(value, dict) or name == "splits"}
    for table in ("io", "hyperparam"):
        set_here |= {f"{table}.{name}": value for name, value in config.values.get(table, {}).items()}
    rows = []
    for name, key in sorted(keys_of(config).items(), key=lambda item: _rank(item[0], set_here)):
        if name not in set_here and not has_effect(name, code):
            continue
        comment = config.comments.get(name) or key.help
        rows.append(Row(key=name, value=_shown(set_here.get(name)), comment=comment))
    sections = [name for name, value in config.values.get("io", {}).items() if isinstance(value, dict)]
    if sections:
        rows.append(
            Row(key="io", value="", comment="choose a section: " + ", ".join(f"io={name}" for name in sections))
        )
    return config.head, rows


def _rank(name: str, set_here: dict[str, Any]) -> tuple[bool, bool]:
    return name not in set_here, not name.startswith("hyperparam.")


def _shown(value: Any) -> str:
    if value is None or value == "":
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
