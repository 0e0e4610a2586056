"""Versions of data sets: a snapshot keeps what a set was, so that it can be compared and brought back.

A folder of versions holds `packs/` (every content once, see `packs`) and `versions/VERSION/` for each snapshot: the
manifest (`dataset.json`, `items.parquet`) and `snapshot.json`, written last. Files are only ever added, so a new
version costs what is new in it, folders of two people can be put together, and DVC moves a few large files instead of
many small ones. VERSION is the hash that `manifest.version` gives and that every run notes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from inflame import store
from inflame.artifact import contents, fetch, listing, manifest, packed, packs
from inflame.errors import DataError, did_you_mean
from inflame.records import Dataset, Record, dumps

PACKS, VERSIONS, SNAPSHOT = "packs", "versions", "snapshot.json"
INDEX, ROWS = "index.csv", "items.jsonl"

Progress = Callable[[int, int], None]

_SHORT = 16  # digits of a version in the name of its folder
_FEWEST = 4  # digits by which a version can be named


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Record):
    """A version that is kept. `new_items` contents of `new_bytes` bytes came with it; `shape` is that of one row where
    the items are rows of `images.npy`."""

    version: str
    name: str
    kind: str
    items: int
    classes: int
    time: str  # UTC, ISO 8601
    note: str = ""
    new_items: int = 0
    new_bytes: int = 0
    shape: tuple[int, ...] = ()

    @property
    def short(self) -> str:
        """Enough of the version to tell it from others."""
        return self.version[:_SHORT]


def home_of(name: str) -> Path:
    """The folder of versions that a data set of that name has in inflame's home."""
    return store.home() / "versions" / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "data")


def folders() -> list[Path]:
    """All folders of versions in inflame's home."""
    return sorted(path.parent for path in (store.home() / "versions").glob(f"*/{VERSIONS}") if path.is_dir())


