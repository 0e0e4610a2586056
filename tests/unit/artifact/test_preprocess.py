"""The decoder: what comes out upright and in the right colours, and what is refused with which reason."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import pickle
import struct
import sys
import threading
import time
import tracemalloc
import types
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, JpegImagePlugin

from inflame.artifact import magic, pillow, preprocess
from inflame.artifact.preprocess import PictureError
from inflame.errors import SettingError, UserError
from inflame.records import Preprocess

SMALL = Preprocess(size=24, resize=32)


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(width: int, height: int) -> np.ndarray:
    """A colourful gradient with a dark corner: survives JPEG, and no turn of it looks like another."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=2)
    picture[: height // 3, : width // 4] //= 4
    return picture.astype(np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(preprocess.picture(data))


def refused(source: Path | bytes, **options: Any) -> PictureError:
    with pytest.raises(PictureError) as caught:
        preprocess.picture(source, **options)
    for function in (preprocess.pixels, preprocess.canvas):
        with pytest.raises(PictureError):
            function(source, SMALL)
    assert caught.value.reason
    assert caught.value.remedy
    return caught.value


def png(width: int, height: int, *, bits: int = 8, colour: int = 0) -> bytes:
    """A valid PNG of zeros, written without ever holding its pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    squeeze, row = zlib.compressobj(9), bytes(1 + (width * bits + 7) // 8)
    body = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# --- upright ------------------------------------------------------------------------------------------

TURNS = {  # what a viewer does with a picture that carries this orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def turned(array: np.ndarray, orientation: int, kind: str = "PNG", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(array, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_honoured(orientation: int, kind: str) -> None:
    array = noise(13, 7)
    data = turned(array, orientation, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    right = TURNS[orientation](array)
    assert np.array_equal(decoded(data), right)
    upright = saved(np.ascontiguousarray(right))
    assert np.array_equal(preprocess.pixels(data, SMALL), preprocess.pixels(upright, SMALL))
    head = preprocess.header(data)
    assert (head.width, head.height, head.orientation) == (right.shape[1], right.shape[0], orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg_decoded_small(orientation: int) -> None:
    array = smooth(640, 400)
    found = preprocess.canvas(turned(array, orientation, "JPEG", quality=95), SMALL)
    right = preprocess.canvas(saved(np.ascontiguousarray(TURNS[orientation](array))), SMALL)
    assert np.abs(found.astype(int) - right).mean() < 4


def test_an_orientation_that_is_none_is_ignored() -> None:
    array = noise(9, 5)
    assert np.array_equal(decoded(turned(array, 0)), array)
    assert np.array_equal(decoded(turned(array, 77)), array)


def test_flipping_any_bit_of_the_metadata_never_escapes() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    good = bytearray(saved(smooth(16, 12), "JPEG", exif=exif))
    end = good.index(b"\xff\xdb")
    readable = 0
    for position in range(2, end):
        for bit in (0, 3, 7):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            with contextlib.suppress(PictureError):
                readable += preprocess.pixels(bytes(bad), SMALL).shape == (24, 24, 3)
    assert readable > 2 * (end - 2)  # of three flips each; what is lost is the picture's structure


# --- colours ------------------------------------------------------------------------------------------


def ramp16() -> np.ndarray:
    return np.linspace(0, 65_535, 64 * 48).reshape(48, 64).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = ramp16()
    data = saved(Image.fromarray(values), kind)
    assert preprocess.header(data).mode == "I;16"
    assert np.array_equal(decoded(data), np.rint(values / 257).astype(np.uint8))


def test_sixteen_bits_in_the_other_byte_order() -> None:
    values = ramp16()
    data = saved(Image.frombytes("I;16B", (64, 48), values.astype(">u2").tobytes()), "TIFF")
    assert np.array_equal(decoded(data), np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ([0.0, 0.5, 1.0, 0.25], [0, 128, 255, 64]),
        ([0.0, 128.0, 255.0, 64.0], [0, 128, 255, 64]),
        ([0.0, 257.0, 65_535.0, 514.0], [0, 1, 255, 2]),
        ([-1.0, 0.0, 1.0, 3.0], [0, 64, 128, 255]),
        ([float("nan"), 0.5, 1.0, 0.0], [0, 128, 255, 0]),
    ],
)
def test_floats_are_scaled_by_what_they_hold(values: list[float], right: list[int]) -> None:
    data = saved(Image.fromarray(np.array(values, dtype=np.float32).reshape(2, 2)), "TIFF")
    assert decoded(data).ravel().tolist() == right


def test_whole_numbers_of_32_bits() -> None:
    data = saved(Image.fromarray(np.array([[0, 1 << 30], [1 << 29, 1]], dtype=np.int32)), "TIFF")
    assert decoded(data).ravel().tolist() == [0, 255, 128, 0]
    constant = saved(Image.fromarray(np.full((2, 2), 1 << 20, dtype=np.int32)), "TIFF")
    assert len(set(decoded(constant).ravel().tolist())) == 1


def test_floats_as_far_apart_as_they_can_be() -> None:
    most = float(np.finfo(np.float32).max)
    data = saved(Image.fromarray(np.array([[-most, 0], [most, 0]], dtype=np.float32)), "TIFF")
    assert decoded(data).squeeze().tolist() in ([[0, 128], [255, 128]], [[[0] * 3, [128] * 3], [[255] * 3, [128] * 3]])


def test_transparent_parts_are_white() -> None:
    rgba = noise(20, 10, channels=4)
    rgba[..., 3] = 255
    rgba[:, :10, 3] = 0
    found = decoded(saved(rgba))
    assert (found[:, :10] == 255).all()
    assert np.array_equal(found[:, 10:], rgba[:, 10:, :3])
    half = np.zeros((4, 4, 4), np.uint8)
    half[..., 3] = 128
    assert abs(int(decoded(saved(half))[0, 0, 0]) - 127) <= 1


def test_grey_with_alpha_stays_grey() -> None:
    image = Image.merge("LA", [Image.new("L", (6, 6), 40), Image.new("L", (6, 6), 0)])
    assert preprocess.picture(saved(image)).mode == "L"
    assert (decoded(saved(image)) == 255).all()


def test_palette_with_transparency() -> None:
    image = Image.new("P", (8, 4))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (4, 0, 8, 4))
    plain, keyed = saved(image), saved(image, transparency=0)
    assert decoded(plain)[0, 0].tolist() == [10, 20, 30]
    assert decoded(keyed)[0, 0].tolist() == [255, 255, 255]
    assert decoded(keyed)[0, 7].tolist() == [200, 100, 50]
    assert preprocess.header(keyed).mode == "P+alpha"
    several = saved(image, transparency=b"\x80\x00")  # this one makes Pillow warn when it is converted
    assert decoded(several)[0, 7].tolist() == [255, 255, 255]


def test_a_transparent_colour() -> None:
    array = noise(6, 6)
    array[0, 0] = (1, 2, 3)
    found = decoded(saved(array, transparency=(1, 2, 3)))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(found[1:], array[1:])
    grey = ramp16()
    sixteen = decoded(saved(Image.fromarray(grey), transparency=0))
    assert sixteen[0, 0] == 255
    assert sixteen[-1, -1] == 255
    assert sixteen[0, 5] == round(grey[0, 5] / 257)


def test_black_and_white() -> None:
    bits = noise(16, 16, channels=1) > 127
    assert np.array_equal(decoded(saved(Image.fromarray(bits))), np.where(bits, 255, 0))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str) -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 40))
    data = saved(red.convert("CMYK"), kind)
    assert preprocess.header(data).mode == "CMYK"
    assert np.abs(decoded(data).astype(int) - (220, 30, 40)).max() < 12


def test_lab() -> None:
    lab = Image.frombytes("LAB", (4, 4), bytes([255, 0, 0]) * 16)
    assert decoded(saved(lab, "TIFF")).min() > 240


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_many(kind: str) -> None:
    frames = [Image.new("RGB", (12, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decoded(data)[4, 6].tolist() == [250, 0, 0]


def test_bytes_count_not_names(tmp_path: Path) -> None:
    array = noise(10, 10)
    path = tmp_path / "photo with ünïcode.jpg"
    path.write_bytes(saved(array, "PNG"))
    assert np.array_equal(np.asarray(preprocess.picture(path)), array)
    assert preprocess.header(path).format == "PNG"


# --- shape --------------------------------------------------------------------------------------------


def test_short_side_then_centre() -> None:
    """Against the plain way: resize the whole picture, then cut out the middle."""
    array = smooth(300, 200)
    whole = Image.fromarray(array).resize((96, 64), Image.Resampling.BILINEAR)
    right = np.asarray(whole.crop((16, 0, 80, 64)))
    found = preprocess.canvas(saved(array), Preprocess(size=64, resize=64))
    assert np.abs(found.astype(int) - right).max() <= 1


def test_extreme_shapes_cost_no_more() -> None:
    for width, height in ((50_000, 1), (1, 50_000)):
        data = png(width, height)
        tracemalloc.start()
        assert preprocess.pixels(data, Preprocess(size=224, resize=256)).shape == (224, 224, 3)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        tracemalloc.stop()
    wide = np.zeros((1, 50_000, 3), np.uint8)
    wide[:, 25_000:] = 255
    found = preprocess.pixels(saved(wide), Preprocess(size=8, resize=8))
    assert 100 < found.mean() < 255  # the middle, not the whole squeezed


def test_grey_and_colour_from_either() -> None:
    grey, colour = noise(20, 20, channels=1), noise(20, 20)
    one, three = Preprocess(size=20, resize=20, channels=1), Preprocess(size=20, resize=20)
    assert np.array_equal(preprocess.pixels(saved(grey), one)[..., 0], grey)
    assert np.array_equal(preprocess.pixels(saved(grey), three), np.stack([grey] * 3, axis=2))
    assert np.array_equal(preprocess.pixels(saved(colour), three), colour)
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    assert np.array_equal(preprocess.pixels(saved(colour), one)[..., 0], luma)


def test_arrays_go_the_same_way() -> None:
    plan = Preprocess(size=12, resize=16)
    for channels in (1, 3, 4):
        array = noise(30, 20, channels=channels)
        assert np.array_equal(preprocess.pixels(array, plan), preprocess.pixels(saved(array), plan))
    ready = noise(16, 16)
    assert preprocess.canvas(ready, plan) is ready or preprocess.canvas(ready, plan).base is ready
    grey = preprocess.canvas(noise(16, 16, channels=1), Preprocess(size=16, resize=16, channels=1))
    assert grey.shape == (16, 16, 1)
    assert preprocess.canvas(noise(20, 20, channels=1)[..., None], plan).shape == (16, 16, 3)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_pictures(array: Any) -> None:
    with pytest.raises(PictureError, match="no picture"):
        preprocess.canvas(array, SMALL)


def test_jpegs_are_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = JpegImagePlugin.JpegImageFile.draft

    def spy(self: Any, mode: Any, size: Any) -> Any:
        result = original(self, mode, size)
        asked.append(self.size)
        return result

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    array = smooth(1600, 1200)
    data = saved(array, "JPEG", quality=95)
    found = preprocess.canvas(data, Preprocess(size=100, resize=100))
    assert asked == [(200, 150)]
    right = preprocess.canvas(array, Preprocess(size=100, resize=100))
    assert np.abs(found.astype(int) - right).mean() < 2


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_interpolation_is_what_was_asked_for(name: str) -> None:
    array = noise(40, 40)
    right = Image.fromarray(array).resize((16, 16), getattr(Image.Resampling, name.upper()))
    found = preprocess.canvas(array, Preprocess(size=16, resize=16, interpolation=name))
    assert np.array_equal(found, np.asarray(right))


@pytest.mark.parametrize(
    "plan",
    [
        Preprocess(size=32, resize=24),
        Preprocess(size=0, resize=24),
        Preprocess(size=8, resize=8, channels=2),
        Preprocess(size=8, resize=8, interpolation="sharp"),
    ],
)
def test_an_impossible_preprocess(plan: Preprocess) -> None:
    with pytest.raises(SettingError) as caught:
        preprocess.canvas(noise(8, 8), plan)
    assert caught.value.remedy


def test_centre_of_many() -> None:
    many = noise(10 * 9, 9).reshape(10, 9, 9, 3)
    assert np.array_equal(preprocess.centre(many, 4), many[:, 2:6, 2:6])


# --- refused, with the true reason --------------------------------------------------------------------


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    error = refused(path)
    assert error.kind == "empty"
    assert "0 bytes" in error.reason
    assert error.where == str(path)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_jpeg_is_never_half_grey(share: float, progressive: bool) -> None:
    data = saved(noise(200, 200), "JPEG", quality=80, progressive=progressive)
    error = refused(data[: int(len(data) * share)])
    assert error.kind == "truncated"
    assert "truncated" in error.reason


def test_truncated_stays_an_error_when_others_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved(noise(200, 200), "JPEG")
    assert refused(data[: len(data) // 2]).kind == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_other_formats_cut_in_half(kind: str) -> None:
    data = saved(noise(64, 64), kind)
    assert refused(data[: len(data) // 2]).kind in {"truncated", "corrupt"}


def test_zeros_at_the_end_of_a_jpeg() -> None:
    data = saved(noise(200, 200), "JPEG")
    assert refused(data[: len(data) // 2] + bytes(len(data) // 2)).kind == "truncated"


def test_the_end_of_a_thumbnail_is_not_that_of_the_photo() -> None:
    thumbnail, photo = saved(noise(16, 16), "JPEG"), saved(noise(200, 200), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = photo[:2] + segment + photo[2:]
    assert preprocess.picture(whole).size == (200, 200)
    assert refused(whole[: len(whole) // 2] + bytes(99)).kind == "truncated"


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not_a_picture", "web page"),
        (b"\n  <HTML><head></head>", "not_a_picture", "web page"),
        (b"GIF89a/*<html><script>alert(1)</script>", "not_a_picture", "web page"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(100), "junk", "AppleDouble"),
        (b"\x00\x00\x00\x01Bud1" + bytes(100), "junk", ".DS_Store"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "not_a_picture", "git lfs pull"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "not_a_picture", "SVG"),
        (b"%PDF-1.7\n", "not_a_picture", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_a_picture", "PostScript"),
        (b"PK\x03\x04" + bytes(60), "not_a_picture", "zip"),
        (b"\x1f\x8b\x08" + bytes(60), "not_a_picture", "archive"),
        (bytes(257).replace(b"\0", b"a") + b"ustar\0", "not_a_picture", "archive"),
        (b"\xd0\xcf\x11\xe0" + bytes(60), "not_a_picture", "Thumbs.db"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(60), "not_a_picture", "video"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not_a_picture", "sound"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "not_a_picture", "data file"),
        (b"\x7fELF" + bytes(60), "not_a_picture", "program"),
        ("just some wörds\n".encode(), "not_a_picture", "a text"),
        (bytes(5000), "corrupt", "zeros"),
        (b"\xfe\xed\xbe\xef" * 20, "not_a_picture", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + noise(5, 5).tobytes(), "corrupt", "damaged PNG"),
        (b"BMW is no picture, it is a car; this is a sentence about it.", "not_a_picture", "text"),
    ],
)
def test_what_is_behind_a_name(tmp_path: Path, data: bytes, kind: str, words: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    error = refused(path)
    assert error.kind == kind
    assert words in error.reason
    assert refused(data).kind == kind


def test_heic_without_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    pillow.register_heif.cache_clear()
    error = refused(b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic" + bytes(80))
    assert error.kind == "unsupported"
    assert "inflame[heic]" in error.remedy


def test_heic_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    stub = types.ModuleType("pillow_heif")
    stub.register_heif_opener = lambda: called.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", stub)
    pillow.register_heif.cache_clear()
    refused(b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic" + bytes(80))
    pillow.register_heif.cache_clear()
    assert called


def test_bombs_are_refused_by_their_header() -> None:
    bomb = png(13_300, 13_300)
    assert len(bomb) < 600_000
    started = time.perf_counter()
    error = refused(bomb)
    assert time.perf_counter() - started < 1
    assert error.kind == "too_large"
    assert "13,300 x 13,300" in error.reason
    assert refused(png(20_000, 20_000, bits=1)).kind == "too_large"


def test_the_limit_is_that_of_the_preprocess() -> None:
    data = saved(noise(60, 50))
    with pytest.raises(PictureError) as caught:
        preprocess.pixels(data, Preprocess(size=8, resize=8, max_pixels=2_999))
    assert caught.value.kind == "too_large"
    assert preprocess.pixels(data, Preprocess(size=8, resize=8, max_pixels=3_000)).shape == (8, 8, 3)
    assert preprocess.picture(data, max_pixels=3_000).size == (60, 50)
    with pytest.raises(PictureError):
        preprocess.picture(data, max_pixels=2_999)


def test_a_jpeg_of_a_thousand_passes() -> None:
    """Each pass over the pixels costs time and a dozen bytes."""
    data = saved(noise(300, 300), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 2_000 + data[-2:]
    assert magic.scans(bomb, "JPEG") > 2_000
    with pytest.raises(PictureError) as caught:
        preprocess.picture(bomb, max_pixels=1_000_000)
    assert caught.value.kind == "too_large"
    behind = data + data[last:-2] * 2_000  # the same bytes behind the end are only ballast
    assert preprocess.picture(behind, max_pixels=1_000_000).size == (300, 300)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.jpg").kind == "unreachable"
    assert refused(tmp_path).kind == "unreachable"
    link = tmp_path / "link.jpg"
    link.symlink_to(tmp_path / "nowhere.jpg")
    assert "link to nowhere" in refused(link).reason
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert refused(pipe).kind == "unreachable"  # and returns at once
    under = tmp_path / "file.jpg" / "below.jpg"
    (tmp_path / "file.jpg").touch()
    assert refused(under).kind == "unreachable"
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(preprocess.MAX_BYTES + 1)
    assert refused(huge).kind == "too_large"


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(noise(4, 4)))

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "permission" in refused(path).reason


def test_whatever_decoding_raises_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(noise(8, 8))
    for wild in (TypeError("x"), ValueError(), struct.error(), RecursionError(), ZeroDivisionError(), SyntaxError("y")):

        def fail(*_: Any, wild: Exception = wild) -> None:
            raise wild

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        assert refused(data).kind == "corrupt"
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: (_ for _ in ()).throw(MemoryError()))
    assert refused(data).kind == "too_large"


def test_ctrl_c_is_not_a_damaged_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        preprocess.picture(saved(noise(8, 8)))


def test_a_picture_error_is_the_users_and_travels() -> None:
    error = refused(b"%PDF-1.7")
    assert isinstance(error, UserError)
    assert error.code == 2
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, again.reason, again.where) == (error.kind, error.reason, error.where)


# --- nothing is printed, nothing is left behind -------------------------------------------------------


def broken_tiff() -> bytes:
    data = bytearray(saved(noise(64, 64), "TIFF", compression="tiff_lzw"))
    data[20:200] = bytes(reversed(data[20:200]))
    return bytes(data)


def test_libraries_below_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    refused(broken_tiff())
    logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded: 65535")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_warning_filters_are_restored_after_many_threads() -> None:
    before = warnings.filters[:]
    datas = [saved(noise(50, 50, seed), "JPEG") for seed in range(20)]
    threads = [threading.Thread(target=lambda d=d: [preprocess.pixels(d, SMALL) for _ in range(5)]) for d in datas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters[:] == before


def test_large_pictures_wait_for_each_other() -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def decode() -> None:
        nonlocal inside, most
        with pillow.room(pillow.ROOM // 2):
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.02)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    with pillow.room(10 * pillow.ROOM):  # larger than the room: alone
        pass


# --- real strange files -------------------------------------------------------------------------------


def test_every_bad_input_of_the_mirror(mirror: Path) -> None:
    folder = mirror / "bad_inputs"
    if not folder.is_dir():
        pytest.skip("the mirror has no bad_inputs")
    meant = {
        "reject: corrupt": {"empty", "truncated", "corrupt"},
        "reject: too large": {"too_large"},
        "reject: not an image": {"not_a_picture"},
    }
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    wrong = []
    for row in rows:
        path = folder / "files" / row["file"]
        try:
            preprocess.pixels(path, SMALL)
            preprocess.picture(path)
            kind = "accept"
        except PictureError as error:
            kind = error.kind
        if row["expected"].startswith("accept"):
            fine = kind == "accept"
        elif row["expected"] in meant:
            fine = kind in meant[row["expected"]]
        else:
            fine = kind in {"accept", "unsupported", "truncated", "corrupt"}
        if not fine:
            wrong.append((row["file"], row["expected"], kind))
    assert not wrong


def test_the_same_photo_turned_two_ways(mirror: Path) -> None:
    files = mirror / "bad_inputs" / "files"
    if not files.is_dir():
        pytest.skip("the mirror has no bad_inputs")
    three, six = (
        np.asarray(preprocess.picture(files / f"hopper_orientation_{number}.jpg")).astype(int) for number in (3, 6)
    )
    assert np.abs(three - six).mean() < 5
