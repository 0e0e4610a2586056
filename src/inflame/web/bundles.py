"""What a served bundle knows about its days: what it expects, and the sets that should hold the truth. Read from its
folder and checked by its hashes, as the model itself lives in a process of its own."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.calibrate import Calibration
from inflame.model.engine.expected import NAME, Expected
from inflame.web.served import Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """`sets` gives the conformal sets of probabilities [N, K], as masks. None: the bundle has none, or was replaced."""

    expected: Expected | None = None
    sets: Callable[[Any], NDArray[np.bool_]] | None = None


def known(model: Served) -> Known:
    """What the bundle of this version knows."""
    return _read(model.folder, model.version)


@functools.lru_cache(maxsize=8)
def _read(folder: Path, version: str) -> Known:
    try:
        about = json.loads((folder / "bundle.json").read_bytes())
        contents = {name: _checked(folder / name, about["sha256"].get(name)) for name in ("calibration.json", NAME)}
    except (OSError, ValueError, KeyError):
        return Known()
    if about.get("version", "")[:12] != version or not contents["calibration.json"]:
        return Known()
    return Known(
        expected=Expected.of(contents[NAME]) if contents[NAME] else None,
        sets=Calibration.from_json(json.loads(contents["calibration.json"])).sets,
    )


def _checked(path: Path, sha256: str | None) -> bytes:
    """The content of a file, empty where it isn't what its bundle says."""
    content = path.read_bytes() if sha256 else b""
    return content if hashlib.sha256(content).hexdigest() == sha256 else b""
