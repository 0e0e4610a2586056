"""Ordinary JPEGs by OpenCV: two thirds of the time, and nearly the same pixels.

For training pictures and shards only. What is measured and served goes through `preprocess`, which is exact, knows all
formats and says what is wrong with a file.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inflame.artifact import pillow

_MOST = 100_000_000  # pixels, times the passes of a progressive JPEG over them

_BASELINE = 0xC0  # the segment with the size, where it is one pass
# EXIF, Adobe, other kinds of frames, a scan, the end, filling: none of these comes before the size of a plain one.
_LOOK_CLOSER = {0xE1, 0xEE, 0xFF, *range(0xC1, 0xC4), *range(0xC5, 0xCC), *range(0xCD, 0xDB)}

Pixels = NDArray[np.uint8]


def ordinary(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a complete, upright JPEG in RGB; None for anything else, for one that would take very long
    or much memory, and where OpenCV isn't installed."""
    if _opencv() is None or data[:2] != b"\xff\xd8" or not data[-64:].rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    plainest = _plainest(data)
    if plainest is not None:
        return plainest if plainest[0] * plainest[1] <= _MOST else None
    try:
        with pillow.quiet(), Image.open(io.BytesIO(data), formats=("JPEG",)) as head:
            plain = head.mode == "RGB" and int(head.getexif().get(0x0112, 1)) == 1
            size = head.size
            scans = data.count(b"\xff\xda") if "progressive" in head.info else 1
    except Exception:  # whatever a stranger's file makes Pillow raise: the exact way will say what is wrong
        return None
    return size if plain and min(size) >= 1 and size[0] * size[1] * scans <= _MOST else None


def _plainest(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG in one pass, of three colours of 8 bits, without EXIF or colours of Adobe: so are
    most, and to read four segments is ten times as fast as to open them. None: ask Pillow."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], data[place + 2] << 8 | data[place + 3]
        if marker in _LOOK_CLOSER or length < 2:
            return None
        if marker == _BASELINE:
            height, width = data[place + 5] << 8 | data[place + 6], data[place + 7] << 8 | data[place + 8]
            return (width, height) if data[place + 4] == 8 and data[place + 9] == 3 and height and width else None
        place += 2 + length
    return None


def decode(data: bytes, least: int, size: tuple[int, int] | None = None) -> Pixels | None:
    """uint8 BGR [H,W,3], the short side at least `least` pixels where the picture has as many, at most about twice
    that; None for what is not `ordinary`. `size` saves looking for it again."""
    size = size or ordinary(data)
    if size is None:
        return None
    cv2, short = _opencv(), min(size)
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    flags[8] = cv2.IMREAD_REDUCED_COLOR_8
    reduction = max(by for by in flags if by == 1 or short >= by * least)
    found: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    return found


@cache
def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(0)  # pictures are what is read side by side
    return cv2


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Bilinear: after `decode` at most two pixels make one, so that none between them is skipped."""
    cv2 = _opencv()
    resized: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized


def canvas(data: bytes, side: int) -> Pixels | None:
    """uint8 RGB [side,side,3]: the middle square; None where `decode` gives none."""
    pixels = decode(data, side)
    if pixels is None:
        return None
    short = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - short) // 2, (pixels.shape[1] - short) // 2
    square = resize(pixels[top : top + short, left : left + short], side, side)
    return np.ascontiguousarray(square[:, :, ::-1])
