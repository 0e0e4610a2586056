"""Folders of pictures in buckets (gs:// s3:// az:// abfs://, and what else fsspec reads), item by item.

Nothing is copied as a whole: files are listed once and read when they are wanted. A request that fails is tried again,
later and later; a bucket that may not be read is told at once. Secrets come from the environment only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from inflame import store
from inflame.artifact import listing
from inflame.errors import DataError, InflameError, NetworkError
from inflame.records import Dataset, Fault

TRIES = 6
FIRST = 0.1  # seconds before the second try; twice as long before each further one

T = TypeVar("T")


def is_bucket(text: str) -> bool:
    """Whether this is the address of a folder in a bucket (and of no web page or local file)."""
    scheme, colons, _ = text.partition("://")
    return bool(colons) and scheme not in ("http", "https", "file")


def read(uri: str) -> bytes:
    """The bytes of a file in a bucket. Still failing after several tries: NetworkError; not there: DataError."""
    return patiently(uri, lambda: store.read_bytes(uri))


def patiently(uri: str, task: Callable[[], T], *, sleep: Callable[[float], Any] = time.sleep) -> T:
    """What the task gives, tried up to `TRIES` times with growing pauses (exponential backoff with jitter)."""
    trouble: Exception | None = None
    for turn in range(TRIES):
        if turn:
            sleep(FIRST * 2 ** (turn - 1) * (0.5 + random.random()))
        try:
            return task()
        except DataError:
            raise  # not there, or no right to read it: trying again won't help
        except (InflameError, OSError) as error:
            if _refused(error):
                raise _forbidden(uri, error) from error
            trouble = error
    raise NetworkError(
        f"{store.shown(uri)} could not be reached in {TRIES} tries ({trouble}).",
        where=store.shown(uri),
        remedy="Check the network and the bucket's name, then give the same command again: what is done is kept.",
    ) from trouble


def folder(uri: str) -> Dataset:
    """The data set of class folders (with or without train, val and test above them) in a bucket. Sizes and times of
    change (or version tags) are kept, by which a second look knows what it has seen."""
    uri = uri.rstrip("/")
    files = patiently(uri, lambda: list(_listed(uri)))
    splits = {split for name, _, _ in files if (split := listing.split_name(name.split("/")[0]))}
    rows, others = [], []
    for name, size, changed in files:
        parts = name.split("/")
        split = listing.split_name(parts[0]) if len(splits) > 1 or "train" in splits else ""
        label = parts[1] if split and len(parts) > 2 else parts[0] if not split and len(parts) > 1 else ""
        text = name.rpartition(".")[2].casefold() and f".{name.rpartition('.')[2].casefold()}" in listing.TEXTS
        if not label or listing.is_junk(parts[-1]) or not (text or listing.is_picture(parts[-1])):
            others.append(name)
        else:
            rows.append((name, label, split, size, changed, bool(text)))
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


def _listed(uri: str) -> Iterator[tuple[str, int, int]]:
    """(name below the folder, bytes, a number that changes with the content) of every file."""
    system, root = store._remote(uri)
    with store._border(uri):
        system.invalidate_cache()
        found = system.find(root, detail=True)
    start = root.rstrip("/") + "/"
    for path, about in sorted(found.items()):
        tag = about.get("ETag") or about.get("etag") or about.get("md5Hash") or about.get("LastModified") or ""
        moment = about.get("mtime") or about.get("created") or tag
        number = int(hash_of(str(moment))[:12], 16)
        yield path.removeprefix(start), int(about.get("size") or 0), number


def hash_of(text: str) -> str:
    """Hex digits that stand for a text."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _refused(error: Exception) -> bool:
    told = f"{type(error).__name__} {error} {getattr(error, 'where', '')}".casefold()
    return any(
        word in told
        for word in (
            "accessdenied",
            "access denied",
            "forbidden",
            "permission",
            "nocredentials",
            "unable to locate credentials",
            "invalidaccesskeyid",
            "unauthorized",
        )
    )


def _forbidden(uri: str, error: Exception) -> DataError:
    return DataError(
        f"{store.shown(uri)} may not be read: {error}.",
        where=store.shown(uri),
        remedy="Give the rights, or put the right keys into the environment (AWS_ACCESS_KEY_ID and so on).",
    )
