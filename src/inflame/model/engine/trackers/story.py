"""What a run folder has to tell a tracker: settings, numbers from where the last telling ended, pictures, files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
from PIL import Image, ImageDraw

from inflame import store
from inflame.model.engine.trackers import About, Point
from inflame.runs import Run, read_metrics

TRACKERS = "trackers"  # the folder, in that of the run, for what mirroring needs and makes
SYSTEM = "system.jsonl"
FILES = {"bundle": "bundle", "report": "report.html"}  # what is kept at the end, and where it lies
_SIDE = 640  # pixels of the confusion picture, about
_NUMBERS = 25  # up to so many classes each cell has its number
_RIGHT, _WRONG = (22, 110, 60), (170, 40, 30)  # the colours of a whole row in one cell


def about(run: Run) -> About:
    """The run before its first number. Files that aren't there (yet) leave their part empty."""
    data, origin = _read(run.path / "dataset.json"), _read(run.path / "provenance.json")
    facts = {
        "run": run.name,
        "folder": str(run.path),
        "data": data.get("name", ""),
        "data version": data.get("version", ""),
        "items": data.get("items", ""),
        "classes": len(data.get("classes", ())),
        "commit": (origin.get("git") or {}).get("commit", ""),
        "inflame": origin.get("versions", {}).get("inflame", ""),
        "torch": origin.get("versions", {}).get("torch", ""),
        "cpu": (origin.get("hardware") or {}).get("cpu", ""),
    }
    settings, status = _read(run.path / "config.json"), run.read_status()
    sweep = str(status.get("sweep") or "")
    facts |= {"sweep": sweep, "trial": status.get("trial", "") if sweep else ""}
    return About(
        run=run.name,
        folder=run.path,
        model=str(settings.get("model", "")),
        settings=dict(_flat(settings)),
        facts={name: str(value) for name, value in facts.items() if value != ""},
        data=str(data.get("name", "")),
        version=str(data.get("version", "")),
        source=str(data.get("source") or data.get("root") or ""),
        sweep=sweep,
    )


class Tail:
    """A file of JSON lines that grows, read on from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row, self._place, self._file = 0, 0, 0  # rows and bytes read, and of which file

    def read(self, since: int, most: int = 2000) -> list[dict[str, Any]]:
        """The whole rows from number `since` (from 0) on, at most `most`. A file that was replaced, as on a resume,
        is read from its beginning; rows that are no JSON count and are left out."""
        try:
            with self.path.open("rb") as file:
                if since < self.row or os.fstat(file.fileno()).st_ino != self._file:
                    self.row, self._place, self._file = 0, 0, os.fstat(file.fileno()).st_ino
                file.seek(self._place)
                return list(self._rows(file, since, since + most))
        except FileNotFoundError:
            return []

    def _rows(self, file: IO[bytes], first: int, last: int) -> Iterator[dict[str, Any]]:
        while self.row < last and (line := file.readline()).endswith(b"\n"):
            self.row, self._place = self.row + 1, file.tell()
            if self.row > first:
                with suppress(ValueError):
                    yield json.loads(line)


def point(row: Mapping[str, Any], began: float, number: int) -> Point:
    """A row of metrics.jsonl; one that doesn't say its step stands at its number. `began`: seconds since 1970."""
    step, seconds = row.get("step"), row.get("seconds")
    return Point(
        step=int(step) if _is_number(step) else number,
        time=began + (float(seconds) if _is_number(seconds) else 0.0),
        values={name: float(value) for name, value in row.items() if name != "step" and _is_number(value)},
    )


def sample(row: Mapping[str, Any]) -> Point:
    """A row of system.jsonl."""
    values = {f"system/{name}": float(value) for name, value in row.items() if name not in ("seconds", "time")}
    return Point(step=round(row["seconds"]), time=row["time"], values=values)


def summary(run: Run) -> dict[str, float]:
    """The run in a few numbers: the accuracy of each split that was measured, with its interval, and the seconds."""
    status = run.read_status()
    found = {
        f"{split}_{name}": float(value)
        for split in ("test", "val")
        for name, value in (status.get(split) or {}).items()
        if isinstance(value, (int, float))
    }
    return {**found, "seconds": float(status.get("seconds", 0.0))}


def pictures(run: Run) -> dict[str, Path]:
    """The pictures of a finished run, drawn when they aren't there: the confusion of its report."""
    found = _read(run.path / "report.json").get("confusion")
    if not isinstance(found, dict) or not found.get("classes"):
        return {}
    file = run.path / TRACKERS / "confusion.png"
    if not file.is_file() or file.stat().st_mtime < (run.path / "report.json").stat().st_mtime:
        with store.atomic(file) as temporary:
            confusion(found["classes"], found["matrix"]).save(temporary, format="PNG")
    return {"confusion": file}


def confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Image.Image:
    """A picture of counts [K,K], rows the truth and columns the answer, each cell as dark as its share of its row."""
    counts, few = np.asarray(matrix), len(classes) <= _NUMBERS
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    full = np.where(np.eye(len(classes), dtype=bool)[..., None], _RIGHT, _WRONG)
    cells = Image.fromarray((255 + shares[..., None] * (full - 255)).round().astype(np.uint8))
    cell = min(56, _SIDE // len(classes))
    side = cell * len(classes) if cell else _SIDE
    cells = cells.resize((side, side), Image.Resampling.NEAREST if cell else Image.Resampling.BOX)
    edge = 150 if few else 30
    picture = Image.new("RGB", (edge + side + 12, edge + side + 12), "white")
    picture.paste(cells, (edge, edge))
    draw = ImageDraw.Draw(picture)
    draw.text((edge, 4), "truth down, answer across", fill="grey")
    if few:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            place = edge + (column + 0.5) * cell, edge + (row + 0.5) * cell
            draw.text(place, str(counts[row, column]), fill=colour, anchor="mm")
        _name(picture, classes, cell, edge)
    return picture


def missing(run: Run, memo: Mapping[str, Any]) -> str:
    """What of the run has not arrived, in words; empty when all has."""
    rows = len(read_metrics(run.path / "metrics.jsonl"))
    told = min(int(memo.get("rows", 0)), rows)
    parts = [f"{rows - told} of {rows} rows of numbers"] if told < rows else []
    parts += [f"the {name}" for name in (*pictures(run), *there(run)) if name not in memo.get("sent", ())]
    if not parts and memo.get("ended") != run.state:
        parts = ["how it ended"]
    return ", ".join(parts)


def there(run: Run) -> dict[str, Path]:
    """The files to be kept of a finished run, those that there are."""
    if run.state != "done":
        return {}
    return {name: run.path / place for name, place in FILES.items() if (run.path / place).exists()}


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """`{"hyperparam": {"a": 1}}` as `hyperparam.a: 1`; what isn't set is left out."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        elif isinstance(item, (str, int, float)) and item != "":
            yield prefix + name, item
        elif isinstance(item, list):
            yield prefix + name, json.dumps(item)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _name(picture: Image.Image, classes: Sequence[str], cell: int, edge: int) -> None:
    """Class names beside the rows and, turned, above the columns."""
    draw = ImageDraw.Draw(picture)
    for index, name in enumerate(classes):
        text = name if len(name) <= 20 else f"{name[:19]}…"
        draw.text((edge - 6, edge + (index + 0.5) * cell), text, fill="black", anchor="rm")
        strip = Image.new("RGB", (edge - 24, 14), "white")
        ImageDraw.Draw(strip).text((0, 7), text, fill="black", anchor="lm")
        turned = strip.rotate(90, expand=True)
        picture.paste(turned, (edge + round((index + 0.5) * cell) - 7, 18))
