"""Data faults, found before training: one threaded pass over the files, then plain words for what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from inflame.records import Fault, Preprocess


@dataclass(frozen=True, slots=True)
class Scan:
    """What one file turned out to be. `kind` is "" for a good picture, else the fault: "unreadable" or "junk"."""

    uri: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    orientation: int = 1
    bytes: int = 0
    kind: str = ""
    reason: str = ""


def scan(
    root: Path,
    uris: Sequence[str],
    *,
    canvas: Preprocess | None = None,
    sink: Callable[[int, NDArray[np.uint8]], None] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scan]:
    """One `Scan` per uri, in order."""
    raise NotImplementedError


def faults(
    root: Path,
    uris: Sequence[str],
    labels: Sequence[str],
    scans: Sequence[Scan],
    junk: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> tuple[Fault, ...]:
    """All faults of a data set."""
    raise NotImplementedError
