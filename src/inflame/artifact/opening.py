"""Data sets as they are trained on: `open` finds one by name, folder, file or address, looks at every item once, and
gives each a split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from inflame import store
from inflame.artifact import (
    cache,
    carve,
    fetch,
    finding,
    grouping,
    listing,
    manifest,
    overlay,
    packed,
    survey,
    thumbs,
    twins,
)
from inflame.artifact.survey import Progress, Reading
from inflame.errors import StorageError
from inflame.records import Dataset, Preprocess

_COMPARED = 20_000  # pictures among which near copies are looked for when splits are made


def getdata(name: str | Path, root: str | Path | None = None) -> Dataset:
    """The named data set (or folder, zip, table), brought here first when it isn't yet.

    A named set is kept in `root`, by default `data/NAME` in inflame's home. Its first use may download it: no place
    to get it from can be reached raises NetworkError. `licence` and `source` say whose it is.
    """
    found = finding.named(str(name))
    if found is None:
        return open(name)
    return _prepared(finding.fetched(found, None if root is None else Path(root)))


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
    found = finding.listed(data, skip_bad=skip_bad)
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
        reading = survey.read(found, progress, canvas, seconds)
        found = survey.judged(survey.reached(found, reading.rows), reading.scans)
    items = found.items.select(list(listing.COLUMNS))
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
        items = manifest.sample(items, limit)
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
        version=manifest.version(items),
    )


def _near(items: pa.Table, reading: Reading | None) -> NDArray[np.int64] | None:
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
