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

from inflame import host, store
from inflame.records import Preprocess

SHARE = 0.1  # of the memory, that a first reading keeps for the cache; larger sets are decoded by the loader
LEAST = 1 << 29  # bytes that it may keep in any case

Pixels = NDArray[np.uint8]


def place(hashes: Sequence[str], preprocess: Preprocess) -> Path:
    """The file of the squares, uint8 [N, resize, resize, channels], of the pictures with these SHA-256, in order."""
    how = json.dumps([preprocess.resize, preprocess.channels, preprocess.interpolation])
    key = hashlib.sha256("\n".join([how, *hashes]).encode()).hexdigest()[:24]
    return store.home() / "cache" / "pictures" / f"{key}.npy"


def room(count: int, preprocess: Preprocess) -> bool:
    """Whether the squares of `count` pictures may be kept in memory."""
    size = count * preprocess.resize * preprocess.resize * preprocess.channels
    return size <= max(LEAST, SHARE * (host.memory() or 0))


def keep(squares: Pixels, hashes: Sequence[str], preprocess: Preprocess) -> None:
    """Writes the squares to their place, whole or not at all."""
    path = place(hashes, preprocess)
    if not path.exists():
        with store.atomic(path) as part, part.open("wb") as file:
            np.save(file, squares, allow_pickle=False)
