"""Data sets as manifests: `open` makes one of a name, folder, zip or table; `save` and `load` keep it in two files.

A manifest is a description (`dataset.json`) and one row for each item (`items.parquet`); pictures stay where they
are. Its `version` is a hash of the content: the same pictures, labels and splits give the same version anywhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from inflame import plugins, store
from inflame.artifact import (
    buckets,
    cache,
    carve,
    checks,
    containers,
    contents,
    fetch,
    grouping,
    index,
    listing,
    overlay,
    packed,
    tabular,
    thumbs,
    twins,
    unpack,
)
from inflame.errors import DataError, StorageError, did_you_mean
from inflame.records import Dataset, Fault, Preprocess

DESCRIPTION, ITEMS = "dataset.json", "items.parquet"
GROWTH = "growth.json"  # beside them in a data set that was grown (see grow.py)

Progress = Callable[[int, int], None]

_KEPT = listing.COLUMNS
_COMPARED = 20_000  # pictures among which near copies are looked for when splits are made
_STRETCH, _EVERY = 4000, 20.0  # pictures read in one go; seconds after which what was found is kept
_SHORT = 128  # pictures read in one go when the time for it is limited
_FIRST = 20  # pictures of each class that are read before the others then
_Ints = NDArray[np.int64]


def getdata(name: str | Path, root: str | Path | None = None) -> Dataset:
    """The named data set (or folder, zip, table), brought here first when it isn't yet.

    A named set is kept in `root`, by default `data/NAME` in inflame's home. Its first use may download it: no place
    to get it from can be reached raises NetworkError. `licence` and `source` say whose it is.
    """
    found = _named(str(name))
    if found is None:
        return open(name)
    return _prepared(_fetched(found, None if root is None else Path(root)))


def open(  # noqa: PLR0913 - each is a question that only the caller can answer
    data: str | Path,
    *,
    seed: int = 0,
    splits: Mapping[str, float] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    canvas: Preprocess | None = None,
    skip_bad: bool = False,
    by: str = "content",
    anew: bool = False,
    seconds: float | None = None,
) -> Dataset:
    """The data set of a name (`mnist`), a folder of class folders (of pictures or texts; also in a bucket), a zip or
    tar of one, a table of path (or text) and label, or shards: TFRecord, WebDataset, Parquet, Arrow.

    Pictures are read once: checksum and a trial decoding; a second call reads only what has changed. `progress` is
    told (done, all). With `canvas` the decoded squares of a first reading are kept for `loader.load`. Pictures that
    can't be used are left out and named in `faults`. Every item has a split: the official one, or one that is a
    function of its content and `seed`, in the fractions `splits`. `limit` keeps a sample of that many items with
    about the same mixture of classes and splits. A damaged shard is an error, or with `skip_bad` a fault: then the rest
    of it is read. Nothing is written to the user's folder.

    by: "content" (copies, near copies and groups stay on one side), "burst" (so do photos that a camera took within
    seconds), "time" (the oldest to learn from), "random", or a regular expression on the uri whose first bracket names
    a group. anew: also where the data brings its own splits.

    seconds: the time for reading; what isn't read then, a random part of each class, is left out, and `faults` say so
    (kind "unread"); a second call reads on.

    Raises DataError when there is nothing to learn from, NetworkError when a named set can't be fetched.
    """
    found = listed(data, skip_bad=skip_bad)
    return _prepared(
        found,
        seed=seed,
        splits=splits,
        limit=limit,
        progress=progress,
        canvas=canvas,
        by=by,
        anew=anew,
        seconds=seconds,
    )


def save(dataset: Dataset, folder: Path) -> None:
    """Writes `dataset.json` and `items.parquet` to the folder, each whole or not at all, the description last."""
    with store.atomic(folder / ITEMS) as path:
        pq.write_table(dataset.items.select(list(_KEPT)), path)
    store.write(folder / DESCRIPTION, json.dumps(dataset.to_json(), indent=1) + "\n")


def load(folder: Path) -> Dataset:
    """The data set that `save` wrote. Missing or damaged: DataError."""
    try:
        items = pq.read_table(folder / ITEMS, columns=list(_KEPT))
        value = json.loads((folder / DESCRIPTION).read_text())
        faults = tuple(Fault.from_json(fault) for fault in value.pop("faults"))
        found = Dataset.from_json({**value, "items": items})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(
            f"{folder} {'holds no data set' if missing else 'holds a damaged data set'}: {ITEMS} or {DESCRIPTION} "
            f"can't be read ({error}).",
            where=str(folder),
            remedy="Give the data itself again (its name, folder, zip or table) instead of this folder.",
        ) from error
    return dataclasses.replace(found, faults=faults)


def version(items: pa.Table) -> str:
    """The content hash of a data set: SHA-256 over the sorted (sha256, label, split) of all items, as 64 digits.
    Neither names nor places of files matter, nor their order."""
    rows = pc.binary_join_element_wise(items["sha256"], items["label"], items["split"], "\0")
    rows = pc.take(rows, pc.sort_indices(rows))
    return hashlib.sha256("\n".join(rows.to_pylist()).encode()).hexdigest()


def sample(items: pa.Table, limit: int) -> pa.Table:
    """At most `limit` items, chosen by content: the same mixture of (label, split), at least one of each if it fits.

    A larger limit keeps what a smaller one chose, up to rounding; no random numbers are drawn.
    """
    if limit < 1:
        raise DataError(
            f"A sample of {limit} items holds nothing.", where="limit", remedy="Give a positive number: limit=1000"
        )
    if limit >= items.num_rows:
        return items
    groups = pc.binary_join_element_wise(items["label"], items["split"], "\0")
    _, codes = np.unique(np.asarray(groups.to_pylist(), dtype=object).astype(str), return_inverse=True)
    counts = np.bincount(codes)
    quota = _quotas(counts, limit)
    order = np.lexsort((_keys(items), codes))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return items.take(pa.array(np.flatnonzero(rank < quota[codes])))


def packed_faults(dataset: Dataset) -> tuple[Fault, ...]:
    """Copies and conflicting labels of a packed set; nothing is left out of an official set, so they are warnings."""
    uris, hashes = dataset.items["uri"].to_pylist(), dataset.items["sha256"].to_pylist()
    scans = [checks.Scan(uri=uri, sha256=sha256) for uri, sha256 in zip(uris, hashes, strict=True)]
    labels, splits = dataset.items["label"].to_pylist(), dataset.items["split"].to_pylist()
    found = checks.faults(Path(dataset.root), uris, labels, scans, classes=dataset.classes, splits=splits)
    return tuple(
        dataclasses.replace(fault, severity="warning") if fault.severity == "error" else fault for fault in found
    )


# --- finding -------------------------------------------------------------------------------------------------


def listed(data: str | Path, *, skip_bad: bool = False) -> Dataset:
    """What `data` names (see `open`), listed but not yet read: without checksums, and splits only where the data brings
    them."""
    text = os.fspath(data)
    named = _named(text) if isinstance(data, str) else None
    if named is not None:
        return _fetched(named)
    if isinstance(data, str) and buckets.is_one(text):
        return _of_file(text, buckets.brought(text), skip_bad=skip_bad)
    if isinstance(data, str) and buckets.is_grown(text):
        from inflame.artifact import grow_bucket

        return grow_bucket.read(text)
    if isinstance(data, str) and buckets.is_bucket(text):
        return buckets.folder(text, skip_bad=skip_bad)
    path = store.local(text)
    if not text.strip():
        raise _missing('""', Path("nothing"))
    if path is None:
        path = _downloaded(text)
    return _of_folder(path, skip_bad=skip_bad) if path.is_dir() else _of_file(text, path, skip_bad=skip_bad)


def _of_folder(path: Path, *, skip_bad: bool) -> Dataset:
    """A packed set as `get` made it, one that was grown, shards, or class folders."""
    if (path / packed.IMAGES).is_file() and (path / DESCRIPTION).is_file():
        return dataclasses.replace(load(path), root=str(path.resolve()))
    if (path / GROWTH).is_file():
        found = load(path)
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


def _named(text: str) -> str | None:
    """The name of the source that the text means, or None: `fashion_mnist` and `MNIST` mean fashion-mnist and mnist."""
    known = {name.casefold().replace("_", "-"): name for name in plugins.names("source")}
    return known.get(text.casefold().replace("_", "-"))


def _fetched(name: str, root: Path | None = None) -> Dataset:
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


# --- reading -------------------------------------------------------------------------------------------------


def _prepared(
    found: Dataset,
    *,
    seed: int = 0,
    splits: Mapping[str, float] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    canvas: Preprocess | None = None,
    by: str = "content",
    anew: bool = False,
    seconds: float | None = None,
) -> Dataset:
    """The listed data set with what reading it tells: checksums, faults, splits, version."""
    kept_in, decided = overlay.apply(found.items, found.root)
    if decided:
        classes = tuple(sorted({*found.classes, *kept_in["label"].to_pylist()}))
        found = dataclasses.replace(found, items=kept_in, classes=classes, faults=(*found.faults, *decided))
    reading = None
    if not packed.is_packed(found):
        reading = _read(found, progress, canvas, seconds)
        found = _judged(_reached(found, reading.rows), reading.scans)
    items = found.items.select(list(_KEPT))
    if by == "burst":
        items = grouping.by_burst(items, [] if reading is None else reading.scans)
    ours = anew or not any(pc.unique(items["split"]).to_pylist())  # else the data brings its own
    kept = _index_place(found, splits, seed, by)
    way = carve.Way(
        by=by,
        together=_near(items, reading) if ours else None,
        previous=_known(kept) if ours else None,
        anew=anew,
    )
    items, notes = carve.carve(items, splits, seed, way)
    if ours and by != "random":
        with suppress(StorageError), store.atomic(kept) as part:
            pq.write_table(items.select(["uri", "label", "split", "sha256", "group"]), part)
    if limit is not None:
        items = sample(items, limit)
    if reading is not None and reading.squares is not None and canvas is not None:
        row = {scan.uri: number for number, scan in enumerate(reading.scans)}
        rows = [row[uri] for uri in items["uri"].to_pylist()]
        cache.keep(np.stack([reading.squares[row] for row in rows]), items["sha256"].to_pylist(), canvas)
    present = set(pc.unique(items["label"]).to_pylist())
    return dataclasses.replace(
        found,
        items=items,
        classes=tuple(name for name in found.classes if name in present),
        faults=(*found.faults, *notes),
        version=version(items),
    )


def _near(items: pa.Table, reading: _Reading | None) -> NDArray[np.int64] | None:
    """Pairs of rows of `items` that are nearly the same picture; not looked for in very large sets."""
    if reading is None or items.num_rows > _COMPARED or not reading.scans or reading.scans[0].format == "TEXT":
        return None
    row = {uri: number for number, uri in enumerate(items["uri"].to_pylist())}
    good = [number for number, scan in enumerate(reading.scans) if scan.uri in row]
    sizes = np.array([(reading.scans[number].width, reading.scans[number].height) for number in good]).reshape(-1, 2)
    place = np.array([row[reading.scans[number].uri] for number in good], dtype=np.int64)
    links = twins.pairs(thumbs.grey(reading.small[good]), sizes)
    return place[links] if len(links) else None


def _index_place(found: Dataset, splits: Mapping[str, float] | None, seed: int, by: str) -> Path:
    """Where the index of this way to divide this data set is kept, so that growing it moves nothing."""
    key = json.dumps([found.root, found.name, dict(splits or {}), seed, by])
    return store.home() / "splits" / f"{fetch.digest_text(key)[:32]}.parquet"


def _known(place: Path) -> pa.Table | None:
    with suppress(OSError, pa.ArrowException):
        return pq.read_table(place, columns=["uri", "label", "split", "sha256", "group"])
    return None


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was found in each file that was reached (the `rows` of the list, in order), their thumbs (uint8 [N,
    thumbs.BYTES]; `twins.pairs(thumbs.grey(…))`), and their decoded squares if they were wanted, none of the files was
    known before, and there is room for all."""

    rows: list[int]
    scans: list[checks.Scan]
    small: cache.Pixels
    squares: list[cache.Pixels] | None = None


