"""Spoiling pictures and texts on purpose, more or less: what a model must notice, and how it learns to.

Every kind takes prepared pictures uint8 [N, S, S, C], a severity (0: not at all, 1: hardly to be recognised) and a
random generator, and gives pictures of the same shape; or a text, and gives a text.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Spoiler = Callable[[Pixels, float, np.random.Generator], Pixels]


def _bytes(x: NDArray[Any]) -> Pixels:
    return np.asarray(np.clip(np.rint(x), 0, 255), np.uint8)


def noise(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Gaussian noise, to a deviation of 0.3."""
    return _bytes(x + rng.standard_normal(x.shape, np.float32) * (severity * 76))


def specks(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Black and white specks, on up to 30 % of the pixels."""
    dice = rng.random((*x.shape[:3], 1), np.float32)
    return np.where(dice < 0.15 * severity, 0, np.where(dice > 1 - 0.15 * severity, 255, x)).astype(np.uint8)


def blur(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Out of focus, to a twelfth of the side."""
    radius = severity * x.shape[1] / 12
    return _each(x, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def brightness(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Lighter or darker by up to 0.6: one way for all of them."""
    return _bytes(x + np.float32(153 * severity) * rng.choice((-1, 1)))


def contrast(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Less contrast, down to a tenth."""
    middle = x.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return _bytes(middle + (x - middle) * (1 - 0.9 * severity))


def jpeg(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Compressed, down to quality 3."""

    def squeezed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=max(3, round(95 - 92 * severity)))
        return Image.open(file)

    return _each(x, squeezed)


def pixels(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Coarse pixels, as of a picture that was small: down to an eighth of the side."""
    high, wide = x.shape[1:3]
    small = [max(2, round(side * (1 - 0.875 * severity))) for side in (wide, high)]
    return _each(x, lambda image: image.resize((small[0], small[1]), 2).resize((wide, high), 0))


def grey(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Colours fade, to none. A grey picture becomes darker in its light parts instead (gamma)."""
    if x.shape[-1] == 1:
        return _bytes(255 * (x / np.float32(255)) ** (1 + 2 * severity))
    return _bytes(x + (x.mean(axis=-1, keepdims=True, dtype=np.float32) - x) * severity)


def turn(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Turned by up to 90 degrees, one way or the other."""
    return _each(x, lambda image: image.rotate(rng.choice((-1, 1)) * 90 * severity, Image.Resampling.BILINEAR))


def cover(x: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """A grey square over it, of up to 80 % of the side."""
    found, side = x.copy(), round(0.8 * severity * x.shape[1])
    for picture in found:
        top, left = rng.integers(0, x.shape[1] - side + 1, 2)
        picture[top : top + side, left : left + side] = 127
    return found


PICTURES: dict[str, Spoiler] = {
    one.__name__: one for one in (noise, specks, blur, brightness, contrast, jpeg, pixels, grey, turn, cover)
}


def typos(text: str, severity: float, rng: np.random.Generator) -> str:
    """Letters replaced by others, up to half of them."""
    letters = np.array(list(text) or [""])
    wrong = rng.random(len(letters)) < 0.5 * severity
    letters[wrong & (letters != " ")] = rng.choice(list("abcdefghijklmnopqrstuvwxyz"))
    return "".join(letters.tolist())


def gaps(text: str, severity: float, rng: np.random.Generator) -> str:
    """Words left out, up to 95 % of them."""
    words = text.split()
    kept = [word for word, dice in zip(words, rng.random(len(words)), strict=True) if dice >= 0.95 * severity]
    return " ".join(kept or words[:1])


def short(text: str, severity: float, rng: np.random.Generator) -> str:
    """Only the beginning, down to a fiftieth."""
    words = text.split()
    return " ".join(words[: max(1, round(len(words) * (1 - 0.98 * severity)))])


def strange(text: str, severity: float, rng: np.random.Generator) -> str:
    """Words that nobody knows between the others, up to nine for each."""
    words = text.split()
    more = int(9 * severity * len(words))
    made = ["".join(rng.choice(list("bcdfghaeiou"), 6).tolist()) for _ in range(min(more, 2000))]
    found = [*words, *made]
    return " ".join(found[place] for place in rng.permutation(len(found)))


TEXTS: dict[str, Callable[[str, float, np.random.Generator], str]] = {
    one.__name__: one for one in (typos, gaps, short, strange)
}


def _each(x: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Every picture, changed as a Pillow image."""
    flat = x[..., 0] if x.shape[-1] == 1 else x
    found = np.stack([np.asarray(change(Image.fromarray(picture)), np.uint8) for picture in flat])
    return found[..., None] if x.shape[-1] == 1 else found
