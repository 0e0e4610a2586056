"""What a name, a path or an address leads to: the items of a data set, listed but not yet read."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from inflame import plugins, store
from inflame.artifact import (
    buckets,
    containers,
    contents,
    fetch,
    grow_bucket,
    index,
    listing,
    manifest,
    packed,
    tabular,
    unpack,
)
from inflame.errors import DataError, did_you_mean
from inflame.records import Dataset

_TEXTS = ("20newsgroups", "bbc-news")  # sources


def listed(data: str | Path, *, skip_bad: bool = False) -> Dataset:
    """What `data` names (see `opening.open`), not yet read: without checksums, and splits only where the data brings
    them."""
    text = os.fspath(data)
    known = named(text) if isinstance(data, str) else None
    if known is not None:
        return fetched(known)
    if isinstance(data, str) and is_one(text):
        return _of_file(text, buckets.brought(text), skip_bad=skip_bad)
    if isinstance(data, str) and buckets.is_grown(text):
        return grow_bucket.read(text)
    if isinstance(data, str) and buckets.is_bucket(text):
        return buckets.folder(text, skip_bad=skip_bad)
    path = store.local(text)
    if not text.strip():
        raise _missing('""', Path("nothing"))
    if path is None:
        path = _downloaded(text)
    return _of_folder(path, skip_bad=skip_bad) if path.is_dir() else _of_file(text, path, skip_bad=skip_bad)


def are_texts(data: str) -> bool:
    """Whether `data` is known to be one of texts before it is fetched, unpacked or read: a source that is, or a folder
    or table here."""
    if (known := named(data)) is not None:
        return known in _TEXTS
    path = store.local(data) if data.strip() else None
    if path is None or not path.exists() or (path.is_dir() and containers.shards(path)):
        return False
    try:
        if path.is_dir():
            return _of_folder(path, skip_bad=True).kind == "text"
        return tabular.is_table(path) and tabular.read(path).kind == "text"
    except DataError:  # it is told when it is opened
        return False


def is_one(text: str) -> bool:
    """Whether the address is that of one file in a bucket that holds a data set: an archive, a table or a shard."""
    path = Path(text)
    is_data = unpack.is_archive(path) or tabular.is_table(path) or containers.is_named(path)
    return buckets.is_bucket(text) and is_data


def _of_folder(path: Path, *, skip_bad: bool) -> Dataset:
    """A packed set as `get` made it, one that was grown, shards, or class folders."""
    if (path / packed.IMAGES).is_file() and (path / manifest.DESCRIPTION).is_file():
        return dataclasses.replace(manifest.load(path), root=str(path.resolve()))
    if (path / manifest.GROWTH).is_file():
        found = manifest.load(path)
        return dataclasses.replace(found, root=str(path.resolve()), items=contents.stated(found.items, path))
    return containers.read(path, skip_bad=skip_bad) if containers.shards(path) else listing.folder(path)


def _of_file(text: str, path: Path, *, skip_bad: bool) -> Dataset:
    """A table, a shard or an archive."""
    if not path.exists():
        raise _missing(text, path)
    if tabular.is_table(path):
        return tabular.read(path)
    if containers.is_shard(path):
        return containers.read(path, skip_bad=skip_bad)
    if unpack.is_archive(path):
        return _unpacked(path)
    raise DataError(
        f"{text} is a file, but not one that holds a data set.",
        where=str(path),
        remedy="Give a folder of class folders, a .zip or .tar of one, or a .csv with the columns path,label. "
        "One picture is for: inflame predict",
    )


def named(text: str) -> str | None:
    """The name of the source that the text means, or None: `fashion_mnist` and `MNIST` mean fashion-mnist and mnist."""
    known = {name.casefold().replace("_", "-"): name for name in plugins.names("source")}
    return known.get(text.casefold().replace("_", "-"))


def fetched(name: str, root: Path | None = None) -> Dataset:
    """The data set of that name, brought to `root` (by default `data/NAME` in inflame's home) when it isn't there."""
    fetch_set: Callable[[Path], Dataset] = plugins.load("source", name)
    return fetch_set((root or store.home() / "data" / name).expanduser().absolute())


def _downloaded(url: str) -> Path:
    """The archive or table at an address, kept in the cache."""
    name = Path(store.shown(url).partition("?")[0]).name
    if not (unpack.is_archive(Path(name)) or tabular.is_table(Path(name))):
        raise DataError(
            f"{store.shown(url)} is not the address of a zip or tar file.",
            where=store.shown(url),
            remedy="Give the address of one file, or copy the folder here first.",
        )
    target = store.home() / "cache" / "downloads" / fetch.digest_text(url)[:16] / name
    return target if target.is_file() else fetch.download(fetch.Remote(name=name, urls=(url,)), target)


def _unpacked(archive: Path) -> Dataset:
    """The data set in a zip or tar file, unpacked once in the cache by its checksum."""
    unpacked = store.home() / "cache" / "unpacked"
    folder = unpacked / _checksum(archive)[:32]
    if not folder.is_dir():
        with fetch.alone(unpacked):
            if not folder.is_dir():
                _unpack(archive, unpacked / f"{folder.name}.part", folder)
    name = archive.name
    for suffix in sorted(unpack.SUFFIXES, key=len, reverse=True):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    found = listing.folder(folder, shown=str(archive))
    return dataclasses.replace(found, name=listing.to_uri(name) or "data")


def _unpack(archive: Path, part: Path, folder: Path) -> None:
    try:
        unpack.unpack(archive, part)
    except DataError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    store.sweep(part)  # what an earlier, killed unpacking left
    part.replace(folder)


def _checksum(archive: Path) -> str:
    """SHA-256 of a file, remembered by path, size and time of change: a large archive takes seconds to read."""
    state = archive.stat()
    key = f"{archive.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    note = store.home() / "cache" / "index" / f"{fetch.digest_text(key)[:32]}.sha256"
    if note.is_file():
        return note.read_text()
    found = fetch.digest(archive)
    if index.now() - state.st_mtime > 2:  # else it may still be being written
        store.write(note, found)
    return found


def _missing(text: str, path: Path) -> DataError:
    """The error for a path that isn't there, with the name nearest to its first part that isn't."""
    while not path.parent.is_dir():
        path = path.parent
    known = plugins.names("source")
    guess = did_you_mean(text, known) or did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    return DataError(
        f"There is no folder, file or data set {text}.{guess}",
        where=str(path.absolute()),
        remedy=f"Give the path of a folder of class folders, of a zip, or of a CSV; or a name: {', '.join(known)}",
    )
