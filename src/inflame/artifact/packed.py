"""Small pictures of one size in one file: `images.npy`, uint8 [N,H,W] or [N,H,W,3], read without loading it.

Row `i` is the item `images.npy#i`. The digits inside scikit-learn and the classic sets (IDX files, CIFAR batches)
are turned into it once.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inflame import store
from inflame.artifact import fetch, listing, mirror
from inflame.errors import DataError, MissingExtra
from inflame.records import Dataset

IMAGES = "images.npy"

Arrays = tuple[NDArray[np.uint8], Sequence[str], Sequence[str]]  # images, labels, splits ("" where none is official)
Pixels = NDArray[np.uint8]


def is_packed(dataset: Dataset) -> bool:
    """Whether the items are rows of `images.npy`."""
    return len(dataset) > 0 and dataset.items["uri"][0].as_py().startswith(f"{IMAGES}#")


def images(dataset: Dataset) -> Pixels:
    """All rows of the data set's `images.npy`, mapped from disk: uint8 [N,H,W] or [N,H,W,3], read-only.
    Item `images.npy#i` is row `i`."""
    path = Path(dataset.root) / IMAGES
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _broken(path) from error
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise _broken(path)
    return array  # type: ignore[no-any-return]


def write(root: Path, arrays: Arrays) -> Dataset:
    """Writes `images.npy` and returns the data set of its rows, with the SHA-256 of each one's pixels."""
    pixels, labels, splits = arrays
    pixels = np.ascontiguousarray(pixels)
    with store.atomic(root / IMAGES) as path, path.open("wb") as file:
        np.save(file, pixels, allow_pickle=False)
    items = listing.table(
        uri=[f"{IMAGES}#{row}" for row in range(len(pixels))],
        label=list(labels),
        split=list(splits),
        sha256=[hashlib.sha256(picture).hexdigest() for picture in pixels],
    )
    classes = tuple(dict.fromkeys(labels))
    return Dataset(name=root.name, kind="image", classes=classes, root=str(root), version="", items=items)


# --- reading the classic sets --------------------------------------------------------------------------


def digits(_: Path) -> Arrays:
    """The 1,797 digits that come with scikit-learn: 8 x 8, sixteen greys spread over 0 … 255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("The digits come inside scikit-learn, which isn't installed.", extra="train") from error
    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return pixels, [str(label) for label in found.target.tolist()], [""] * len(pixels)


IDX = {  # part of the data → (images, labels)
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def idx(root: Path, *, name: str, classes: Sequence[str], places: Sequence[str], sums: dict[str, str]) -> Arrays:
    """The four gzipped IDX files of MNIST's format, from the mirror or from `places` (addresses of folders)."""
    files = {
        file: fetch.download(
            fetch.Remote(
                name=f"{name}/{file}",
                urls=(*mirror.urls(name, file), *(f"{place}/{file}" for place in places)),
                sha256=sums[file],
            ),
            root / "download" / file,
        )
        for pair in IDX.values()
        for file in pair
    }
    pixels, labels, splits = [], [], []
    for split, (pictures, answers) in IDX.items():
        pixels.append(read_idx(files[pictures]))
        numbers = read_idx(files[answers])
        labels += [classes[number] for number in numbers.tolist()]
        splits += [split] * len(numbers)
    return np.concatenate(pixels), labels, splits


def read_idx(path: Path) -> Pixels:
    """The uint8 array of a (gzipped) IDX file; the format is described on the MNIST page."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path) from error
    ends = 4 + 4 * data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else len(data) + 1
    if len(data) < ends:
        raise _broken(path)
    shape = tuple(np.frombuffer(data[4:ends], dtype=">u4").tolist())
    if len(data) - ends != math.prod(shape):
        raise _broken(path)
    return np.frombuffer(data, dtype=np.uint8, offset=ends).reshape(shape)


def cifar10(root: Path, *, classes: Sequence[str], places: Sequence[str], md5: str) -> Arrays:
    """CIFAR-10 from the mirror's sheets, or from the original archive of plain bytes (the one without pickles)."""
    trouble = mirror.copy("cifar10", root / "download", lambda name: name if name.endswith((".webp", ".txt")) else None)
    if not trouble:
        return _batches(lambda batch: _sheet(root / "download", batch), classes)
    remote = fetch.Remote(name="cifar10", urls=tuple(places), md5=md5)
    archive = fetch.download(remote, root / "download" / "cifar-10-binary.tar.gz", tried=[trouble])
    return _batches(lambda batch: _binary(archive, batch), classes)


def _batches(read: Callable[[str], tuple[Pixels, Pixels]], classes: Sequence[str]) -> Arrays:
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    found = [read(name) for name in names]
    labels = [classes[number] for _, numbers in found for number in numbers.tolist()]
    splits = [
        "test" if name == "test_batch" else "train"
        for name, (_, numbers) in zip(names, found, strict=True)
        for _ in numbers
    ]
    return np.concatenate([pixels for pixels, _ in found]), labels, splits


def _sheet(folder: Path, batch: str) -> tuple[Pixels, Pixels]:
    """A batch as one lossless sheet of 100 x 100 tiles, and its labels, one number a line."""
    from PIL import Image

    try:
        with Image.open(folder / f"{batch}.webp") as picture:
            sheet = np.asarray(picture.convert("RGB"))
        rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
        pixels = sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        labels = np.array((folder / f"{batch}.labels.txt").read_text().split(), dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise _broken(folder / f"{batch}.webp") from error
    if len(pixels) != len(labels):
        raise _broken(folder / f"{batch}.labels.txt")
    return pixels, labels


def _binary(archive: Path, batch: str) -> tuple[Pixels, Pixels]:
    """A batch of records of one label byte and 3 x 32 x 32 bytes of colour planes."""
    try:
        with tarfile.open(archive) as file:
            member = file.extractfile(f"cifar-10-batches-bin/{batch}.bin")
            data = member.read() if member else b""
        records = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3073)
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise _broken(archive) from error
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _broken(path: Path) -> DataError:
    return DataError(
        f"{path.name} is damaged or not what its name says.",
        where=str(path),
        remedy=f"Remove it and give the same command again: rm -r {path.parent}",
    )


def opened(path: Path) -> Callable[[str], bytes]:
    """The picture of a row by its number, as a PNG file: for readers that know files only."""
    from inflame.artifact.contents import missing

    array = np.load(path, mmap_mode="r", allow_pickle=False)

    def read(key: str) -> bytes:
        if not key.isdigit() or int(key) >= len(array):
            raise missing(path, key)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(array[int(key)]).squeeze()).save(file, "PNG")
        return file.getvalue()

    return read
