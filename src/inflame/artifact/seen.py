"""What an input is like, as a few numbers: the same at training, when it is served, and when days are compared.

Of a picture: of its pixels as the net sees them, and of the file that it came in. Of a text: of its letters and words.
A number that can't be known is NaN.
"""

from __future__ import annotations

import io
import math
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
    # Whole numbers of 16 bits all the way: a third of the time that floating point takes, and exact.
    planes = np.moveaxis(pixels, -1, 0).astype(np.int16, order="C")
    grey, white = planes.sum(axis=0, dtype=np.int16), 255 * len(planes)
    mean, deviation = _moments(grey)
    found = [mean / white, deviation / white, *(one / white for one in _edges(grey)), _colour(planes)]
    dark, bright = math.ceil(0.02 * white), math.floor(0.98 * white)
    found += [np.count_nonzero(grey < dark) / grey.size, np.count_nonzero(grey > bright) / grey.size]
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


def _moments(values: NDArray[np.int16]) -> tuple[float, float]:
    """Mean and deviation of values up to 1,024 on either side of zero."""
    mean = int(values.sum(dtype=np.int64)) / values.size
    near = round(mean)
    apart = (values - np.int16(near)).astype(np.int32)  # around the mean, where squares are small
    apart *= apart
    square = int(apart.sum(dtype=np.int64)) / values.size
    return mean, math.sqrt(max(0.0, square - (mean - near) ** 2))


def _edges(grey: NDArray[np.int16]) -> tuple[float, float]:
    """Sharpness and noise of a grey picture, in its unit."""
    if min(grey.shape) < 3:
        return 0.0, 0.0
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    down = grey[:-2, 1:-1] - 2 * grey[1:-1, 1:-1] + grey[2:, 1:-1]
    sharp, rough = (int(np.abs(one).sum(dtype=np.int64)) / one.size for one in (across[1:-1] + down, both))
    return sharp, math.sqrt(math.pi / 2) / 6 * rough


def _colour(planes: NDArray[np.int16]) -> float:
    if len(planes) < 3:
        return 0.0
    red, green, blue = planes[:3]
    one = _moments(red - green)
    other = _moments(red + green - 2 * blue)
    return (math.hypot(one[1], other[1] / 2) + 0.3 * math.hypot(one[0], other[0] / 2)) / 255


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
