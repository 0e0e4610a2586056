"""What holds for every picture: the net's view is the exact centre of the canvas, and nothing wild comes out."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inflame.artifact import preprocess
from inflame.records import Preprocess

sides = st.integers(1, 90)


@st.composite
def plans(draw: st.DrawFn) -> Preprocess:
    resize = draw(st.integers(1, 48))
    return Preprocess(
        size=draw(st.integers(1, resize)),
        resize=resize,
        channels=draw(st.sampled_from([1, 3])),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"])),
    )


@settings(max_examples=150, deadline=None)
@given(sides, sides, plans(), st.sampled_from(["PNG", "JPEG", "array"]), st.integers(1, 8), st.integers(0, 99))
def test_pixels_are_the_centre_of_the_canvas(
    width: int, height: int, plan: Preprocess, kind: str, orientation: int, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    source: np.ndarray | bytes = array
    if kind != "array":
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(array).save(file, kind, exif=exif)
        source = file.getvalue()
    canvas, pixels = preprocess.canvas(source, plan), preprocess.pixels(source, plan)
    assert canvas.shape == (plan.resize, plan.resize, plan.channels)
    assert pixels.shape == (plan.size, plan.size, plan.channels)
    assert canvas.dtype == pixels.dtype == np.uint8
    first = (plan.resize - plan.size) // 2
    assert np.array_equal(pixels, canvas[first : first + plan.size, first : first + plan.size])


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_damage_gives_a_picture_or_a_picture_error(data: st.DataObject, kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3)).save(file, kind)
    good = file.getvalue()
    bad = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for position in data.draw(st.lists(st.integers(0, max(len(bad) - 1, 0)), max_size=4)):
        if bad:
            bad[position] = data.draw(st.integers(0, 255))
    plan = Preprocess(size=8, resize=8, max_pixels=1_000_000)
    with contextlib.suppress(preprocess.PictureError):
        assert preprocess.pixels(bytes(bad), plan).shape == (8, 8, 3)
