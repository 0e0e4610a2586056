"""Every file of a listed data set is looked at once: checksums, a trial decoding, thumbs, and what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from inflame.artifact import cache, checks, index, thumbs
from inflame.artifact.scanning import Scan, scan
from inflame.errors import DataError
from inflame.records import Dataset, Fault, Preprocess

Progress = Callable[[int, int], None]

_STRETCH, _EVERY = 4000, 20.0  # pictures read in one go; seconds after which what was found is kept
_SHORT = 128  # pictures read in one go when the time for it is limited
_FIRST = 20  # pictures of each class that are read before the others then


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in each file that was reached (the `rows` of the list, in order), their thumbs (uint8 [N,
    thumbs.BYTES]; `twins.pairs(thumbs.grey(…))`), and their decoded squares if they were wanted, none of the files was
    known before, and there is room for all."""

    rows: list[int]
    scans: list[Scan]
    small: cache.Pixels
    squares: list[cache.Pixels] | None = None


def read(found: Dataset, progress: Progress | None, canvas: Preprocess | None, seconds: float | None = None) -> Reading:
    """Looks at every picture: in the index when it hasn't changed since, else in the file, until the time is over.

    What was found goes into the index from time to time and at the end, also when it is an error or Ctrl-C.
    """
    key, uris = f"{found.root}\0{found.name}", found.items["uri"].to_pylist()
    known, small = index.recall(key, found.items)
    text = found.kind == "text"  # what was taken for a text then, or wasn't, is read anew where it is otherwise now
    scans = [scan if scan is not None and (scan.format == "TEXT") == text else None for scan in known]
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
            part_scans = _scan(found, rows, part, squares, canvas, _later(progress, start, len(unknown)))
            for row, scan in zip(rows, part_scans, strict=True):
                scans[row] = scan
            small[rows] = part
            if index.now() - saved > _EVERY:
                index.remember(key, found.items, scans, small, begun)
                saved = index.now()
    finally:
        if unknown:
            index.remember(key, found.items, scans, small, begun)
    found_rows = [row for row, scan in enumerate(scans) if scan is not None]
    blank = np.zeros(0, np.uint8)  # where a file was no picture
    return Reading(
        found_rows,
        [scan for scan in scans if scan is not None],
        small if len(found_rows) == len(uris) else small[found_rows],
        None if squares is None else [squares.get(row, blank) for row in found_rows],
    )


def reached(found: Dataset, rows: list[int]) -> Dataset:
    """The data set without the items that there was no time to read."""
    everything = len(found.items)
    if len(rows) == everything:
        return found
    reason = (
        f"only {len(rows):,} of {everything:,} items could be read in the time; the next time it goes on from there"
    )
    fault = Fault(kind="unread", severity="warning", reason=reason)
    return dataclasses.replace(found, items=found.items.take(pa.array(rows)), faults=(*found.faults, fault))


def judged(found: Dataset, scans: list[Scan]) -> Dataset:
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


def packed_faults(dataset: Dataset) -> tuple[Fault, ...]:
    """Copies and conflicting labels of a packed set; nothing is left out of an official set, so they are warnings."""
    uris, hashes = dataset.items["uri"].to_pylist(), dataset.items["sha256"].to_pylist()
    scans = [Scan(uri=uri, sha256=sha256) for uri, sha256 in zip(uris, hashes, strict=True)]
    labels, splits = dataset.items["label"].to_pylist(), dataset.items["split"].to_pylist()
    found = checks.faults(Path(dataset.root), uris, labels, scans, classes=dataset.classes, splits=splits)
    return tuple(
        dataclasses.replace(fault, severity="warning") if fault.severity == "error" else fault for fault in found
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


def _scan(
    found: Dataset,
    rows: list[int],
    small: cache.Pixels,
    squares: dict[int, cache.Pixels] | None,
    canvas: Preprocess | None,
    progress: Progress | None,
) -> list[Scan]:
    """Reads the items of these rows; their thumbs go to `small`, their squares to `squares` by row."""

    def sink(number: int, square: cache.Pixels) -> None:
        if squares is not None:
            squares[rows[number]] = square

    return scan(
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
