"""What people decided about items without touching a file: left out, or moved to another class.

One JSON file for each data set, by the place of its root, in inflame's home. `open` applies it every time; deleting
the file undoes everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from inflame import store
from inflame.artifact import fetch
from inflame.errors import DataError
from inflame.records import Fault, dumps


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """`excluded`: uri → why; `moved`: uri → label."""

    excluded: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)


def place(root: str | Path) -> Path:
    """Where the overlay of the data set with this root is kept."""
    return store.home() / "overlays" / f"{fetch.digest_text(str(root))[:24]}.json"


def load(root: str | Path) -> Overlay:
    """What was decided; nothing where there is no file. A damaged one: DataError."""
    path = place(root)
    if not path.is_file():
        return Overlay()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Overlay(excluded=dict(value["excluded"]), moved=dict(value["moved"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The decisions about {root} can't be read: {error}.",
            where=str(path),
            remedy="Correct the file, or delete it: then nothing is left out or moved.",
        ) from error


def save(root: str | Path, overlay: Overlay) -> Path:
    """Writes it, whole or not at all; returns where."""
    path = place(root)
    value = {"root": str(root), "excluded": dict(overlay.excluded), "moved": dict(overlay.moved)}
    store.write(path, dumps(value))
    return path


def apply(items: pa.Table, root: str | Path) -> tuple[pa.Table, tuple[Fault, ...]]:
    """The items without those left out, and with the labels that were given; and what to know about it."""
    overlay = load(root)
    if not overlay.excluded and not overlay.moved:
        return items, ()
    uris, labels = items["uri"].to_pylist(), items["label"].to_pylist()
    kept = np.array([uri not in overlay.excluded for uri in uris], dtype=bool)
    labels = [overlay.moved.get(uri, label) for uri, label in zip(uris, labels, strict=True)]
    items = items.set_column(items.schema.get_field_index("label"), "label", pa.array(labels, pa.string()))
    notes = []
    for what, named in (
        ("left out", [uri for uri in uris if uri in overlay.excluded]),
        ("moved to another class", [uri for uri in uris if uri in overlay.moved]),
    ):
        if named:
            reason = f"{what} by your decision, kept in {place(root).name} in inflame's home; delete that to undo"
            notes.append(Fault(kind="overlay", severity="info", reason=reason, items=tuple(named)))
    return items.filter(pa.array(kept)), tuple(notes)
