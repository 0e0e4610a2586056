"""Packed sets: the array on disk, its items, and the readers of the classic formats."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import packed
from inflame.errors import DataError, NetworkError

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def test_rows_become_items(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    found = packed.write(tmp_path, (pixels, list("babab"), ["train", "train", "test", "", ""]))
    assert found.items["uri"].to_pylist() == [f"images.npy#{row}" for row in range(5)]
    assert found.items["sha256"][3].as_py() == hashlib.sha256(pixels[3].tobytes()).hexdigest()
    assert found.items["split"].to_pylist() == ["train", "train", "test", "", ""]
    assert packed.is_packed(found)
    mapped = packed.images(found)
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, pixels)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_array_says_so(tmp_path: Path, content: bytes | None) -> None:
    found = packed.write(tmp_path, (np.zeros((2, 4, 4), np.uint8), ["a", "b"], ["", ""]))
    if content is None:
        np.save(tmp_path / "images.npy", np.zeros((2, 4, 4)))
    else:
        (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"images\.npy is damaged") as caught:
        packed.images(found)
    assert "rm -r" in caught.value.remedy


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    found = packed.write(tmp_path, (np.zeros((2, 4, 4), np.uint8), ["a", "b"], ["", ""]))
    np.save(tmp_path / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        packed.images(found)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_idx_files(tmp_path: Path, pack: type, shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "a").write_bytes(pack(idx(array)))
    np.testing.assert_array_equal(packed.read_idx(tmp_path / "a"), array)


GOOD = idx(np.zeros((3, 4, 4), np.uint8))


@pytest.mark.parametrize(
    "bad", [b"", b"\0\0", GOOD[:-1], GOOD + b"x", b"\0\0\x0d" + GOOD[3:], GOOD[:10], gzip.compress(GOOD, mtime=0)[:-9]]
)
def test_damaged_idx_files(tmp_path: Path, bad: bytes) -> None:
    (tmp_path / "a").write_bytes(bad)
    with pytest.raises(DataError, match="damaged"):
        packed.read_idx(tmp_path / "a")


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    pixels, labels, splits = packed.digits(tmp_path)
    assert pixels.shape == (1797, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 17
    assert set(labels) == set("0123456789")
    assert set(splits) == {""}


# --- CIFAR: sheets of the mirror and the archive of bytes hold the same ------------------------------------

CLASSES = [f"kind {number}" for number in range(10)]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
PIXELS = {name: RNG.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8) for name in BATCHES}
LABELS = {name: RNG.integers(0, 10, 200, dtype=np.uint8) for name in BATCHES}


def lay_sheets(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in BATCHES:
        sheet = PIXELS[name].reshape(2, 100, 32, 32, 3).swapaxes(1, 2).reshape(64, 3200, 3)
        Image.fromarray(sheet).save(folder / f"{name}.webp", lossless=True, method=0)
        (folder / f"{name}.labels.txt").write_text("".join(f"{label}\n" for label in LABELS[name]))


def lay_binary(path: Path) -> str:
    with tarfile.open(path, "w:gz") as file:
        for name in BATCHES:
            planes = PIXELS[name].transpose(0, 3, 1, 2).reshape(200, -1)
            data = np.concatenate([LABELS[name][:, None], planes], axis=1).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return hashlib.md5(path.read_bytes()).hexdigest()


def expect(arrays: packed.Arrays) -> None:
    pixels, labels, splits = arrays
    np.testing.assert_array_equal(pixels, np.concatenate([PIXELS[name] for name in BATCHES]))
    assert labels == [CLASSES[number] for name in BATCHES for number in LABELS[name]]
    assert splits == ["train"] * 1000 + ["test"] * 200


def test_cifar_from_sheets_and_from_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_sheets(tmp_path / "mirror" / "cifar10")
    md5 = lay_binary(tmp_path / "cifar.tar.gz")
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "mirror"))
    expect(packed.cifar10(tmp_path / "a", classes=CLASSES, places=[], md5=md5))
    monkeypatch.delenv("INFLAME_MIRROR")
    places = [str(tmp_path / "cifar.tar.gz")]
    expect(packed.cifar10(tmp_path / "b", classes=CLASSES, places=places, md5=md5))
    with pytest.raises(NetworkError, match="cifar10"):
        packed.cifar10(tmp_path / "c", classes=CLASSES, places=places, md5="0" * 32)


def test_sheets_and_labels_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_sheets(tmp_path / "mirror" / "cifar10")
    (tmp_path / "mirror" / "cifar10" / "test_batch.labels.txt").write_text("1\n2\n")
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(DataError, match="damaged"):
        packed.cifar10(tmp_path / "a", classes=CLASSES, places=[], md5="")
