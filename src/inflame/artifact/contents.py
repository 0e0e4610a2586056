"""The bytes of an item, wherever they are: a file of its own, or one record of a shard, table or packed array.

`a/b.jpg` is a file; `train-0.tfrecord#12`, `train-0.tar#cats/1.jpg`, `part.parquet#12` and `news.jsonl#12` are parts
of a file, which the module for its suffix opens. A file that bears the whole name wins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import final

import pyarrow as pa

from inflame import store
from inflame.artifact import buckets, listing
from inflame.errors import DataError

Opened = Callable[[str], bytes]  # the key of a record → its bytes

OPENERS = {  # suffix → the module whose `opened(path)` gives the records
    ".npy": "inflame.artifact.packed",
    ".tfrecords": "inflame.artifact.formats.tfrecord",
    ".tfrecord": "inflame.artifact.formats.tfrecord",
    ".tar": "inflame.artifact.formats.webdataset",
    ".parquet": "inflame.artifact.formats.parquet",
    ".arrow": "inflame.artifact.formats.parquet",
    ".csv": "inflame.artifact.tabular",
    ".tsv": "inflame.artifact.tabular",
    ".jsonl": "inflame.artifact.tabular",
    ".ndjson": "inflame.artifact.tabular",
}


@final
class Contents:
    """Reads items of the data set in `root`. Shards stay open; safe to use from several threads."""

    def __init__(self, root: str | Path) -> None:
        self.root = root
        self._open: dict[str, Opened] = {}
        self._lock = threading.Lock()

    def read(self, uri: str) -> bytes:
        """The encoded bytes of the item. Nothing there, or a record that is damaged: DataError or OSError."""
        container, key = divided(uri)
        path = listing.locate(self.root, uri)
        if store.local(self.root) is None:
            if not container:
                return store.read_bytes(f"{self.root}/{uri}")
        elif not container or path.is_file():
            return path.read_bytes()
        return self._opened(container)(key)

    def _opened(self, container: str) -> Opened:
        with self._lock:
            if container not in self._open:
                module = import_module(OPENERS[PurePosixPath(container).suffix.lower()])
                away = store.local(self.root) is None
                path = buckets.brought(f"{self.root}/{container}") if away else listing.locate(self.root, container)
                self._open[container] = module.opened(path)
            return self._open[container]


def divided(uri: str) -> tuple[str, str]:
    """(file, key) of a uri that names a part of a shard or table; ("", uri) of any other."""
    for place, letter in enumerate(uri):
        if letter == "#" and PurePosixPath(uri[:place]).suffix.lower() in OPENERS:
            return uri[:place], uri[place + 1 :]
    return "", uri


def stated(items: pa.Table, root: str | Path) -> pa.Table:
    """The items with the size and time of change (ns; in a bucket a number that stands for it) of the file that each is
    in: what the index knows it again by. Of a file that isn't there both are -1."""
    away = store.local(root) is None
    known: dict[str, tuple[int, int]] = buckets.states(str(root)) if away else {}
    states = []
    for uri in items["uri"].to_pylist():
        file = divided(uri)[0] or uri
        if away:
            known.setdefault(file, (-1, -1))
        elif file not in known:
            try:
                state = listing.locate(root, file).stat()
                known[file] = state.st_size, state.st_mtime_ns
            except OSError:
                known[file] = -1, -1
        states.append(known[file])
    columns = {name: items[name] for name in listing.COLUMNS}
    return pa.table(
        {**columns, "size": [size for size, _ in states], "mtime": [mtime for _, mtime in states]},
        schema=listing.SCHEMA,
    )


def missing(path: Path, key: str) -> DataError:
    """The error for a record that a shard doesn't hold."""
    return DataError(
        f"{path.name} has no record {key}: it was changed or cut short since it was listed.",
        where=str(path),
        remedy="Open the data set again; if the file is damaged, get it again or skip what is bad (--skip-bad).",
    )
