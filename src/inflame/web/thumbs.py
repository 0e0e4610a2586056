"""Small copies to show or to keep: upright, and without anything but pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence

from inflame.artifact import preprocess
from inflame.errors import InflameError


def many(contents: Sequence[bytes], side: int, *, text: bool) -> list[bytes]:
    """A JPEG of each picture, no larger than `side` on a side; empty for a text, and for what can't be read."""
    return [b"" if text else one(content, side) for content in contents]


def one(content: bytes, side: int) -> bytes:
    """One of them. Small pictures keep their pixels visible."""
    from PIL import Image

    try:
        image = preprocess.picture(content)
    except InflameError:
        return b""
    longest = max(image.size)
    if longest < side // 3:
        times = max(1, side // longest)
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((side, side), reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return file.getvalue()
