"""The whole examination of a data set: what one pass over the files tells, and what only features can say.

Everything is kept by content (features, and the result itself), so a second examination of an unchanged set takes as
long as listing it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inflame import store
from inflame.artifact import checks, packed, preprocess, prose, shortcuts, suspects, texts, thumbs, twins
from inflame.artifact.contents import Contents
from inflame.artifact.scanning import Scan
from inflame.errors import StorageError
from inflame.records import Check, Dataset, Fault, Preprocess, dumps

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]

_FORMAT = 1  # of what is kept: a change of the checks makes it old
_SMALL = 64  # pictures up to this side are judged by their pixels, not by a net for photos
_SAMPLE = 800  # pictures on which bodies are compared
_AT_ONCE = 10_000  # pictures whose squares are kept in memory while the files are read for the first time
_BATCH = 256
_FLAT, _DARK = 2.0, 14  # grey levels: deviation of a blank picture, 98th percentile of a dark one


class Embed(Protocol):
    """Features of pictures: uint8 [N,size,size,3] → float32 [N,D]. The same `name`, the same features."""

    @property
    def name(self) -> str:
        """What tells it from others."""

    @property
    def size(self) -> int:
        """The side of its squares."""

    def __call__(self, squares: Pixels) -> Floats:
        """The features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was found, the items that were looked at (also the bad ones), and their features float32 [N,D] (zero for
    bad ones); row i is item i."""

    check: Check
    dataset: Dataset
    features: Floats


def examine(
    data: str | Path, *, progress: Progress | None = None, embed: Embed | Sequence[Embed] | None = None
) -> Examined:
    """See `checks.examine`."""
    from inflame.artifact import manifest

    began = time.perf_counter()
    listed = manifest.listed(data)
    embeds = [] if embed is None else list(embed) if isinstance(embed, Sequence) else [embed]
    seen = _seen(listed, progress, embeds)
    hashes = pa.array([scan.sha256 for scan in seen.scans], pa.string())
    items = listed.items.set_column(listed.items.schema.get_field_index("sha256"), "sha256", hashes)
    dataset = Dataset(**{**_fields(listed), "items": items})
    place = _place(dataset, embeds)
    kept = _recalled(place)
    if kept is None:
        kept = _judged(dataset, seen, embeds)
        _remember(place, *kept)
    faults, features = kept
    check = Check(
        dataset=listed.name,
        items=len(listed),
        classes=len(set(listed.items["label"].to_pylist())),
        faults=checks.ordered((*listed.faults, *faults)),
        seconds=round(time.perf_counter() - began, 3),
    )
    return Examined(check=check, dataset=dataset, features=features)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the pass over the files gave; `squares` only when all files were read just now."""

    scans: list[Scan]
    small: Pixels
    squares: Pixels | None = None


def _seen(listed: Dataset, progress: Progress | None, embeds: Sequence[Embed]) -> _Seen:
    from inflame.artifact import manifest

    if packed.is_packed(listed):
        return _packed(listed)
    wanted = bool(embeds) and listed.kind == "image" and len(listed) <= _AT_ONCE
    size = embeds[0].size if wanted else 0
    reading = manifest._read(listed, progress, Preprocess(size=size, resize=size) if wanted else None)
    return _Seen(reading.scans, reading.small, reading.squares)


def _packed(listed: Dataset) -> _Seen:
    images = packed.images(listed)
    uris, hashes = listed.items["uri"].to_pylist(), listed.items["sha256"].to_pylist()
    rows = np.array([int(uri.rpartition("#")[2]) for uri in uris])
    height, width = images.shape[1:3]
    mode = "L" if images.ndim == 3 or images.shape[3] == 1 else "RGB"
    scans = [Scan(uri, sha256, width, height, mode, "NPY") for uri, sha256 in zip(uris, hashes, strict=True)]
    plain = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    return _Seen(scans, thumbs.of_arrays(plain[rows]))


def _fields(listed: Dataset) -> dict[str, object]:
    return {name: getattr(listed, name) for name in Dataset.__dataclass_fields__}