def _read(
    found: Dataset, progress: Progress | None, canvas: Preprocess | None, seconds: float | None = None
) -> _Reading:
    """Looks at every picture: in the index when it hasn't changed since, else in the file, until the time is over.

    What was found goes into the index from time to time and at the end, also when it is an error or Ctrl-C.
    """
    key, uris = f"{found.root}\0{found.name}", found.items["uri"].to_pylist()
    scans, small = index.recall(key, found.items)
    unknown = [row for row, scan in enumerate(scans) if scan is None]
    squares: dict[int, cache.Pixels] | None = {} if canvas is not None and len(unknown) == len(uris) else None
    begun = saved = index.now()
    if seconds is not None:
        unknown = _mixed(found.items["label"].to_pylist(), unknown)
    stretch = _STRETCH if seconds is None else _SHORT
    try:
        for start in range(0, len(unknown), stretch):
            if start and seconds is not None and index.now() - begun > seconds:
                break
            rows = unknown[start : start + stretch]
            part = thumbs.empty(len(rows))
            if squares is not None and canvas is not None and not cache.room(len(squares) + len(rows), canvas):
                squares = None
            read = _scan(found, rows, part, squares, canvas, _later(progress, start, len(unknown)))
            for row, scan in zip(rows, read, strict=True):
                scans[row] = scan
            small[rows] = part
            if index.now() - saved > _EVERY:
                index.remember(key, found.items, scans, small, begun)
                saved = index.now()
    finally:
        if unknown:
            index.remember(key, found.items, scans, small, begun)
    reached = [row for row, scan in enumerate(scans) if scan is not None]
    blank = np.zeros(0, np.uint8)  # where a file was no picture
    return _Reading(
        reached,
        [scan for scan in scans if scan is not None],
        small if len(reached) == len(uris) else small[reached],
        None if squares is None else [squares.get(row, blank) for row in reached],
    )


