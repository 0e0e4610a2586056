"""Small stand-ins for pictures, made while a file is being read: enough to find copies of it and to see its colours.

A thumb is a row of 1,216 bytes: the whole picture squashed to 32 x 32 greys, then to 8 x 8 colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

SIDE, COLOURS = 32, 8
BYTES = SIDE * SIDE + 3 * COLOURS * COLOURS

_CHUNK = 4096  # pictures of a packed array that are made smaller at a time


def empty(count: int) -> Pixels:
    """Room for `count` thumbs, uint8 [count, BYTES], all zero."""
    return np.zeros((count, BYTES), dtype=np.uint8)


def make(image: Image.Image) -> Pixels:
    """The thumb of a decoded, upright picture (mode L or RGB): uint8 [BYTES]."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    colours = small.convert("RGB").resize((COLOURS, COLOURS), Image.Resampling.BOX)
    return np.concatenate([np.asarray(small.convert("L")).ravel(), np.asarray(colours).ravel()])


def of_arrays(images: NDArray[np.uint8]) -> Pixels:
    """The thumbs of many pictures of one size, uint8 [N,H,W] or [N,H,W,3]: uint8 [N, BYTES]."""
    found = empty(len(images))
    down, right = (_bilinear(images.shape[1]), _bilinear(images.shape[2]))
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK].astype(np.float32)
        planes = part[:, None] if part.ndim == 3 else np.moveaxis(part[..., :3], 3, 1)
        small = down @ planes @ right.T  # [n, 1 or 3, SIDE, SIDE]
        colour = np.broadcast_to(small, (len(part), 3, SIDE, SIDE))
        grey = small[:, 0] if small.shape[1] == 1 else np.tensordot(small, _LUMA, axes=(1, 0))
        step = SIDE // COLOURS
        blocks = colour.reshape(-1, 3, COLOURS, step, COLOURS, step).mean((3, 5))
        found[start : start + len(part), : SIDE * SIDE] = _bytes(np.asarray(grey, np.float32)).reshape(len(part), -1)
        found[start : start + len(part), SIDE * SIDE :] = _bytes(np.moveaxis(blocks, 1, 3)).reshape(len(part), -1)
    return found


def grey(thumbs: Pixels) -> Pixels:
    """The greys of thumbs: uint8 [N,32,32]."""
    return thumbs[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE)


def colours(thumbs: Pixels) -> Pixels:
    """The colours of thumbs: uint8 [N,8,8,3]."""
    return thumbs[:, SIDE * SIDE :].reshape(-1, COLOURS, COLOURS, 3)


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _bytes(values: NDArray[np.float32]) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _bilinear(length: int) -> NDArray[np.float32]:
    """The matrix [SIDE, length] of a triangle filter, wide enough not to skip pixels: what Pillow's BILINEAR does."""
    scale = length / SIDE
    width = max(scale, 1.0)
    centres = (np.arange(SIDE) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / width)
    found: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return found
