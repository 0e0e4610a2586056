"""Things to try a model on, and what can be drawn for it.

Where the run that made the bundle is at hand, its test items: no choice was ever made on them. Else the training items
that the bundle shows.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inflame.artifact.contents import Contents
from inflame.errors import InflameError
from inflame.web import thumbs
from inflame.web.models import Model

MOST = 8
_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Something to try. `name` is shown; `snippet`: the beginning of a text."""

    name: str
    content: bytes
    snippet: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """`held_out`: whether training never saw them."""

    items: tuple[Example, ...] = ()
    held_out: bool = False


def of(model: Model) -> Examples:
    """Examples of different classes, without their answers."""
    found = _of_run(model)
    if found:
        return Examples(items=tuple(found), held_out=True)
    shown = model.shown(MOST)
    return Examples(
        items=tuple(_example(n, one.thumb or one.snippet.encode(), model) for n, one in enumerate(shown, 1))
    )


def _of_run(model: Model) -> list[Example]:
    run = Path(model.predictor.folder).resolve().parent
    try:
        import pyarrow.parquet as pq

        about = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
        rows = pq.read_table(run / "items.parquet", columns=["uri", "label", "split"]).to_pylist()
        rows = [row for row in rows if row["split"] == "test"]
        rng = np.random.default_rng(7)
        rng.shuffle(rows)
        turn: dict[str, int] = {}
        for row in rows:
            row["turn"] = turn[row["label"]] = turn.get(row["label"], -1) + 1
        rows.sort(key=lambda row: row["turn"])
        source = Contents(about["root"])
        found: list[Example] = []
        for row in rows[: 2 * MOST]:
            content = source.read(row["uri"])
            if len(content) <= _BYTES and len(found) < MOST:
                found.append(_example(len(found) + 1, content, model))
        return found
    except (OSError, ValueError, KeyError, TypeError, InflameError):
        return []  # the data are elsewhere now, or were never here


def _example(number: int, content: bytes, model: Model) -> Example:
    if model.text:
        said = " ".join(content[:2000].decode(errors="replace").split())
        return Example(name=f"example {number}", content=content, snippet=said[:160])
    small = content if len(content) < 20_000 and content[:1] in (b"\x89", b"\xff") else thumbs.one(content, 512)
    return Example(name=f"example {number}", content=small or content)


def drawing(model: Model, shown: Examples) -> dict[str, Any] | None:
    """How a drawing must look to be like the training items: the colour of the ink, how much of the frame it fills, and
    how many pixels wide it is. None where nobody would draw: photos, clothes."""
    if not model.small or any(len(name) > 1 for name in model.classes):
        return None
    light, fills = [], []
    for one in model.shown(40):
        try:
            pixels = (
                np.asarray(Image.open(io.BytesIO(one.thumb), formats=["PNG", "JPEG"]).convert("L"), np.float32) / 255
            )
        except OSError:
            continue
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        bright = float(np.median(rim)) < 0.5
        ink = pixels > 0.3 if bright else pixels < 0.7
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        if len(rows):
            light.append(bright)
            fills.append(max(np.ptp(rows) + 1, np.ptp(columns) + 1) / len(pixels))
    if not fills:
        return None
    side = model.predictor.preprocess.size  # type: ignore[union-attr]
    if shown.items and shown.held_out:
        side = min(side, Image.open(io.BytesIO(shown.items[0].content)).width)
    return {"light": bool(np.mean(light) > 0.5), "fill": round(float(np.median(fills)), 3), "side": side}
