"""Data sets in buckets (gs:// s3:// az:// abfs://, and what else fsspec reads): class folders, shards, archives.

Class folders are listed once and read item by item, when an item is wanted. A shard or an archive is brought here as a
whole, once: its records can't be found from afar. `inflame.remote` is patient with what fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflame import remote, store
from inflame.artifact import containers, listing
from inflame.errors import DataError
from inflame.records import Dataset, Fault

GROWN = ".grown"  # a folder of a data set in a bucket with its grown versions (see grow_bucket.py): no class of it


@dataclass(frozen=True, slots=True)
class _File:
    """A file in a bucket: its name below the folder, bytes, and a number that changes with the content."""

    name: str
    size: int
    changed: int


def is_bucket(text: str) -> bool:
    """Whether this is the address of a folder in a bucket (and of no web page or local file)."""
    scheme, colons, _ = text.partition("://")
    return bool(colons) and scheme not in ("http", "https", "file")


def brought(uri: str) -> Path:
    """The copy here of a file in a bucket, made when there is none of this content; kept in inflame's home."""
    about = remote.ask(uri, lambda system, place: system.info(place))
    key = hashlib.sha256(f"{uri}\0{about.get('size')}\0{_changed(about)}".encode()).hexdigest()[:32]
    path = store.home() / "cache" / "buckets" / key / uri.rpartition("/")[2]
    if not path.is_file():
        store.download(uri, path)
    return path


def folder(uri: str, *, skip_bad: bool = False) -> Dataset:
    """The data set of class folders (with or without train, val and test above them), or of shards, in a bucket.

    Sizes and times of change (or version tags) are kept, by which a second look knows what it has seen. A damaged
    shard: DataError that names it; with `skip_bad` a fault.
    """
    uri = uri.rstrip("/")
    files = [file for file in _listed(uri) if GROWN not in file.name.split("/")]
    found = _shards(uri, files)
    if found:
        names = {file.name for file in files}
        beside = [brought(f"{uri}/{name}") for name in containers.NAMES if name in names]
        return containers.gathered(found, uri, beside, skip_bad=skip_bad)
    return _of_classes(uri, files)


def states(uri: str) -> dict[str, tuple[int, int]]:
    """The size of each file below the folder, and the number that changes with its content, by its name."""
    return {file.name: (file.size, file.changed) for file in _listed(uri.rstrip("/"))}


def is_grown(text: str) -> bool:
    """Whether this is the address of a grown version in a bucket."""
    return is_bucket(text) and f"/{GROWN}/" in text


def _shards(uri: str, files: list[_File]) -> list[containers.Part]:
    """The shards in the folder or right below it, none of them brought yet; empty when it is none of shards."""
    named = [file for file in files if file.name.count("/") < 2 and containers.is_named(Path(file.name))]
    if not named or not containers.is_shard(brought(f"{uri}/{named[0].name}")):
        return []
    return [
        containers.Part(
            name=file.name,
            size=file.size,
            changed=file.changed,
            path=lambda place=f"{uri}/{file.name}": brought(place),  # type: ignore[misc]
        )
        for file in named
    ]


def _of_classes(uri: str, files: list[_File]) -> Dataset:
    splits = {split for file in files if (split := listing.split_name(file.name.split("/")[0]))}
    rows, others = [], []
    for file in files:
        name = file.name
        parts = name.split("/")
        split = listing.split_name(parts[0]) if len(splits) > 1 or "train" in splits else ""
        label = parts[1] if split and len(parts) > 2 else parts[0] if not split and len(parts) > 1 else ""
        text = name.rpartition(".")[2].casefold() and f".{name.rpartition('.')[2].casefold()}" in listing.TEXTS
        if not label or listing.is_junk(parts[-1]) or not (text or listing.is_picture(parts[-1])):
            others.append(name)
        else:
            rows.append((name, label, split, file.size, file.changed, bool(text)))
    if not rows:
        raise DataError(
            f"{store.shown(uri)} holds no pictures or texts in class folders.",
            where=store.shown(uri),
            remedy="Give the address of a folder of class folders: s3://bucket/photos with cat/1.jpg, dog/2.jpg in it.",
        )
    text = sum(row[5] for row in rows) > len(rows) / 2
    rows = [row for row in rows if row[5] == text]
    junk = Fault(kind="junk", severity="info", reason="not an item of a class: left out", items=tuple(others))
    return Dataset(
        name=uri.rpartition("/")[2] or "data",
        kind="text" if text else "image",
        classes=tuple(sorted({row[1] for row in rows})),
        root=uri,
        version="",
        items=listing.table(
            uri=[row[0] for row in rows],
            label=[row[1] for row in rows],
            split=[row[2] for row in rows],
            size=[row[3] for row in rows],
            mtime=[row[4] for row in rows],
        ),
        faults=(junk,) if others else (),
    )


def _listed(uri: str) -> Iterator[_File]:
    """Every file below the folder, by name."""

    def find(system: Any, place: str) -> tuple[str, dict[str, dict[str, Any]]]:
        return place.rstrip("/") + "/", system.find(place, detail=True)

    start, found = remote.ask(uri, find)
    for path, about in sorted(found.items()):
        yield _File(path.removeprefix(start), int(about.get("size") or 0), _changed(about))


def _changed(about: dict[str, Any]) -> int:
    tag = about.get("ETag") or about.get("etag") or about.get("md5Hash") or about.get("LastModified") or ""
    moment = str(about.get("mtime") or about.get("created") or tag)
    return int(hashlib.sha256(moment.encode()).hexdigest()[:12], 16)
