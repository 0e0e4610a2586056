"""What tells a start from the run that an earlier one began: settings and data, key by key, as people type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inflame import store
from inflame.errors import InflameError

if TYPE_CHECKING:
    from inflame.config import Settings

MOST = 5  # of them that are told
LONGEST = 40  # letters of a value
CONFIG, DATA = "config.json", "dataset.json"
TIME = "in"


def found(settings: Settings, version: str, read: Callable[[str], str]) -> list[str]:
    """A line for each setting that changes the result, and for the data, where they aren't those of the run whose files
    `read` gives: `seed=0 there, 1 here`. None where the run doesn't say.

    version: of the data set now. A data set that was moved is the same one.
    """
    before, data = (_json(read, name) for name in (CONFIG, DATA))
    lines = []
    if before:
        from inflame.config import Settings as Given

        try:
            there, here = Given.from_json(before).telling(), settings.telling()
        except (KeyError, TypeError, ValueError):  # of another version of inflame
            there = here = {}
        lines = [
            _line(key, there.get(key), here.get(key)) for key in {**there, **here} if there.get(key) != here.get(key)
        ]
    if version and data.get("version") not in (None, version):
        there_is = f"{data.get('name')}, version {str(data['version'])[:8]}"
        lines.insert(0, f"io.training_input: {there_is} there, version {version[:8]} here")
    return lines


def told(lines: list[str]) -> str:
    """The first of them in a line: `a; b; and 3 more`."""
    rest = [f"and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return "; ".join([*lines[:MOST], *rest])


def _json(read: Callable[[str], str], name: str) -> dict[str, Any]:
    try:
        value = json.loads(read(name))
    except (InflameError, OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _line(key: str, there: Any, here: Any) -> str:
    if key == "code":
        return "code: the Python files of the model folder have changed"
    return f"{key}={_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = store.shown(value) if isinstance(value, str) else json.dumps(value)
    return (text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…") or "empty"
