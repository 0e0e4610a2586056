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

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inflame import store
from inflame.artifact import (
    carve,
    checks,
    features,
    finding,
    grouping,
    packed,
    prose,
    shortcuts,
    survey,
    suspects,
    texts,
    thumbs,
    twins,
)
from inflame.artifact.contents import Contents
from inflame.artifact.features import Embed
from inflame.artifact.scanning import Scan
from inflame.errors import StorageError
from inflame.records import Check, Dataset, Fault, Preprocess, dumps

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]

_FORMAT = 6  # of what is kept: a change of the checks makes it old
_SMALL = 64  # pictures up to this side are judged by their pixels, not by a net for photos
_TINY = 10_000  # so many of those in colour are shown to a net all the same
_SAMPLE = 300  # pictures on which bodies are compared
_FEW = 1_000  # pictures that every body looks at
_AT_ONCE = 10_000  # pictures whose squares are kept in memory while the files are read for the first time
_FLAT, _DARK = 2.0, 14  # grey levels: deviation of a blank picture, 98th percentile of a dark one


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was found, the items that were looked at (also the bad ones), and their features float32 [N,D] (zero for
    bad ones); row i is item i."""

    check: Check
    dataset: Dataset
    features: Floats


def check(data: str | Path, progress: Progress | None = None, embed: Embed | Sequence[Embed] | None = None) -> Check:
    """All faults of a data set, with nothing left out because of them and nothing divided into splits: the `check` of
    `examine`."""
    return examine(data, progress=progress, embed=embed).check


def examine(
    data: str | Path,
    *,
    progress: Progress | None = None,
    embed: Embed | Sequence[Embed] | None = None,
    skip_bad: bool = False,
) -> Examined:
    """All faults of a data set, the items that were looked at, and their features float32 [N,D] (row i is item i).

    `data` is what `opening.open` takes. Files that an earlier pass has seen unchanged aren't read again, and features
    are kept by content. `embed` makes features of pictures (uint8 [N,S,S,3] → float32 [N,D], with `name` and `size`
    S); of several the one is used that tells the classes apart best; without, simple descriptors do.
    `progress(done, all)` counts items. Raises DataError where there is nothing to look at, and for a damaged shard;
    with `skip_bad` that is a fault.
    """
    began = time.perf_counter()
    listed = finding.listed(data, skip_bad=skip_bad)
    embeds = [] if embed is None else list(embed) if isinstance(embed, Sequence) else [embed]
    seen = _seen(listed, progress, embeds)
    hashes = pa.array([scan.sha256 for scan in seen.scans], pa.string())
    items = listed.items.set_column(listed.items.schema.get_field_index("sha256"), "sha256", hashes)
    dataset = Dataset(**{**_fields(listed), "items": items})
    place = _place(dataset, embeds)
    kept = _recalled(place)
    if kept is None:
        kept = _judged(dataset, seen, embeds, progress)
        _remember(place, *kept)
    faults, features = kept
    check = Check(
        dataset=listed.name,
        items=len(listed),
        classes=len(set(listed.items["label"].to_pylist())),
        faults=checks.ordered((*listed.faults, *carve.untrainable(listed.items), *faults)),
        advice=tuple(grouping.advise(listed, str(data), seen.scans, faults)),
        seconds=round(time.perf_counter() - began, 3),
    )
    return Examined(check=check, dataset=dataset, features=features)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the pass over the files gave; `squares` only when all files were read just now."""

    scans: list[Scan]
    small: Pixels
    squares: list[Pixels] | None = None


def _seen(listed: Dataset, progress: Progress | None, embeds: Sequence[Embed]) -> _Seen:
    if packed.is_packed(listed):
        return _packed(listed)
    wanted = bool(embeds) and listed.kind == "image" and len(listed) <= _AT_ONCE
    size = embeds[0].size if wanted else 0
    reading = survey.read(listed, progress, Preprocess(size=size, resize=size) if wanted else None)
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


