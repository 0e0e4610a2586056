"""A data set in a bucket that grows: what is new lies beside the items of before, under their own root.

    s3://bucket/photos/
      cats/1.jpg …                  the items of before, which are left as they are
      .grown/v0002/
        begun                       whoever wrote it first has the number
        cats/3f2a….jpg              what was added
        items.parquet, growth.json  all items, of before and new, by their places below s3://bucket/photos
        dataset.json                written last: without it there is no such version

Whoever opens s3://bucket/photos sees the items of before; s3://bucket/photos/.grown/v0002 is version 2.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inflame import store
from inflame.artifact import buckets, contents, manifest
from inflame.errors import DataError
from inflame.records import Dataset

AT_ONCE = 8  # files that are written at the same time
_BEGUN = "begun"


def folder(root: str, number: int) -> str:
    """Where a version of the data set with that root is."""
    return store.join(root, buckets.GROWN, f"v{number:04}")


def numbers(root: str) -> list[int]:
    """The numbers that are taken, also by versions that were never finished."""
    try:
        names = store.listdir(store.join(root, buckets.GROWN))
    except DataError:  # nothing has grown there yet
        return []
    return sorted(int(name[1:]) for name in names if name[:1] == "v" and name[1:].isdigit())


def growths(root: str) -> dict[int, str]:
    """What is written of each finished version, by its number."""
    found = {}
    for number in numbers(root):
        place = folder(root, number)
        if store.exists(store.join(place, manifest.DESCRIPTION)):
            found[number] = store.read_text(store.join(place, manifest.GROWTH))
    return found


def claim(root: str, number: int) -> int:
    """The first number from this one on that nobody has; of several that ask, also elsewhere, each gets another."""
    while not store.create(store.join(folder(root, number), _BEGUN), secrets.token_hex(16)):
        number += 1
    return number


def write(dataset: Dataset, number: int, files: Mapping[str, bytes], growth: str) -> None:
    """Puts the files (name below the root → bytes), then the manifest. What a killed one left is written over."""
    root = str(dataset.root)

    def put(one: tuple[str, bytes]) -> None:
        store.write(store.join(root, one[0]), one[1])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(put, files.items()))
    place = folder(root, number)
    with tempfile.TemporaryDirectory() as name:
        manifest.save(dataclasses.replace(dataset, root=""), Path(name))
        store.upload(Path(name) / manifest.ITEMS, store.join(place, manifest.ITEMS))
        store.write(store.join(place, manifest.GROWTH), growth)
        store.upload(Path(name) / manifest.DESCRIPTION, store.join(place, manifest.DESCRIPTION))


def read(uri: str) -> Dataset:
    """The data set of a version that `write` wrote, with sizes and times of change of its files. None: DataError."""
    root = uri.rstrip("/").partition(f"/{buckets.GROWN}/")[0]
    with tempfile.TemporaryDirectory() as name:
        for file in (manifest.DESCRIPTION, manifest.ITEMS):
            store.download(store.join(uri.rstrip("/"), file), Path(name) / file)
        found = manifest.load(Path(name))
    return dataclasses.replace(found, root=root, items=contents.stated(found.items, root))
