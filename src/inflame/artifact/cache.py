"""Decoded pictures on disk: squares of one size in one array, found again by content.

The name is a hash of how the squares were made and of every picture's SHA-256 in order, so nothing can go stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inflame import store
from inflame.records import Preprocess

MOST = 1 << 29  # bytes that a first reading keeps in memory for the cache; larger sets are decoded by the loader

Pixels = NDArray[np.uint8]


def place(hashes: Sequence[str], preprocess: Preprocess) -> Path:
    """The file of the squares, uint8 [N, resize, resize, channels], of the pictures with these SHA-256, in order."""
    how = json.dumps([preprocess.resize, preprocess.channels, preprocess.interpolation])
    key = hashlib.sha256("\n".join([how, *hashes]).encode()).hexdigest()[:24]
    return store.home() / "cache" / "pictures" / f"{key}.npy"


def empty(count: int, preprocess: Preprocess) -> Pixels | None:
    """Room in memory for the squares of `count` pictures, or None when that is too much to ask."""
    shape = (count, preprocess.resize, preprocess.resize, preprocess.channels)
    return np.zeros(shape, dtype=np.uint8) if np.prod(shape, dtype=np.int64) <= MOST else None


def keep(squares: Pixels, hashes: Sequence[str], preprocess: Preprocess) -> None:
    """Writes the squares to their place, whole or not at all."""
    path = place(hashes, preprocess)
    if not path.exists():
        with store.atomic(path) as part, part.open("wb") as file:
            np.save(file, squares, allow_pickle=False)
