"""What a scan knows beyond the checksum: true size, thumb, when and with what it was taken, encodings of texts."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import exif, thumbs
from inflame.artifact.scanning import scan


def photo(path: Path, size: tuple[int, int] = (900, 600), **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = Image.Exif()
    if "make" in tags:
        data[0x010F] = tags["make"]
    if "model" in tags:
        data[0x0110] = tags["model"]
    inner = data.get_ifd(0x8769)
    if "taken" in tags:
        inner[0x9003] = tags["taken"]
    if "fraction" in tags:
        inner[0x9291] = tags["fraction"]
    Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 40).convert("RGB").save(path, exif=data, quality=90)
    return path


def test_the_size_is_the_files_not_that_of_a_faster_decode(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    (seen,) = scan(tmp_path, ["a.jpg"])
    assert (seen.width, seen.height) == (900, 600)


def test_when_and_with_what(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", taken="2021:05:03 10:20:30", fraction="25", make="Canon", model="Canon EOS 5D")
    photo(tmp_path / "b.jpg", taken="0000:00:00 00:00:00", make="NIKON CORPORATION", model="D90")
    photo(tmp_path / "c.jpg")
    one, two, three = scan(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    assert (one.taken, one.camera) == ("2021-05-03T10:20:30.25", "Canon EOS 5D")
    assert (two.taken, two.camera) == ("", "NIKON CORPORATION D90")
    assert (three.taken, three.camera) == ("", "")


@pytest.mark.parametrize("error", [TypeError, struct.error, ZeroDivisionError, SyntaxError, KeyError, OSError])
def test_broken_metadata_costs_nothing(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise error("broken")

    image = Image.new("RGB", (4, 4))
    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert exif.shot(image) == ("", "")


def test_thumbs_come_with_the_pass(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    small = thumbs.empty(2)
    scan(tmp_path, ["a.jpg", "b.jpg"], small=small)
    with Image.open(tmp_path / "a.jpg") as image:
        exact = thumbs.make(image.convert("RGB"))
    assert np.abs(small[0].astype(int) - exact.astype(int)).mean() < 2
    assert not small[1].any()


@pytest.mark.parametrize(
    ("data", "mode", "width", "height"),
    [
        ("Grüße\naus Köln\n".encode(), "utf-8", 15, 2),
        ("Grüße".encode("latin-1"), "cp1252", 5, 1),
        ("Grüße".encode("utf-16"), "utf-16", 5, 1),
        (b"", "utf-8", 0, 0),
    ],
)
def test_texts(tmp_path: Path, data: bytes, mode: str, width: int, height: int) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    (seen,) = scan(tmp_path, ["a.txt"], kind="text")
    assert (seen.kind, seen.format) == ("", "TEXT")
    assert (seen.mode, seen.width, seen.height) == (mode, width, height)


def test_a_picture_among_texts(tmp_path: Path) -> None:
    photo(tmp_path / "a.png").rename(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(bytes(range(256)))
    one, two = scan(tmp_path, ["a.txt", "b.txt"], kind="text")
    assert (one.kind, two.kind) == ("unreadable", "unreadable")
    assert "PNG picture" in one.reason


def test_a_png_with_broken_pixels_is_unreadable_though_asking_for_its_exif_decodes_it(tmp_path: Path) -> None:
    import io
    import zlib

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    data[start + 4 : start + 12] = bytes(8)  # no beginning of a zlib stream, under a right checksum
    data[start + 4 + length : start + 8 + length] = zlib.crc32(data[start : start + 4 + length]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    (found,) = scan(tmp_path, ["a.png"])
    assert found.kind == "unreadable"