def _judged(dataset: Dataset, seen: _Seen, embeds: Sequence[Embed]) -> tuple[tuple[Fault, ...], Floats]:
    labels, splits = (dataset.items[name].to_pylist() for name in ("label", "split"))
    good = np.array([row for row, scan in enumerate(seen.scans) if not scan.kind], dtype=np.int64)
    if dataset.kind == "text":
        features, links, more = _of_texts(dataset, seen, good)
    else:
        features, links, more = _of_pictures(dataset, seen, good, embeds)
    uris = dataset.items["uri"].to_pylist()
    found = [
        *checks.faults(Path(dataset.root), uris, labels, seen.scans, (), dataset.classes, splits, links),
        *more,
        *_suspected(seen.scans, labels, features, good, links),
        *shortcuts.imbalance([labels[row] for row in good]),
        *shortcuts.shortcuts(seen.scans, labels, None if dataset.kind == "text" else thumbs.colours(seen.small)),
    ]
    whole = np.zeros((len(labels), features.shape[1]), dtype=np.float32)
    whole[good] = features
    if packed.is_packed(dataset):  # nothing of an official set is left out
        found = [
            Fault(**{**fault.to_json(), "severity": "warning", "items": fault.items})
            if fault.severity == "error"
            else fault
            for fault in found
        ]
    return tuple(found), whole


# --- pictures ------------------------------------------------------------------------------------------------


def _of_pictures(
    dataset: Dataset, seen: _Seen, good: NDArray[np.int64], embeds: Sequence[Embed]
) -> tuple[Floats, twins.Ints, list[Fault]]:
    """Features of the good ones, near duplicates (rows of all), and what is wrong with single pictures."""
    small = seen.small[good]
    sizes = np.array([(seen.scans[row].width, seen.scans[row].height) for row in good]).reshape(-1, 2)
    links = good[twins.pairs(thumbs.grey(small), sizes)] if len(good) else twins.NONE
    tiny = not len(good) or float(np.median(sizes.min(axis=1))) <= _SMALL
    features = _described(small)
    if embeds and not tiny:
        features = _embedded(dataset, seen, good, embeds)
    return features, links, list(_blank(seen.scans, good, small))


def _described(small: Pixels) -> Floats:
    """Simple descriptors of thumbs: brightness pattern and colours, float32 [N, 16·16 + 8·8·3]."""
    if not len(small):
        return np.zeros((0, 1), dtype=np.float32)
    blocks = thumbs.grey(small).astype(np.float32).reshape(-1, 16, 2, 16, 2)
    grey = blocks.mean(axis=(2, 4)).reshape(len(small), 256)
    colours = thumbs.colours(small).astype(np.float32).reshape(len(small), -1)
    found: Floats = (np.concatenate([grey, 0.5 * colours], axis=1) / 255).astype(np.float32)
    return found


