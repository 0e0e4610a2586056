"""Things to try a model on, and what can be drawn for it.

Where the run that made the bundle is at hand, its test items: no choice was ever made on them. Else the training items
that the bundle shows.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from inflame.errors import InflameError
from inflame.web import thumbs
from inflame.web.problems import Problem
from inflame.web.served import Served
from inflame.web.slots import Slot

MOST = 8
_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Something to try. `name` is shown; `snippet`: the beginning of a text; `label`: what it is, where that is known,
    which no visitor is told."""

    name: str
    content: bytes
    snippet: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """`held_out`: whether training never saw them."""

    items: tuple[Example, ...] = ()
    held_out: bool = False


@final
class Waiting:
    """The examples of a model, looked for while the server starts: in a process of its own, because reading the tables
    of a run takes more memory than all the rest. Called, it waits for them; `after` seconds at most."""

    def __init__(self, model: Served, after: float = 20.0) -> None:
        self.model, self._after = model, after
        self._found: Examples | None = None
        self._thread = threading.Thread(target=self._look, name="examples", daemon=True)
        self._thread.start()

    def __call__(self) -> Examples:
        """Of different classes, without their answers."""
        self._thread.join(self._after)
        return self._found or Examples()

    def _look(self) -> None:
        run = self.model.folder.resolve().parent
        command = [sys.executable, "-m", "inflame.web.examples", str(run), "text" if self.model.text else "image"]
        found: list[Example] = []
        if (run / "items.parquet").is_file():
            try:
                told = subprocess.run(command, capture_output=True, timeout=self._after, check=True).stdout
                found = [
                    Example(name=name, content=base64.b64decode(content), snippet=said)
                    for name, content, said in json.loads(told)
                ]
            except (OSError, ValueError, subprocess.SubprocessError):
                found = []  # the data are elsewhere now, or were never here
        if found:
            self._found = Examples(items=tuple(found), held_out=True)
            return
        try:
            shown = self.model.shown(MOST)
        except (InflameError, Problem):
            return  # another version has taken over meanwhile
        contents = [one.thumb or one.snippet.encode() for one in shown]
        self._found = Examples(
            items=tuple(_example(n, content, text=self.model.text) for n, content in enumerate(contents, 1))
        )


@final
class Following:
    """The examples of the version that a slot serves now."""

    def __init__(self, slot: Slot) -> None:
        self._slot, self._waiting = slot, Waiting(slot.current)
        self._lock = threading.Lock()

    def __call__(self) -> Examples:
        """Of different classes, without their answers."""
        with self._lock:
            if self._waiting.model is not self._slot.current:
                self._waiting = Waiting(self._slot.current)
            waiting = self._waiting
        return waiting()


def held_out(run: Path, *, text: bool, most: int = MOST) -> list[Example]:
    """Test items of a run: of each class one, then of each another. Raises what reading them raises."""
    import pyarrow.parquet as pq

    from inflame.artifact.contents import Contents  # which loads pyarrow too

    about = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
    rows = pq.read_table(run / "items.parquet", columns=["uri", "label", "split"]).to_pylist()
    rows = [row for row in rows if row["split"] == "test"]
    np.random.default_rng(7).shuffle(rows)
    turn: dict[str, int] = {}
    for row in rows:
        row["turn"] = turn[row["label"]] = turn.get(row["label"], -1) + 1
    rows.sort(key=lambda row: row["turn"])
    source = Contents(about["root"])
    found: list[Example] = []
    for row in rows[: 2 * most]:
        content = source.read(row["uri"])
        if len(content) <= _BYTES and len(found) < most:
            found.append(replace(_example(len(found) + 1, content, text=text), label=row["label"]))
    return found


def _example(number: int, content: bytes, *, text: bool) -> Example:
    if text:
        said = " ".join(content[:2000].decode(errors="replace").split())
        return Example(name=f"example {number}", content=content, snippet=said[:160])
    small = content if len(content) < 20_000 and content[:1] in (b"\x89", b"\xff") else thumbs.one(content, 512)
    return Example(name=f"example {number}", content=small or content)


def drawing(model: Served, shown: Examples) -> dict[str, Any] | None:
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
    side = model.size
    if shown.items and shown.held_out:
        side = min(side, Image.open(io.BytesIO(shown.items[0].content)).width)
    return {"light": bool(np.mean(light) > 0.5), "fill": round(float(np.median(fills)), 3), "side": side}


if __name__ == "__main__":
    listed = held_out(Path(sys.argv[1]), text=sys.argv[2] == "text")
    told = [[one.name, base64.b64encode(one.content).decode(), one.snippet] for one in listed]
    sys.stdout.write(json.dumps(told))
