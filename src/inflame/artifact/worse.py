"""Files made worse on purpose: what a server would be sent if the world had changed. Made from real ones, in the type
of file that they came in, so that nothing else about them changes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inflame.artifact import preprocess, spoil, texts

Pixels = NDArray[np.uint8]

PICTURES = {**{name: name for name in spoil.PICTURES}, "rotation": "turn"}  # the word for it → the spoiler
_PATCHES = 4  # along each side of a patchwork


def kinds(*, text: bool) -> tuple[str, ...]:
    """The ways to make files worse, by name."""
    return tuple(spoil.TEXTS) if text else tuple(PICTURES)


def worse(contents: Sequence[bytes], kind: str, severity: float, *, text: bool = False, seed: int = 0) -> list[bytes]:
    """The files, made worse: severity 0 is not at all, 1 hardly to be recognised. Raises what reading them raises."""
    if text:
        rng = np.random.default_rng(seed)
        told = (texts.decode(content)[0] for content in contents)
        return [spoil.TEXTS[kind](one, severity, rng).encode() for one in told]
    change = spoil.PICTURES[PICTURES[kind]]
    # All of one way, as a camera would: those of one size together, each size with the same dice.
    return _changed(contents, lambda pixels: change(pixels, severity, np.random.default_rng(seed)))


def strange(contents: Sequence[bytes], *, text: bool = False, seed: int = 0) -> list[bytes]:
    """Things of no known class, made of these: pictures whose patches changed places, texts of strange words only."""
    rng = np.random.default_rng(seed)
    if text:
        letters = list("bcdfghaeiou")
        return [" ".join("".join(rng.choice(letters, 6)) for _ in range(60)).encode() for _ in contents]
    return _changed(contents, lambda pixels: np.stack([_patchwork(picture, rng) for picture in pixels]))


def _changed(contents: Sequence[bytes], change: Callable[[Pixels], Pixels]) -> list[bytes]:
    """Every picture, changed [N, H, W, C] together with those of its size, in the type of file that it came in."""
    images = [preprocess.picture(content) for content in contents]
    images = [image if image.mode in ("L", "RGB") else image.convert("RGB") for image in images]
    sizes: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        sizes.setdefault((*image.size, len(image.getbands())), []).append(row)
    found = [b""] * len(contents)
    for rows in sizes.values():
        pixels = np.stack([np.asarray(images[row]).reshape(*images[row].size[::-1], -1) for row in rows])
        for row, picture in zip(rows, change(pixels), strict=True):
            found[row] = _file(picture, like=contents[row])
    return found


def _file(picture: Pixels, like: bytes) -> bytes:
    with Image.open(io.BytesIO(like)) as image:
        kind = image.format or "PNG"
    file = io.BytesIO()
    made = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
    if kind in ("JPEG", "WEBP"):
        made.save(file, kind, quality=95)
    else:
        made.save(file, "PNG")
    return file.getvalue()


def _patchwork(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Its patches in another order, each turned upside down."""
    high, wide = picture.shape[0] // _PATCHES, picture.shape[1] // _PATCHES
    if not high or not wide:
        return picture[::-1, ::-1]
    places = [(row * high, column * wide) for row in range(_PATCHES) for column in range(_PATCHES)]
    found = picture.copy()
    for (top, left), which in zip(places, rng.permutation(len(places)), strict=True):
        y, x = places[which]
        found[top : top + high, left : left + wide] = picture[y : y + high, x : x + wide][::-1]
    return found
