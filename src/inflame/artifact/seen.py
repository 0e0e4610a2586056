"""What an input is like, as a few numbers: the same at training, when it is served, and when days are compared.

Of a picture: of its pixels as the net sees them, and of the file that it came in. Of a text: of its letters and words.
A number that can't be known is NaN.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.artifact import texts

PICTURES = (
    "brightness",  # mean grey, 0 to 1
    "contrast",  # deviation of the grey
    "sharpness",  # mean absolute Laplacian
    "noise",  # Immerkaer's estimate of the deviation of the noise
    "colour",  # Hasler and Suesstrunk's colourfulness
    "dark",  # share of pixels that are nearly black
    "bright",  # share of pixels that are nearly white
    "width",
    "height",
    "aspect",  # log of width / height
    "density",  # log of bytes per pixel
    "quality",  # of a JPEG, 1 to 100
)
TEXTS = ("letters", "words", "length", "strange", "capitals", "digits")


def names(*, text: bool) -> tuple[str, ...]:
    """The names of the numbers, in order."""
    return TEXTS if text else PICTURES


def picture(pixels: NDArray[np.uint8], content: bytes | None = None) -> tuple[NDArray[np.float32], str]:
    """`PICTURES` of a prepared picture [S, S, C] and the file it came in, and the type of that file."""
    planes = [np.ascontiguousarray(plane) / np.float32(255) for plane in np.moveaxis(pixels, -1, 0)]
    grey = sum(planes[1:], planes[0]) / np.float32(len(planes))  # eight times as quick as a mean over the last axis
    found = [float(grey.mean()), float(grey.std()), *_edges(grey), _colour(planes)]
    found += [float((grey < 0.02).mean()), float((grey > 0.98).mean())]
    kind, more = _file(content) if content is not None else ("", [np.nan] * 5)
    return np.array(found + more, np.float32), kind


def text(content: bytes) -> tuple[NDArray[np.float32], str]:
    """`TEXTS` of a text: log of letters and of words, mean length of words, and shares of the letters: not of the
    Latin alphabet, capital, digits."""
    said = texts.decode(content)[0]
    words = said.split()
    letters = max(len(said), 1)
    found = [
        np.log1p(len(said)),
        np.log1p(len(words)),
        sum(map(len, words)) / max(len(words), 1),
        sum(not letter.isascii() for letter in said) / letters,
        sum(letter.isupper() for letter in said) / letters,
        sum(letter.isdigit() for letter in said) / letters,
    ]
    return np.array(found, np.float32), "text"


def _edges(grey: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Sharpness and noise of a grey picture."""
    if min(grey.shape) < 3:
        return 0.0, 0.0
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    down = grey[:-2, 1:-1] - 2 * grey[1:-1, 1:-1] + grey[2:, 1:-1]
    sharp = np.abs(across[1:-1] + down).mean()
    return float(sharp), float(np.sqrt(np.pi / 2) / 6 * np.abs(both).mean())


def _colour(planes: Sequence[NDArray[np.floating[Any]]]) -> float:
    if len(planes) < 3:
        return 0.0
    red, green, blue = planes[:3]
    one = red - green
    other = (red + green) / 2 - blue
    return float(np.hypot(one.std(), other.std()) + 0.3 * np.hypot(one.mean(), other.mean()))


def _file(content: bytes) -> tuple[str, list[float]]:
    from PIL import Image

    with suppress(Exception), Image.open(io.BytesIO(content)) as image:  # what can't be read was refused before
        width, height = image.size
        tables: Any = getattr(image, "quantization", None)
        quality = _quality(tables[0]) if tables else np.nan
        more = [width, height, np.log(width / height), np.log(len(content) / (width * height)), quality]
        return str(image.format), [float(one) for one in more]
    return "", [np.nan] * 5


def _quality(table: Any) -> float:
    """The quality that libjpeg's standard tables were scaled by, from the mean of the luminance table."""
    scale = float(np.mean(table)) / 57.625 * 100  # the standard table has this mean
    return float(np.clip((200 - scale) / 2 if scale <= 100 else 5000 / scale, 1, 100))
