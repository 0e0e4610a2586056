"""Data sets that come as shards or tables of many items: TFRecord, WebDataset, Parquet and Arrow.

A single file, a folder of them, or the folders that Hugging Face's library writes. Items stay where they are; their
uris name the file and the record.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

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
INDEX = "shards.json"

_PROBED = 60  # members of a tar that are looked at to tell a WebDataset from an archive of folders


def is_shard(path: Path) -> bool:
    """Whether the file holds many items: by its suffix, and for a tar by what is in it."""
    if path.suffix.lower() not in READERS or listing.is_junk(path.name):
        return False
    return path.suffix.lower() != ".tar" or _is_webdataset(path)


def shards(folder: Path) -> list[Path]:
    """The shards in a folder, or in the folders right below it (`train/`, `data/`); empty when it is none of shards."""
    found = [path for level in ("*", "*/*") for path in folder.glob(level) if path.suffix.lower() in READERS]
    found = sorted(path for path in found if path.is_file() and not path.name.startswith("cache-"))
    return found if found and is_shard(found[0]) else []


def read(path: Path, *, skip_bad: bool = False) -> Dataset:
    """The data set of a shard or of a folder of shards.

    Splits are those that the records tell, else those of file and folder names (`train-00000.tfrecord`, `test/`).
    A damaged shard: DataError that names it; with `skip_bad` what can't be read is a fault, and the rest is read.
    """
    root = path.resolve() if path.is_dir() else path.resolve().parent
    files = shards(root) if path.is_dir() else [path.resolve()]
    columns: dict[str, list[Any]] = {name: [] for name in (*listing.COLUMNS, "size", "mtime")}
    faults: list[Fault] = []
    text = False
    for file in files:
        state, name = file.stat(), file.relative_to(root).as_posix()
        split = _split(file.relative_to(root))
        for entry in _entries(file, name, faults if skip_bad else None):
            text = text or entry.ext == ".txt"
            row = (f"{name}#{entry.key}", entry.label, entry.split or split, "", entry.group, entry.time)
            for column, value in zip(columns.values(), (*row, state.st_size, state.st_mtime_ns), strict=True):
                column.append(value)
    if not columns["uri"]:
        raise DataError(
            f"{path} holds no items.", where=str(path), remedy="Give shards with a picture and a label in each record."
        )
    labels = _named(root, columns["label"])
    columns["label"] = labels
    unlabelled = tuple(uri for uri, label in zip(columns["uri"], labels, strict=True) if not label)
    if len(unlabelled) == len(labels):
        raise DataError(
            f"The records of {path} have no label.",
            where=str(path),
            remedy="Write the class of each item beside it: image/class/text (TFRecord), .cls (WebDataset), label "
            "(Parquet).",
        )
    if unlabelled:
        faults.append(Fault(kind="no_label", severity="error", reason="the label is empty", items=unlabelled))
        keep = [row for row, label in enumerate(labels) if label]
        columns = {name: [column[row] for row in keep] for name, column in columns.items()}
    return Dataset(
        name=listing.to_uri(path.stem if path.is_file() else root.name) or "data",
        kind="text" if text else "image",
        classes=tuple(sorted(set(columns["label"]))),
        root=str(root),
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


def _split(path: Path) -> str:
    """The split that a folder or the beginning of a file's name says: `train/x`, `val-00001-of-00004`."""
    words = [*path.parts[:-1], path.stem.split("-")[0].split("_")[0].split(".")[0]]
    return next((split for word in words if (split := listing.split_name(word))), "")


def _named(root: Path, labels: list[str]) -> list[str]:
    """Labels that are numbers, by the names that an index or a list beside the shards gives them."""
    if not labels or not all(label.isdigit() for label in labels if label):
        return labels
    names: list[str] = []
    for place in (root / INDEX, root / "classes.json", root / "labels.txt"):
        if place.is_file():
            text = place.read_text(encoding="utf-8")
            value = text.splitlines() if place.suffix == ".txt" else json.loads(text)
            names = list(value["classes"] if isinstance(value, dict) else value)
            break
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