def take(dataset: Dataset, folder: Path, *, note: str = "", progress: Progress | None = None) -> tuple[Snapshot, bool]:
    """The snapshot of an opened data set in a folder of versions, and whether it was made now.

    Reads the items that no earlier version has. A killed one goes on where its last whole pack ended. An item that is
    no longer what it was when the set was opened: DataError, and no snapshot.
    """
    place = folder / VERSIONS / dataset.version[:_SHORT]
    with fetch.alone(folder):
        if (place / SNAPSHOT).is_file():
            return _load(place), False
        store.make_folder(folder / PACKS)
        store.sweep(folder)
        have = packs.known(folder / PACKS)
        wanted = {sha: uri for sha, uri in _contents(dataset).items() if bytes.fromhex(sha) not in have}
        loose = dataset.kind == "text" or packed.is_packed(dataset)
        size = packs.write(folder / PACKS, _read(dataset, wanted, progress), small=loose)
        made = Snapshot(
            version=dataset.version,
            name=dataset.name,
            kind=dataset.kind,
            items=len(dataset),
            classes=len(dataset.classes),
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            note=note,
            new_items=len(wanted),
            new_bytes=size,
            shape=packed.images(dataset).shape[1:] if packed.is_packed(dataset) else (),
        )
        with store.atomic_folder(place) as part:
            manifest.save(dataclasses.replace(dataset, root=""), part)  # where it lay here says nothing elsewhere
            (part / SNAPSHOT).write_text(dumps(made), encoding="utf-8")
    return made, True


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder of versions, newest first."""
    found = [_load(path.parent) for path in (folder / VERSIONS).glob(f"*/{SNAPSHOT}")]
    return sorted(found, key=lambda one: (one.time, one.version), reverse=True)


def find(word: str, among: list[Path]) -> tuple[Path, Snapshot]:
    """The folder and the snapshot that a word means: the first digits of a version, or the name of a data set (then
    its newest). None, or several: DataError."""
    known = {(one.version, folder): one for folder in among for one in snapshots(folder)}
    if re.fullmatch(rf"[0-9a-f]{{{_FEWEST},64}}", word):
        found = [(folder, one) for (version, folder), one in known.items() if version.startswith(word)]
        if len({one.version for _, one in found}) > 1:
            options = ", ".join(sorted({one.short for _, one in found}))
            raise DataError(f"{word} may be any of {options}.", where=word, remedy="Give more digits of the version.")
        if found:
            return found[0]
    named = [(folder, one) for (_, folder), one in known.items() if word in (one.name, folder.name, str(folder))]
    if named:
        return max(named, key=lambda pair: pair[1].time)
    names = {one.name for one in known.values()} | {one.short for one in known.values()}
    raise DataError(
        f'There is no version "{word}".{did_you_mean(word, names)}',
        where=", ".join(str(folder) for folder in among) or str(store.home() / "versions"),
        remedy="See the versions there are: inflame version list" if known else "Make one first: inflame version DATA",
    )


def load(folder: Path, snapshot: Snapshot) -> Dataset:
    """The data set as it was: its items with labels and splits. `root` is empty, as the items lie in packs."""
    return manifest.load(folder / VERSIONS / snapshot.short)


def verify(folder: Path, snapshot: Snapshot, *, progress: Progress | None = None) -> None:
    """Reads every content of a version and checks it against its hash. Missing or damaged: DataError."""
    wanted = _contents(load(folder, snapshot))
    for done, _ in enumerate(packs.read(folder / PACKS, map(bytes.fromhex, wanted)), 1):
        _tell(progress, done, len(wanted))


def restore(folder: Path, snapshot: Snapshot, target: Path, *, progress: Progress | None = None) -> Path:
    """Writes a version to a new folder; returns what to open: that folder, or the table in it that keeps labels and
    splits as they were. Opened again, it has the same version.

    Files get their names back, rows of `images.npy` that array, texts that were rows of a table
    `items.jsonl`. The folder is there whole or not at all. Raises DataError when it is there already, or a content is
    missing.
    """
    target = target.expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{target} is already there; nothing was changed.",
            where=str(target),
            remedy="Name a folder that isn't there yet.",
        )
    dataset = load(folder, snapshot)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    store.make_folder(part)
    rows = packs.read(folder / PACKS, map(bytes.fromhex, _contents(dataset)))
    with store.guard(target):
        name = _layout(dataset, snapshot)(dataset, snapshot, part, _watched(rows, dataset, progress))
        if target.is_dir():
            target.rmdir()
        part.replace(target)
    return target / name if name else target


# --- writing it back ---------------------------------------------------------------------------------------------


def _layout(dataset: Dataset, snapshot: Snapshot) -> Callable[[Dataset, Snapshot, Path, _Contents], str]:
    if snapshot.shape:
        return _as_array
    inside = dataset.kind == "text" and any(contents.divided(uri)[0] for uri in dataset.items["uri"].to_pylist())
    return _as_rows if inside else _as_files


def _as_files(dataset: Dataset, _: Snapshot, part: Path, rows: _Contents) -> str:
    """Each item under its own name, and a table of labels and splits."""
    uris: dict[str, list[str]] = {}
    for uri, sha256 in zip(dataset.items["uri"].to_pylist(), dataset.items["sha256"].to_pylist(), strict=True):
        uris.setdefault(sha256, []).append(_inside(uri, part))
    for sha, data in rows:
        for uri in uris[sha.hex()]:
            path = listing.locate(part, uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if dataset.kind == "text":  # a table of paths is one of pictures
        return ""
    from pyarrow import csv

    columns = {"path" if name == "uri" else name: dataset.items[name] for name in listing.COLUMNS}
    csv.write_csv(pa.table(columns), part / INDEX)
    return INDEX


def _as_rows(dataset: Dataset, _: Snapshot, part: Path, rows: _Contents) -> str:
    """Texts that were parts of tables or shards: one table with all of them."""
    found = dict(rows)
    with (part / ROWS).open("w", encoding="utf-8") as file:
        for row in dataset.items.to_pylist():
            text = found[bytes.fromhex(row["sha256"])].decode()
            file.write(json.dumps({"text": text, **{name: row[name] for name in ("label", "split", "group", "time")}}))
            file.write("\n")
    return ROWS


def _as_array(dataset: Dataset, snapshot: Snapshot, part: Path, rows: _Contents) -> str:
    """The array with the rows that the version has, and its manifest."""
    places: dict[str, list[int]] = {}
    for number, sha256 in enumerate(dataset.items["sha256"].to_pylist()):
        places.setdefault(sha256, []).append(number)
    shape = (len(dataset), *snapshot.shape)
    array = np.lib.format.open_memmap(part / packed.IMAGES, mode="w+", dtype=np.uint8, shape=shape)
    for sha, data in rows:
        array[places[sha.hex()]] = np.frombuffer(data, np.uint8).reshape(snapshot.shape)
    array.flush()
    names = pa.array([f"{packed.IMAGES}#{number}" for number in range(len(dataset))], pa.string())
    items = dataset.items.set_column(dataset.items.schema.get_field_index("uri"), "uri", names)
    manifest.save(dataclasses.replace(dataset, items=items), part)
    return ""


def _inside(uri: str, part: Path) -> str:
    """The uri, if it names a place in the folder: what was pulled may have been made by anyone."""
    path = PurePosixPath(uri)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in uri or uri == INDEX:
        raise DataError(
            f"The version names an item {uri!r}, which lies outside its folder.",
            where=str(part),
            remedy="Don't use versions from where this one came: inflame makes none like it.",
        )
    return uri


# --- contents ----------------------------------------------------------------------------------------------------

_Contents = Iterator[tuple[bytes, bytes]]


def _contents(dataset: Dataset) -> dict[str, str]:
    """Every content (hash in hex) of the data set once, with the first item that has it."""
    found: dict[str, str] = {}
    for sha256, uri in zip(dataset.items["sha256"].to_pylist(), dataset.items["uri"].to_pylist(), strict=True):
        found.setdefault(sha256, uri)
    return found


def _read(dataset: Dataset, wanted: Mapping[str, str], progress: Progress | None) -> _Contents:
    """(hash, bytes) of the wanted items, checked: a file may have changed since the set was opened."""
    whole = packed.images(dataset) if packed.is_packed(dataset) else None
    source = contents.Contents(dataset.root)
    for done, (sha256, uri) in enumerate(wanted.items(), 1):
        try:
            data = source.read(uri) if whole is None else whole[int(uri.partition("#")[2])].tobytes()
        except OSError as error:
            raise _moved(dataset, uri, str(error.strerror or error)) from error
        digest = hashlib.sha256(data).digest()
        if digest.hex() != sha256:
            raise _moved(dataset, uri, "its content is another")
        yield digest, data
        _tell(progress, done, len(wanted))


def _watched(rows: _Contents, dataset: Dataset, progress: Progress | None) -> _Contents:
    total = len(_contents(dataset))
    for done, row in enumerate(rows, 1):
        yield row
        _tell(progress, done, total)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None and (done % 64 == 0 or done == total):
        progress(done, total)


def _moved(dataset: Dataset, uri: str, reason: str) -> DataError:
    return DataError(
        f"{uri} is no longer what it was when the data set was read: {reason}.",
        where=str(listing.locate(dataset.root, uri)),
        remedy="Give the same command again; of a run, make the snapshot before its data changes.",
    )


def _load(place: Path) -> Snapshot:
    try:
        value: Any = json.loads((place / SNAPSHOT).read_text(encoding="utf-8"))
        return Snapshot.from_json(value)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"The snapshot {place.name} is damaged: {SNAPSHOT} can't be read ({error}).",
            where=str(place),
            remedy="Bring it again (inflame version pull, or dvc pull), or delete that folder and make it again.",
        ) from error
