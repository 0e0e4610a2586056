"""Data faults, found before training, in plain words: what is wrong, with which items, what to do.

`faults` judges what one pass over the files tells (scanning.py); what only features can say, near duplicates, likely
wrong labels, outliers, shortcuts, is added in examining.py. Nothing here writes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from inflame.artifact import listing, twins
from inflame.records import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from inflame.artifact.scanning import Scan

KINDS = {  # in the order of a report, with their usual severity
    "unreadable": "error",
    "label_conflict": "error",
    "split_leak": "warning",
    "empty_class": "warning",
    "small_class": "warning",
    "suspected_label": "warning",
    "duplicate": "warning",
    "near_duplicate": "warning",
    "shortcut": "warning",
    "imbalance": "warning",
    "blank": "warning",
    "outlier": "warning",
    "odd_size": "info",
    "rotated": "info",
    "odd_mode": "info",
    "junk": "info",
}
SMALL = 3  # with fewer different pictures a class can't be in train, val and test

TINY, HUGE = 64, 50_000_000  # pixels of the short side; pixels in all

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


def faults(
    root: Path,
    uris: Sequence[str],
    labels: Sequence[str],
    scans: Sequence[Scan],
    junk: Sequence[str] = (),
    classes: Sequence[str] = (),
    splits: Sequence[str] = (),
    links: twins.Ints = twins.NONE,
) -> tuple[Fault, ...]:
    """Everything wrong with a data set that scans tell, errors first; uris, labels, scans (and splits, when folders
    give them) go together, `junk` are files beside the pictures, `classes` all classes, also those without a picture,
    `links` the near duplicates (rows [M,2], `twins.pairs`)."""
    splits = splits or [""] * len(scans)
    found = [
        *_by_reason((s.kind, s.reason, s.uri) for s in scans if s.kind),
        *_by_reason(("junk", _junk_reason(uri), uri) for uri in junk),
        *_copies(scans, labels, splits),
        *_near(scans, labels, splits, links),
        *_leaks(scans, splits, links),
        *_classes(scans, labels, classes),
        *_by_reason(("rotated", _ROTATED, s.uri) for s in scans if not s.kind and s.orientation != 1),
        *_by_reason(("odd_mode", reason, s.uri) for s in scans if not s.kind for reason in _odd(s)),
        *_by_reason(("odd_size", reason, s.uri) for s, reason in _sizes(scans)),
    ]
    return ordered(found)


def conflicting(scans: Sequence[Scan], labels: Sequence[str]) -> set[str]:
    """The sha256 of every content that stands under more than one label."""
    seen: dict[str, str] = {}
    return {s.sha256 for s, label in zip(scans, labels, strict=True) if seen.setdefault(s.sha256, label) != label} - {
        ""
    }


# --- all files ----------------------------------------------------------------------------------------

_ROTATED = (
    "stored lying or mirrored, with a note (EXIF) on how to turn it: turned upright here, in training and on the "
    "website; nothing to do"
)


def ordered(found: Iterable[Fault]) -> tuple[Fault, ...]:
    """Faults in the order of a report."""
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


def _near(scans: Sequence[Scan], labels: Sequence[str], splits: Sequence[str], links: twins.Ints) -> Iterator[Fault]:
    """One fault per cluster of pictures that are nearly the same but not the same file."""
    for rows in _clusters(scans, links):
        if len({scans[row].sha256 for row in rows}) == 1:
            continue  # told as copies already
        names = sorted({labels[row] for row in rows})
        items = tuple(sorted(scans[row].uri for row in rows))
        if len(names) > 1:
            quoted = _listed([f'"{name}"' for name in names])
            reason = f"nearly the same under {quoted}: move or delete what is wrong"
            yield Fault(kind="label_conflict", severity="warning", reason=reason, items=items)
        else:
            reason = f'nearly the same, {len(rows)} times in "{names[0]}": keep one of them'
            yield Fault(kind="near_duplicate", severity=KINDS["near_duplicate"], reason=reason, items=items)


def _leaks(scans: Sequence[Scan], splits: Sequence[str], links: twins.Ints) -> Iterator[Fault]:
    """Items with a twin or copy in another of the splits that the data brings: one fault per pair of splits."""
    if len(set(splits) - {""}) < 2:
        return
    across: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for rows in _clusters(scans, links):
        sides = tuple(sorted({splits[row] for row in rows} - {""}))
        if len(sides) > 1:
            across[sides] += [scans[row].uri for row in rows]
    for sides, items in across.items():
        reason = (
            f"the same or nearly the same in {_listed(sides)}: the score is flattered; delete them from "
            f"{'train' if 'train' in sides else sides[0]}, or divide anew"
        )
        yield Fault(kind="split_leak", severity=KINDS["split_leak"], reason=reason, items=tuple(sorted(items)))


def _clusters(scans: Sequence[Scan], links: twins.Ints) -> Iterator[list[int]]:
    """Rows that belong together, by links or by equal content; two at least."""
    first: dict[str, int] = {}
    copies = [(first.setdefault(s.sha256, row), row) for row, s in enumerate(scans) if s.sha256 and not s.kind]
    equal = np.array([pair for pair in copies if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
    lowest = twins.clusters(np.concatenate([links, equal]), len(scans))
    found: dict[int, list[int]] = defaultdict(list)
    for row, leader in enumerate(lowest.tolist()):
        found[leader].append(row)
    yield from (rows for rows in found.values() if len(rows) > 1)


def _sizes(scans: Sequence[Scan]) -> Iterator[tuple[Scan, str]]:
    """Pictures that are far smaller, larger or longer than the others."""
    good = [s for s in scans if not s.kind and s.format not in ("TEXT", "NPY") and s.height]
    if not good:
        return
    middle = float(np.median([min(s.width, s.height) for s in good]))
    for one in good:
        short, long = sorted((one.width, one.height))
        size = f"{one.width} x {one.height} pixels"
        if short < TINY and short < middle / 4:
            yield one, f"tiny beside the others ({size}): little can be seen on it; add a larger one instead"
        elif long > 10 * short:
            yield (
                one,
                f"very long and narrow ({size}): a square loses most of it; save the part that matters",
            )
        elif short * long > HUGE:
            yield (
                one,
                f"huge ({size}): slow to read; save it smaller, 2,000 pixels a side are enough",
            )


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
    """What is unusual about a good item, and how it is handled."""
    if found.format == "TEXT":
        if found.mode != "utf-8":
            yield f"not UTF-8 but {found.mode}: read as that; save it as UTF-8 for other programs"
        return
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
