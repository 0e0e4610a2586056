"""Data faults, found before training: one threaded pass over the files, then plain words for what is wrong.

Nothing here writes, and nothing a file holds can stop the pass: pipes and huge files are not read, huge pictures are
refused by their header, and memory is shared out between the threads.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from inflame.artifact import listing, pillow, preprocess
from inflame.artifact.sheet import sheet
from inflame.errors import DataError
from inflame.records import Check, Fault, Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from inflame.artifact.preprocess import Pixels

__all__ = ["KINDS", "SMALL", "Scan", "check", "conflicting", "faults", "scan", "sheet"]

KINDS = {  # in the order of a report, with their severity
    "unreadable": "error",
    "label_conflict": "error",
    "empty_class": "warning",
    "small_class": "warning",
    "duplicate": "warning",
    "rotated": "info",
    "odd_mode": "info",
    "junk": "info",
}
SMALL = 3  # with fewer different pictures a class can't be in train, val and test

_LOOK = Preprocess(size=32, resize=32)  # a complete decode that keeps as little as possible
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff", ".dng", ".cr2", ".nef", ".arw"),
    "BMP": (".bmp", ".dib"),
    "AVIF": (".avif", ".avifs", ".heif"),
    "HEIF": (".heic", ".heif", ".hif"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_KNOWN_ENDINGS = {ending for endings in _ENDINGS.values() for ending in endings}


@dataclass(frozen=True, slots=True)
class Scan:
    """What one file turned out to be. `kind` is "" for a good picture, else "unreadable" or "junk", and `reason` says
    what is wrong and what to do. Width and height are those of the upright picture; `orientation` is EXIF's, 1 to 8;
    `mode` is Pillow's, with `+alpha` for a transparent palette or colour; `bytes` is the size of the file."""

    uri: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    orientation: int = 1
    bytes: int = 0
    kind: str = ""
    reason: str = ""


def scan(
    root: Path,
    uris: Sequence[str],
    *,
    canvas: Preprocess | None = None,
    sink: Callable[[int, Pixels], None] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scan]:
    """One `Scan` per uri, in order, from reading each file once: hash, header and a complete decode.

    With `canvas`, `sink(i, uint8 [resize, resize, channels])` is called for every good picture, from the worker
    threads and for different i at the same time. `progress(done, all)` is called by one thread at a time. What they
    raise ends the pass; a bad file never does. Rows of packed arrays (`images.npy#12`) are scanned likewise.
    """
    found: list[Scan | None] = [None] * len(uris)
    arrays = _arrays(root, uris)
    waiting = iter(range(len(uris)))
    lock, stop, done = threading.Lock(), threading.Event(), 0

    def look(index: int) -> None:
        nonlocal done
        found[index], pixels = _look(root, uris[index], arrays, canvas or _LOOK)
        if canvas is not None and sink is not None and pixels is not None:
            sink(index, pixels)
        with lock:
            done += 1
            if progress is not None:
                progress(done, len(uris))

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    index = next(waiting, None)
                if index is None:
                    return
                look(index)
        except BaseException:
            stop.set()
            raise

    threads = max(1, min(workers or os.cpu_count() or 1, len(uris)))
    with pillow.quiet(), ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
        try:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
        finally:  # after an error or Ctrl-C the others stop when they are through with the file at hand
            stop.set()
    return [result for result in found if result is not None]


