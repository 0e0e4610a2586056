"""Small things that are read from a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inflame import store
from inflame.config.settings import BYSTANDERS

ASIDE = (*(name for name in BYSTANDERS if name != "io"), "io.training_output")
"""Settings that say where and how, not what: in `io` the data are what."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def of_trial(run: str) -> Path:
    """The run folder that a trial names: a path, or a name in `$INFLAME_HOME/runs`."""
    path = Path(run).expanduser()
    return (path if path.is_absolute() else store.home() / "runs" / run).resolve()


def settings(run: Path) -> dict[str, Any]:
    """The settings of a run by their full names: `{"hyperparam.learning_rate": 0.1}`."""
    return _flat(read_json(run / "config.json"))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= _flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {prefix + name: item}
    return found