def _mixed(labels: list[str], rows: list[int]) -> list[int]:
    """The rows in random order, the first few of each class before all others."""
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    seen: dict[str, int] = {}
    early: list[int] = []
    late: list[int] = []
    for place in order:
        row = rows[place]
        seen[labels[row]] = seen.get(labels[row], 0) + 1
        (early if seen[labels[row]] <= _FIRST else late).append(row)
    return early + late


def _reached(found: Dataset, rows: list[int]) -> Dataset:
    """The data set without the items that there was no time to read."""
    everything = len(found.items)
    if len(rows) == everything:
        return found
    reason = (
        f"only {len(rows):,} of {everything:,} items could be read in the time; the next time it goes on from there"
    )
    fault = Fault(kind="unread", severity="warning", reason=reason)
    return dataclasses.replace(found, items=found.items.take(pa.array(rows)), faults=(*found.faults, fault))


def _scan(
    found: Dataset,
    rows: list[int],
    small: cache.Pixels,
    squares: dict[int, cache.Pixels] | None,
    canvas: Preprocess | None,
    progress: Progress | None,
) -> list[checks.Scan]:
    """Reads the items of these rows; their thumbs go to `small`, their squares to `squares` by row."""

    def sink(number: int, square: cache.Pixels) -> None:
        if squares is not None:
            squares[rows[number]] = square

    return checks.scan(
        found.root,
        found.items["uri"].take(rows).to_pylist(),
        kind=found.kind,
        small=small,
        canvas=None if squares is None else canvas,
        sink=None if squares is None else sink,
        progress=progress,
    )