def _embedded(dataset: Dataset, seen: _Seen, good: NDArray[np.int64], embeds: Sequence[Embed]) -> Floats:
    """Features by the body that tells the classes apart best; kept by content."""
    labels = dataset.items["label"].to_pylist()
    chosen = embeds[0]
    if len(embeds) > 1:
        sample = good[:: max(1, len(good) // _SAMPLE)]
        _, given = np.unique([labels[row] for row in sample], return_inverse=True)
        scores = [suspects.separation(_features(dataset, seen, sample, one), given.astype(np.int64)) for one in embeds]
        chosen = embeds[int(np.argmax(scores))]
    return _features(dataset, seen, good, chosen)


def _features(dataset: Dataset, seen: _Seen, rows: NDArray[np.int64], embed: Embed) -> Floats:
    key = "\n".join([embed.name, *(seen.scans[row].sha256 for row in rows)])
    place = store.home() / "cache" / "features" / f"check-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    with suppress(OSError, ValueError):
        return np.load(place, allow_pickle=False)  # type: ignore[no-any-return]
    parts = [embed(_squares(dataset, seen, rows[start : start + _BATCH], embed.size)) for start in _starts(rows)]
    found: Floats = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    found = found.reshape(len(found), -1)
    with suppress(StorageError), store.atomic(place) as part, part.open("wb") as file:
        np.save(file, found, allow_pickle=False)
    return found


def _starts(rows: NDArray[np.int64]) -> range:
    return range(0, len(rows), _BATCH)


def _squares(dataset: Dataset, seen: _Seen, rows: NDArray[np.int64], size: int) -> Pixels:
    """uint8 [n,size,size,3]: those of the first reading, or decoded again."""
    if seen.squares is not None and seen.squares.shape[1] == size:
        return seen.squares[rows]
    from concurrent.futures import ThreadPoolExecutor

    from inflame import host

    source, plan = Contents(dataset.root), Preprocess(size=size, resize=size)
    uris = dataset.items["uri"].to_pylist()

    def decode(row: int) -> Pixels:
        try:
            return preprocess.canvas(source.read(uris[row]), plan)
        except preprocess.PictureError:  # damaged since it was scanned
            return np.zeros((size, size, 3), np.uint8)

    with ThreadPoolExecutor(host.cores()) as pool:
        return np.stack(list(pool.map(decode, rows.tolist())))


def _blank(scans: Sequence[Scan], good: NDArray[np.int64], small: Pixels) -> Iterator[Fault]:
    if not len(small):
        return
    grey = thumbs.grey(small).reshape(len(small), -1)
    flat = grey.std(axis=1) < _FLAT
    dark = ~flat & (np.quantile(grey, 0.98, axis=1) < _DARK)
    for chosen, reason in (
        (flat, "one colour only: nothing to be seen; delete it"),
        (dark, "nearly black: little to be seen; take it again with more light, or delete it"),
    ):
        items = tuple(sorted(scans[row].uri for row in good[chosen]))
        if items:
            yield Fault(kind="blank", severity="warning", reason=reason, items=items)


# --- texts ---------------------------------------------------------------------------------------------------


def _of_texts(dataset: Dataset, seen: _Seen, good: NDArray[np.int64]) -> tuple[Floats, twins.Ints, list[Fault]]:
    source, uris = Contents(dataset.root), dataset.items["uri"].to_pylist()
    bodies = [texts.decode(source.read(uris[row]))[0] for row in good]
    words = [texts.words(body) for body in bodies]
    sketch = prose.sketches(words)
    links = good[prose.pairs(words, sketch)] if len(good) else twins.NONE
    return sketch, links, list(prose.faults([uris[row] for row in good], bodies, words))


# --- labels --------------------------------------------------------------------------------------------------


def _suspected(
    scans: Sequence[Scan], labels: Sequence[str], features: Floats, good: NDArray[np.int64], links: twins.Ints
) -> Iterator[Fault]:
    """Labels that a model which hadn't seen them doesn't believe, by what it believes; and what is like nothing."""
    if not len(good):
        return
    names, given = np.unique([labels[row] for row in good], return_inverse=True)
    groups = twins.clusters(links, len(scans))[good]
    judged = suspects.labels(features, given.astype(np.int64), groups)
    if judged is not None:
        doubted: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
        for row in np.flatnonzero(judged.wrong >= suspects.WRONG).tolist():
            pair = (str(names[given[row]]), str(names[judged.likely[row]]))
            doubted[pair].append((-float(judged.wrong[row]), scans[good[row]].uri))
        for (own, other), found in sorted(doubted.items()):
            reason = f'labelled "{own}", looks like "{other}": look at each, and move what is wrong'
            items = tuple(uri for _, uri in sorted(found))
            yield Fault(kind="suspected_label", severity="warning", reason=reason, items=items)
    strange = suspects.outliers(features, given.astype(np.int64))
    if len(strange):
        items = tuple(scans[good[row]].uri for row in strange)
        reason = "like nothing else here: look whether it belongs to the data at all, else move it out"
        yield Fault(kind="outlier", severity="info", reason=reason, items=items)


# --- what is kept --------------------------------------------------------------------------------------------


def _place(dataset: Dataset, embeds: Sequence[Embed]) -> Path:
    digest = hashlib.sha256(json.dumps([_FORMAT, dataset.root, [embed.name for embed in embeds]]).encode())
    for name in ("uri", "label", "split", "sha256"):
        digest.update("\n".join(dataset.items[name].to_pylist()).encode())
    return store.home() / "cache" / "checks" / digest.hexdigest()[:24]


def _recalled(place: Path) -> tuple[tuple[Fault, ...], Floats] | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        faults = tuple(Fault.from_json(fault) for fault in json.loads((place / "faults.json").read_text()))
        return faults, np.load(place / "features.npy", allow_pickle=False)
    return None


def _remember(place: Path, faults: Sequence[Fault], features: Floats) -> None:
    with suppress(StorageError), store.atomic_folder(place) as folder:
        (folder / "faults.json").write_text(dumps([fault.to_json() for fault in faults]), encoding="utf-8")
        np.save(folder / "features.npy", features, allow_pickle=False)
