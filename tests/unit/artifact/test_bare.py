"""What is kept of a picture says nothing about who made it, and shows the same pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from inflame.artifact.bare import bare
from inflame.artifact.preprocess import pixels
from inflame.records import Preprocess

SECRET = b"Canary of 52.5200 N"
LOOK = Preprocess(size=40, resize=40)


def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((80, 50), Image.Resampling.BICUBIC)


def exif(turned: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E], tags[0x0110] = turned, SECRET.decode(), SECRET.decode()
    return tags


def saved(form: str, turned: int = 1, **more: object) -> bytes:
    file = io.BytesIO()
    photo().save(file, form, exif=exif(turned), **more)
    return file.getvalue()


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("more", [{}, {"progressive": True}, {"comment": SECRET}, {"restart_marker_rows": 1}])
def test_jpeg(turned: int, more: dict[str, object]) -> None:
    content = saved("JPEG", turned, **more) + SECRET
    assert SECRET in content
    left = bare(content)
    assert SECRET not in left
    assert left[:2] == b"\xff\xd8"
    np.testing.assert_array_equal(pixels(left, LOOK), pixels(content, LOOK))


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_others(form: str, turned: int) -> None:
    more: dict[str, object] = {"lossless": True} if form == "WEBP" else {}
    if form == "PNG":
        told = PngImagePlugin.PngInfo()
        told.add_text("Comment", SECRET.decode())
        more = {"pnginfo": told}
    if form == "GIF":
        more = {"comment": SECRET}
    content = saved(form, turned, **more)
    left = bare(content)
    assert SECRET not in left
    np.testing.assert_array_equal(pixels(left, LOOK), pixels(content, LOOK))


def test_transparency_stays() -> None:
    clear = photo().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    for form in ("PNG", "WEBP"):
        file = io.BytesIO()
        clear.save(file, form, exif=exif(1), **({"lossless": True} if form == "WEBP" else {}))
        np.testing.assert_array_equal(pixels(bare(file.getvalue()), LOOK), pixels(file.getvalue(), LOOK))


def test_a_text_is_a_text() -> None:
    assert bare(b"Dear all,\nyours") == b"Dear all,\nyours"


def test_the_bytes_that_a_cut_picture_has() -> None:
    left = bare(saved("JPEG")[:-200])
    assert SECRET not in left
    with Image.open(io.BytesIO(left)) as image:
        assert image.size == (80, 50)


DAMAGED = base64.b64decode(  # found by benchmarks/fuzz_decoding.py
    b"/9j/4AAQSkZJRgABAQAAAQAB////////////////////////////////////////////////////////////////////////////////////"
    b"/wAA/+EAPEV4aWYAAE1NACoAAAAIAAIBDgACAAAADQAAACYBEgADAAAAAQAGAAAAAAAAU0VDUkVULVBMQUNFAAD//gAOU0VDUkVULVBMQUNF"
    b"/9sAQwAIBgYHBgUIBwcHCQkICgwUDQwLCwwZEhMPFB0aHx4dGhwcICQuJyAiLCMcHCg3KSwwMTQ0NB8nOT04MjwuMzQy/8IACwgACwARAQER"
    b"AP/EABgAAAIDAAAAAAAAAAAAAAAAAAAEAQMG/9oACAEBAAAAAS5ZGdl//8QAGxAAAgIDAQAAAAAAAAAAAAAAAQMAAgQSExT/2gAIAQEAAQUC"
    b"Cq6bcxzVDkNUsOu5/hxZ/8QAIxAAAQMDAgcAAAAAAAAAAAAAAQIDEQASMSEzEyIyUmGBov/aAAgBAQAGPwIPq5o6u73rRKeEWb5tM6xOK3vt"
    b"FO2LAgICAwAAAAAAAAAAAAERIQAAAAAAAP/////////+AAAAAAAAADEAQRCRodHwQNoAyWGgOkBTy4Paw3ZOKBJKMQBBEJGh0fBA2gDJYaA6"
    b"8VPLg9rDdk4oEkot1p6NSKuXyEhissDYk9Xrn5L9z//Z"
)


def test_a_damaged_jpeg_that_decoders_read_otherwise_than_it_is_cut() -> None:
    with Image.open(io.BytesIO(DAMAGED)) as image:
        assert image.info["comment"] == b"SECRET-PLACE"
    plain = bare(DAMAGED)
    assert b"SECRET-PLACE" not in plain
    assert (pixels(plain, LOOK) == pixels(DAMAGED, LOOK)).all()
