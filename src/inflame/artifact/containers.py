"""Data sets that come as shards or tables of many items: TFRecord, WebDataset, Parquet and Arrow.

A single file, a folder of them, or the folders that Hugging Face's library writes. Items stay where they are; their
uris name the file and the record.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from inflame import store
from inflame.artifact import listing
from inflame.artifact.formats.entry import Entry
from inflame.errors import DataError
from inflame.records import Dataset, Fault

READERS = {
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".tar": "webdataset",
    ".parquet": "parquet",
    ".arrow": "parquet",
}
NAMES = ("shards.json", "classes.json", "labels.txt")  # beside shards: which number is which class

_PROBED = 60  # members of a tar that are looked at to tell a WebDataset from an archive of folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One shard: its name below the root, bytes, a number that changes with the content, and what gives its path here
    (a shard in a bucket is only then brought)."""

    name: str
    size: int
    changed: int
    path: Callable[[], Path]


def is_named(path: Path) -> bool:
    """Whether the file's name is that of a shard."""
    return path.suffix.lower() in READERS and not listing.is_junk(path.name) and not path.name.startswith("cache-")


def is_shard(path: Path) -> bool:
    """Whether the file holds many items: by its suffix, and for a tar by what is in it."""
    return is_named(path) and (path.suffix.lower() != ".tar" or _is_webdataset(path))


def shards(folder: Path) -> list[Path]:
    """The shards in a folder, or in the folders right below it (`train/`, `data/`); empty when it is none of shards."""
    found = sorted(path for level in ("*", "*/*") for path in folder.glob(level) if is_named(path) and path.is_file())
    return found if found and is_shard(found[0]) else []


def read(path: Path, *, skip_bad: bool = False) -> Dataset:
    """The data set of a shard or of a folder of shards (see `gathered`)."""
    root = path.resolve() if path.is_dir() else path.resolve().parent
    parts = []
    for file in shards(root) if path.is_dir() else [path.resolve()]:
        state = file.stat()
        parts.append(
            Part(
                name=file.relative_to(root).as_posix(),
                size=state.st_size,
                changed=state.st_mtime_ns,
                path=lambda file=file: file,  # type: ignore[misc]
            )
        )
    beside = [root / name for name in NAMES if (root / name).is_file()]
    return gathered(parts, str(root), beside, name=path.stem if path.is_file() else root.name, skip_bad=skip_bad)


def gathered(
    parts: Iterable[Part], root: str, beside: Sequence[Path], *, name: str = "", skip_bad: bool = False
) -> Dataset:
    """The data set of these shards below `root`. Splits are those that the records tell, else those of file and folder
    names (`train-00000.tfrecord`, `test/`). Labels that are numbers get their names from the first file of `beside`.

    A damaged shard: DataError that names it; with `skip_bad` what can't be read is a fault, and the rest is read.
    """
    columns: dict[str, list[Any]] = {column: [] for column in (*listing.COLUMNS, "size", "mtime")}
    faults: list[Fault] = []
    text = False
    for part in parts:
        split = _split(PurePosixPath(part.name))
        for entry in _entries(part.path(), part.name, faults if skip_bad else None):
            text = text or entry.ext == ".txt"
            row = (f"{part.name}#{entry.key}", entry.label, entry.split or split, "", entry.group, entry.time)
            for column, value in zip(columns.values(), (*row, part.size, part.changed), strict=True):
                column.append(value)
    if not columns["uri"]:
        raise DataError(
            f"{store.shown(root)} holds no items.",
            where=store.shown(root),
            remedy="Give shards with a picture and a label in each record.",
        )
    labels = _named(beside, columns["label"])
    columns["label"] = labels
    unlabelled = tuple(uri for uri, label in zip(columns["uri"], labels, strict=True) if not label)
    if len(unlabelled) == len(labels):
        raise DataError(
            f"The records of {store.shown(root)} have no label.",
            where=store.shown(root),
            remedy="Write the class of each item beside it: image/class/text (TFRecord), .cls (WebDataset), label "
            "(Parquet).",
        )
    if unlabelled:
        faults.append(Fault(kind="no_label", severity="error", reason="the label is empty", items=unlabelled))
        keep = [row for row, label in enumerate(labels) if label]
        columns = {name: [column[row] for row in keep] for name, column in columns.items()}
    return Dataset(
        name=listing.to_uri(name or root.rpartition("/")[2]) or "data",
        kind="text" if text else "image",
        classes=tuple(sorted(set(columns["label"]))),
        root=root,
        version="",
        items=listing.table(**columns),
        faults=tuple(faults),
    )


def _entries(file: Path, name: str, faults: list[Fault] | None) -> Iterator[Entry]:
    reader = import_module(f"inflame.artifact.formats.{READERS[file.suffix.lower()]}")
    bad: Callable[[int, str], None] | None = None
    if faults is not None:

        def bad(number: int, reason: str) -> None:
            faults.append(Fault(kind="unreadable", severity="error", reason=reason, items=(f"{name}#{number}",)))

    yield from reader.entries(file, on_bad=bad)


def _split(path: PurePosixPath) -> str:
    """The split that a folder or the beginning of a file's name says: `train/x`, `val-00001-of-00004`."""
    words = [*path.parts[:-1], path.stem.split("-")[0].split("_")[0].split(".")[0]]
    return next((split for word in words if (split := listing.split_name(word))), "")


def _named(beside: Sequence[Path], labels: list[str]) -> list[str]:
    """Labels that are numbers, by the names that an index or a list beside the shards gives them."""
    if not beside or not labels or not all(label.isdigit() for label in labels if label):
        return labels
    text = beside[0].read_text(encoding="utf-8")
    value = text.splitlines() if beside[0].suffix == ".txt" else json.loads(text)
    names = list(value["classes"] if isinstance(value, dict) else value)
    return [names[int(label)] if label and int(label) < len(names) else label for label in labels]


def _is_webdataset(path: Path) -> bool:
    """Whether files that share a name up to the first dot stand together, one of them a label or a description."""
    endings: dict[str, set[str]] = {}
    try:
        with tarfile.open(path) as tar:
            for count, member in enumerate(tar):
                if count >= _PROBED:
                    break
                if member.isfile():
                    name = PurePosixPath(member.name)
                    stem, _, ending = name.name.partition(".")
                    endings.setdefault(f"{name.parent}/{stem}", set()).add(ending.casefold())
    except (tarfile.TarError, OSError, EOFError):
        pass
    return any(found & {"cls", "json", "txt"} and len(found) > 1 for found in endings.values())
