"""What the trials of a sweep are judged by, and where their run folders say it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame.config import reading
from inflame.errors import UserError, did_you_mean
from inflame.runs import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

KNOWN = {
    "val.accuracy": "maximize",
    "val.low": "maximize",  # the lower end of its interval
    "val.balanced": "maximize",  # the mean over the classes
    "val_accuracy": "maximize",  # of the best epoch
    "val_loss": "minimize",
    "seconds": "minimize",
    "latency_ms": "minimize",  # one item through the bundle
    "size_mb": "minimize",  # of the bundle's net
}
_WAYS = {"max": "maximize", "min": "minimize"}
_SMALL = ("loss", "error", "seconds", "time", "_ms", "_mb", "size")  # what is better small, by its name


def understand(words: Sequence[str], folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and directions of one or two objectives, written `val.accuracy`, `latency_ms` or `mine:min`. One that no
    run of the model in `folder` reports, or that must not be chosen by: UserError."""
    names, directions = [], []
    for word in words:
        name, _, way = word.partition(":")
        _refuse_test(name)
        if way and way not in _WAYS:
            raise UserError(f"An objective is made large (max) or small (min), not {way}.", remedy=f"{name}:min")
        if name not in KNOWN and ("." in name or name not in reading.read(folder).names):
            raise UserError(
                f'No run reports "{name}".{did_you_mean(name, KNOWN)}',
                where=f"--objective {word}",
                remedy=f"Take one of {', '.join(KNOWN)}, or a number that train.py gives to run.metric or run.status.",
            )
        names.append(name)
        directions.append(_WAYS.get(way) or KNOWN.get(name) or _guessed(name))
    if not 1 <= len(names) <= 2 or len(set(names)) < len(names):
        raise UserError(
            f"A sweep has one objective or two, not: {', '.join(names) or 'none'}.",
            remedy="--objective val.accuracy   or   --objective val.accuracy,latency_ms",
        )
    return tuple(names), tuple(directions)


def values(run: Run, names: Sequence[str]) -> tuple[float, ...]:
    """What the run reports, finite numbers; () where any of them is missing."""
    status = run.read_status()
    rows: list[dict[str, Any]] | None = None
    found = []
    for name in names:
        value = _of_status(status, name)
        if value is None:
            rows = run.metrics() if rows is None else rows
            value = _of_rows(rows, name)
        if value is None and name == "size_mb":
            value = _size(run)
        if value is None or not math.isfinite(value):
            return ()
        found.append(value)
    return tuple(found)


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[Mapping[str, Any], float | None]]:
    """The rows in which the first objective, or what stands for it while a run trains, was looked at; None where it
    was no number."""
    shown = {"val.accuracy": "val_accuracy", "val.low": "val_accuracy"}.get(name, name)
    return [(row, _number(row[shown])) for row in rows if shown in row]


def best(found: Sequence[float], direction: str) -> float:
    """The best of some values."""
    return max(found) if direction == "maximize" else min(found)


def _refuse_test(name: str) -> None:
    if name == "test" or name.startswith(("test.", "test_")):
        raise UserError(
            f"{name} can't be an objective: what is chosen by the test split is no longer tested by it.",
            where=f"--objective {name}",
            remedy="Choose by held-out items: --objective val.accuracy. The test accuracy of each run is on the board.",
        )


def _guessed(name: str) -> str:
    return "minimize" if any(part in name.lower() for part in _SMALL) else "maximize"


def _of_status(status: Mapping[str, Any], name: str) -> float | None:
    serving = status.get("serving")
    if name in ("latency_ms", "size_mb") and isinstance(serving, dict):
        return _number(serving.get(name))
    found: Any = status
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return _number(found)


def _of_rows(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The best of the epochs (of a name that isn't known, the last)."""
    found = [value for row in rows if (value := _number(row.get(name))) is not None]
    if not found:
        return None
    return best(found, KNOWN[name]) if name in KNOWN else found[-1]


def _number(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain else None


def _size(run: Run) -> float | None:
    files = [run.path / "bundle" / name for name in ("model.onnx", "model.safetensors")]
    return next((path.stat().st_size / 1e6 for path in files if path.is_file()), None)