def _later(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Tells the progress of a stretch as that of the whole."""
    return None if progress is None else lambda done, _: progress(start + done, total)


def _judged(found: Dataset, scans: list[checks.Scan]) -> Dataset:
    """The data set with checksums and faults, without the pictures that can't be used."""
    uris, labels, given = (found.items[name].to_pylist() for name in ("uri", "label", "split"))
    faults = checks.faults(Path(found.root), uris, labels, scans, classes=found.classes, splits=given)
    out = {uri for fault in faults if fault.severity == "error" for uri in fault.items}
    out |= {scan.uri for scan in scans if scan.kind}
    hashes = pa.array([scan.sha256 for scan in scans], pa.string())
    items = found.items.set_column(found.items.schema.get_field_index("sha256"), "sha256", hashes)
    kept = items.filter(pa.array([uri not in out for uri in uris], pa.bool_()))
    if not kept.num_rows:
        first = next(fault for fault in faults if set(fault.items) & out)
        raise DataError(
            f"None of the {len(uris):,} files can be used; the first, {first.items[0]}: {first.reason}.",
            where=found.root,
            remedy=f"See what is wrong with each one: inflame check {found.root}",
        )
    return dataclasses.replace(found, items=kept, faults=(*found.faults, *faults))


def _quotas(counts: _Ints, limit: int) -> _Ints:
    """How many of each group make `limit`: in proportion by largest remainders, one at least where that fits."""
    exact = counts * (limit / counts.sum())
    quota: _Ints = np.floor(exact).astype(np.int64)
    if limit >= len(counts):
        quota = np.maximum(quota, 1)
    while quota.sum() > limit:  # what was rounded up to one is taken from those that have more
        quota[np.argmax(np.where(quota > 1, quota - exact, -np.inf))] -= 1
    for group in np.argsort(quota - exact, kind="stable")[: limit - quota.sum()]:
        quota[group] += 1
    return quota


def _keys(items: pa.Table) -> NDArray[np.bytes_]:
    """A number for each item by which to choose: a hash of its content, unlike the one that decides the split."""
    return np.array(
        [hashlib.sha256(f"sample/{sha256}".encode()).digest()[:8] for sha256 in items["sha256"].to_pylist()], dtype="S8"
    )