def _judged(
    dataset: Dataset, seen: _Seen, embeds: Sequence[Embed], progress: Progress | None
) -> tuple[tuple[Fault, ...], Floats]:
    labels, splits = (dataset.items[name].to_pylist() for name in ("label", "split"))
    good = np.array([row for row, scan in enumerate(seen.scans) if not scan.kind], dtype=np.int64)
    judges: list[suspects.Judge] = []
    if dataset.kind == "text":
        views, links, more, judges = _of_texts(dataset, seen, good)
    else:
        views, links, more = _of_pictures(dataset, seen, good, embeds, progress)
    uris = dataset.items["uri"].to_pylist()
    found = [
        *checks.faults(Path(dataset.root), uris, labels, seen.scans, (), dataset.classes, splits, links),
        *more,
        *_suspected(seen.scans, labels, views, judges, good, links),
        *shortcuts.imbalance([labels[row] for row in good]),
        *shortcuts.shortcuts(seen.scans, labels, None if dataset.kind == "text" else thumbs.colours(seen.small)),
    ]
    whole = np.zeros((len(labels), views[0].shape[1]), dtype=np.float32)
    whole[good] = views[0]
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
    dataset: Dataset, seen: _Seen, good: Ints, embeds: Sequence[Embed], progress: Progress | None
) -> tuple[list[Floats], twins.Ints, list[Fault]]:
    """Features of the good ones, near duplicates (rows of all), and what is wrong with single pictures."""
    small = seen.small[good]
    sizes = np.array([(seen.scans[row].width, seen.scans[row].height) for row in good]).reshape(-1, 2)
    links = good[twins.pairs(thumbs.grey(small), sizes)] if len(good) else twins.NONE
    return _views(dataset, seen, good, embeds, progress), links, list(_blank(seen.scans, good, small))


def _views(
    dataset: Dataset, seen: _Seen, good: Ints, embeds: Sequence[Embed], progress: Progress | None
) -> list[Floats]:
    """The features of the good ones, the best first: by the body that tells the classes apart best (of a small set by
    every body), and by simple descriptors. Tiny grey pictures need no net for photos."""
    plain = features.described(seen.small[good])
    sides = [min(seen.scans[row].width, seen.scans[row].height) for row in good]
    tiny = not len(good) or float(np.median(sides)) <= _SMALL
    grey = tiny and all(seen.scans[row].mode == "L" for row in good[:: max(1, len(good) // 100)])
    if not embeds or grey or (tiny and len(good) > _TINY):
        return [plain]
    _, given = np.unique(dataset.items["label"].take(good).to_pylist(), return_inverse=True)
    some = np.arange(0, len(good), max(1, len(good) // _SAMPLE))
    ranked = list(embeds)
    if len(embeds) > 1:
        score = {
            embed.name: suspects.separation(features.embedded(dataset, good[some], embed, seen.squares), given[some])
            for embed in embeds
        }
        ranked.sort(key=lambda embed: -score[embed.name])
    chosen = ranked if len(good) <= _FEW else ranked[:1]
    return [*(features.embedded(dataset, good, one, seen.squares, progress) for one in chosen), plain]


def _blank(scans: Sequence[Scan], good: Ints, small: Pixels) -> Iterator[Fault]:
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


def _of_texts(
    dataset: Dataset, seen: _Seen, good: Ints
) -> tuple[list[Floats], twins.Ints, list[Fault], list[suspects.Judge]]:
    source, uris = Contents(dataset.root), dataset.items["uri"].to_pylist()
    bodies = [texts.decode(source.read(uris[row]))[0] for row in good]
    words = [texts.words(body) for body in bodies]
    counted = prose.count(words)
    sketch = prose.sketches(counted)
    links = good[prose.pairs(words, sketch)] if len(good) else twins.NONE
    found = list(prose.faults([uris[row] for row in good], bodies, words))
    return [sketch], links, found, [prose.bayes(counted)]


# --- labels --------------------------------------------------------------------------------------------------


def _suspected(
    scans: Sequence[Scan],
    labels: Sequence[str],
    views: Sequence[Floats],
    judges: Sequence[suspects.Judge],
    good: Ints,
    links: twins.Ints,
) -> Iterator[Fault]:
    """Labels that a model which hadn't seen them doesn't believe, by what it believes; and what is like nothing."""
    if not len(good):
        return
    names, given = np.unique([labels[row] for row in good], return_inverse=True)
    groups = twins.clusters(links, len(scans))[good]
    judged = suspects.labels(views, given.astype(np.int64), groups, judges)
    if judged is not None:
        doubted: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
        limit = suspects.WRONG_TEXT if judges else suspects.WRONG
        for row in np.flatnonzero(judged.wrong >= limit).tolist():
            pair = (str(names[given[row]]), str(names[judged.likely[row]]))
            doubted[pair].append((-float(judged.wrong[row]), scans[good[row]].uri))
        for (own, other), found in sorted(doubted.items()):
            reason = f'labelled "{own}", looks like "{other}": look at each, and move what is wrong'
            items = tuple(uri for _, uri in sorted(found))
            yield Fault(kind="suspected_label", severity="warning", reason=reason, items=items)
    strange = suspects.outliers(views[0], given.astype(np.int64))
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