def faults(
    root: Path,
    uris: Sequence[str],
    labels: Sequence[str],
    scans: Sequence[Scan],
    junk: Sequence[str] = (),
    classes: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> tuple[Fault, ...]:
    """Everything wrong with a data set, errors first; uris, labels, scans (and splits, when folders give them) go
    together, `junk` are files beside the pictures, `classes` all classes, also those without a picture."""
    found = [
        *_by_reason((s.kind, s.reason, s.uri) for s in scans if s.kind),
        *_by_reason(("junk", _junk_reason(uri), uri) for uri in junk),
        *_copies(scans, labels, splits or [""] * len(scans)),
        *_classes(scans, labels, classes),
        *_by_reason(("rotated", _ROTATED, s.uri) for s in scans if not s.kind and s.orientation != 1),
        *_by_reason(("odd_mode", reason, s.uri) for s in scans if not s.kind for reason in _odd(s)),
    ]
    return _ordered(found)


def check(data: str | Path, progress: Callable[[int, int], None] | None = None) -> Check:
    """All faults of a data set, with nothing left out because of them and nothing divided into splits.

    `data` is what `manifest.open` takes. Files that an earlier pass has seen unchanged aren't read again.
    `progress(done, all)` counts files. Raises DataError where there is nothing to look at.
    """
    from inflame.artifact import manifest, packed

    started = time.perf_counter()
    found = manifest._listed(data)
    if packed.is_packed(found):
        seen = manifest.packed_faults(found)
    else:
        uris, labels, splits = (found.items[name].to_pylist() for name in ("uri", "label", "split"))
        scans = manifest._read(found, progress, None).scans
        seen = faults(Path(found.root), uris, labels, scans, classes=found.classes, splits=splits)
    return Check(
        dataset=found.name,
        items=len(found),
        classes=len(set(found.items["label"].to_pylist())),
        faults=_ordered((*found.faults, *seen)),
        seconds=round(time.perf_counter() - started, 3),
    )


def conflicting(scans: Sequence[Scan], labels: Sequence[str]) -> set[str]:
    """The sha256 of every content that stands under more than one label."""
    seen: dict[str, str] = {}
    return {s.sha256 for s, label in zip(scans, labels, strict=True) if seen.setdefault(s.sha256, label) != label} - {
        ""
    }


# --- one file -----------------------------------------------------------------------------------------


def _look(root: Path, uri: str, arrays: dict[str, Pixels], plan: Preprocess) -> tuple[Scan, Pixels | None]:
    name, _, row = uri.rpartition("#")
    if name in arrays:
        return _look_at_row(uri, arrays[name][int(row)], plan)
    data = b""
    try:
        data, where = preprocess.read(listing.locate(root, uri))
        head, pixels = preprocess.examine(data, plan, where)
    except preprocess.PictureError as error:
        kind = "junk" if error.kind == "junk" else "unreadable"
        sha256 = hashlib.sha256(data).hexdigest() if data else ""
        return Scan(uri, sha256, bytes=len(data), kind=kind, reason=error.reason), None
    good = Scan(
        uri,
        hashlib.sha256(data).hexdigest(),
        head.width,
        head.height,
        head.mode,
        head.format,
        head.orientation,
        len(data),
    )
    return good, pixels


def _look_at_row(uri: str, row: Pixels, plan: Preprocess) -> tuple[Scan, Pixels | None]:
    row = np.ascontiguousarray(row)
    sha256 = hashlib.sha256(row.tobytes()).hexdigest()
    try:
        pixels = preprocess.canvas(row, plan)
    except preprocess.PictureError as error:
        return Scan(uri, sha256, bytes=row.nbytes, kind="unreadable", reason=error.reason), None
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[row.shape[2] if row.ndim == 3 else 1]
    return Scan(uri, sha256, row.shape[1], row.shape[0], mode, "NPY", bytes=row.nbytes), pixels


def _arrays(root: Path, uris: Iterable[str]) -> dict[str, Pixels]:
    """The packed arrays that uris name rows of, mapped, not read."""
    arrays = {}
    for name in {uri.rpartition("#")[0] for uri in uris if ".npy#" in uri}:
        try:
            arrays[name] = np.load(root / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            message = f"{root / name} is no array that can be read: {error}"
            raise DataError(message, where=str(root / name), remedy="Delete its folder and get it again.") from error
    return arrays


# --- all files ----------------------------------------------------------------------------------------

_ROTATED = (
    "stored lying or mirrored, with a note (EXIF) on how to turn it: turned upright here, in training and on the "
    "website; nothing to do"
)


def _ordered(found: Iterable[Fault]) -> tuple[Fault, ...]:
    order = {kind: place for place, kind in enumerate(KINDS)}
    return tuple(sorted(found, key=lambda fault: (order.get(fault.kind, len(order)), fault.items)))


def _by_reason(found: Iterable[tuple[str, str, str]]) -> Iterator[Fault]:
    """(kind, reason, uri) gathered into one fault per reason."""
    gathered: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, reason, uri in found:
        gathered[kind, reason].append(uri)
    for (kind, reason), uris in gathered.items():
        yield Fault(kind=kind, severity=KINDS[kind], reason=reason, items=tuple(sorted(uris)))


def _copies(scans: Sequence[Scan], labels: Sequence[str], splits: Sequence[str]) -> Iterator[Fault]:
    """One fault per content that is there more than once."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, found in enumerate(scans):
        if found.sha256 and not found.kind:
            places[found.sha256].append(index)
    for same in places.values():
        if len(same) == 1:
            continue
        names = sorted({labels[index] for index in same})
        sides = sorted({splits[index] for index in same} - {""})
        kind = "duplicate" if len(names) == 1 else "label_conflict"
        reason = _same_label(len(same), names[0], sides) if len(names) == 1 else _two_labels(names)
        items = tuple(sorted(scans[index].uri for index in same))
        yield Fault(kind=kind, severity=KINDS[kind], reason=reason, items=items)


def _same_label(count: int, label: str, sides: Sequence[str]) -> str:
    said = f'the same file {count} times in "{label}"'
    if len(sides) > 1:
        return f"{said}, in {_listed(sides)}: it flatters the score; delete all but one"
    return f"{said}: delete all but one (meanwhile all stay in one split, so no score is flattered)"


def _two_labels(names: Sequence[str]) -> str:
    quoted = _listed([f'"{name}"' for name in names])
    return f"the same file under {quoted}: delete it where it is wrong"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _classes(scans: Sequence[Scan], labels: Sequence[str], classes: Sequence[str]) -> Iterator[Fault]:
    """Classes with too little to learn from, counted without what is left out and without copies."""
    bad = conflicting(scans, labels)
    contents: dict[str, set[str]] = {label: set() for label in (*classes, *labels)}
    for found, label in zip(scans, labels, strict=True):
        if not found.kind and found.sha256 not in bad:
            contents[label].add(found.sha256 or found.uri)
    listed = Counter(labels)
    for label in sorted(contents):
        count = len(contents[label])
        if count >= SMALL:
            continue
        items = tuple(sorted(found.uri for found, mine in zip(scans, labels, strict=True) if mine == label))
        if count == 0:
            why = f"none of its {listed[label]} files can be used" if listed[label] else "it has no pictures"
            reason = f'the class "{label}" is empty ({why}): add pictures or delete the folder'
            yield Fault(kind="empty_class", severity=KINDS["empty_class"], reason=reason, items=items or (label,))
        else:
            reason = (
                f'the class "{label}" has {count} different picture{"s" * (count > 1)}: too few to learn from and to '
                f"test with; add at least {SMALL - count}, better 20"
            )
            yield Fault(kind="small_class", severity=KINDS["small_class"], reason=reason, items=items)


def _junk_reason(uri: str) -> str:
    if listing.is_junk(PurePosixPath(uri).name):
        return "left by an operating system or a program: ignored; delete it if you like"
    return "not a picture by its name: ignored; move it out of the data, or rename it if it is one"


def _odd(found: Scan) -> Iterator[str]:
    """What is unusual about a good picture, and how it is handled."""
    mode, ending = found.mode, PurePosixPath(found.uri).suffix.casefold()
    if mode.endswith(("+alpha", "A", "a")):
        yield "partly transparent: put on white; nothing to do"
    elif mode in {"P", "1"}:
        yield f"{'palette colours' if mode == 'P' else 'black and white only'}: read as any other; nothing to do"
    if mode.startswith(("I", "F")):
        yield "more than 8 bits per colour: scaled to 8 bits; nothing to do"
    elif mode in {"CMYK", "LAB", "HSV", "YCbCr"}:
        yield f"{mode} colours, made for print: read as RGB; colours may differ a little from those of a viewer"
    if ending in _KNOWN_ENDINGS and ending not in _ENDINGS.get(found.format, (ending,)):
        yield f"a {found.format} file under a {ending} name: read by what it is; rename it for other programs"
