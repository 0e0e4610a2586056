"""When somebody is told, and what counts as a loss: the settings of the monitor.

`conf/monitor.toml` in the folder one is in, or else in inflame's home; `key=value` words of the command line win. A
name or value that can't be is refused as everywhere: with the file and line, what was expected, and a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflame import store
from inflame.config import toml
from inflame.config.load import require, typed
from inflame.config.schema import Key
from inflame.config.words import split
from inflame.monitor.drift import LEAST, TOLERANCE
from inflame.records import Record

FILE = Path("conf") / "monitor.toml"
KEYS = {
    "window": Key(kind="whole", low=LEAST, help="answers in a window"),
    "tolerance": Key(kind="number", low=0, below=1, help="accuracy that may be lost before it is at risk"),
    "to": Key(kind="list", items="path", help="who is told: webhooks, smtp://host/me@example.org"),
    "alert.risk": Key(kind="yesno", help="tell when the accuracy is at risk"),
    "alert.changed": Key(kind="yesno", help="tell when the input has changed"),
    "alert.accuracy": Key(kind="number", low=0, high=1, optional=True, help="tell when it is lower, as estimated"),
    "alert.unknown": Key(kind="number", low=0, below=1, optional=True, help="tell when a larger share is not known"),
    "alert.latency": Key(kind="duration", above=0, optional=True, help="tell when 5 of 100 answers take longer"),
    "alert.silence": Key(kind="duration", above=0, optional=True, help="tell when there was no answer for so long"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(Record):
    """The settings of the monitor. `latency` and `silence` in seconds; None: that rule is not kept."""

    window: int = 200
    tolerance: float = TOLERANCE
    to: tuple[str, ...] = ()
    risk: bool = True
    changed: bool = False
    accuracy: float | None = None
    unknown: float | None = None
    latency: float | None = None
    silence: float | None = None


def load(words: Sequence[str] = ()) -> Rules:
    """The rules of the file, where there is one, and of `key=value` words. Anything wrong in them: SettingError."""
    values: dict[str, Any] = {}
    path = next((folder / FILE for folder in (Path.cwd(), store.home()) if (folder / FILE).is_file()), None)
    if path is not None:
        config = toml.parse(path)
        for name, value in _flat(config.values):
            require(name, KEYS, config.where(name))
            values[name] = typed(name, KEYS[name], value, config.where(name))
    for word in split(words):
        require(word.key, KEYS, word.where)
        values[word.key] = typed(word.key, KEYS[word.key], word.text, word.where, word)
    return Rules(**{name.removeprefix("alert."): value for name, value in values.items()})


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its dotted name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value
