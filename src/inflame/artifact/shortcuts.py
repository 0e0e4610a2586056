"""What would let a model be right for the wrong reason, or be judged wrongly: cues beside the content, unequal classes.

Each cue is tried alone: how often does it tell the label of items it hasn't seen? A file's size, a camera or a
background colour that does is how the data were gathered, not what they show (Geirhos et al., 2020, shortcut
learning).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from inflame.artifact.scanning import Scan
from inflame.records import Fault

Ints = NDArray[np.int64]

FEWEST = 40  # items below which a cue is not judged
TELLING = 0.5  # share of the way from the majority to always right from which a cue is told
COLOUR = 0.75  # the same for colours, which may well be part of what is shown
UNEQUAL = 10  # times the items of the smallest class

_BINS, _FOLDS = 12, 5
_ADVICE = {
    "file size": "a model may learn the compression; save all files alike",
    "picture size": "a model may learn sharpness or borders; take pictures of one size from one source",
    "file format": "the classes come from different sources; take some of each from every source",
    "camera": "each class was taken with its own camera; take some of each with every camera",
    "file name": "each class has names of its own: add some of each class from every source",
    "mean colour": "the background or the light may give the class away; if so, add items with others",
    "length": "add long and short texts to every class",
}


def shortcuts(scans: Sequence[Scan], labels: Sequence[str], colours: NDArray[np.uint8] | None) -> Iterator[Fault]:
    """A fault for each cue that tells the label by itself. colours: uint8 [N,8,8,3] of the thumbs, or None."""
    rows = [row for row, scan in enumerate(scans) if not scan.kind]
    names, given = np.unique([labels[row] for row in rows], return_inverse=True)
    if len(rows) < FEWEST or len(names) < 2:
        return
    good = [scans[row] for row in rows]
    most = float(np.bincount(given).max() / len(given))
    for cue, columns in _cues(good, colours[rows] if colours is not None else None):
        right = _alone(columns, given.astype(np.int64), len(names))
        gained = (right - most) / (1 - most)
        if gained >= (COLOUR if cue == "mean colour" else TELLING):
            yield Fault(
                kind="shortcut",
                severity="info" if cue == "file name" else "warning",
                reason=f"the {cue} alone tells the class of {right:.0%} of the items (the largest class: {most:.0%}): "
                + _ADVICE[cue],
            )


def imbalance(labels: Sequence[str]) -> Iterator[Fault]:
    """A fault when one class has very many times the items of another."""
    counts = Counter(labels).most_common()
    if len(counts) < 2 or counts[0][1] < UNEQUAL * counts[-1][1]:
        return
    (large, most), (small, least) = counts[0], counts[-1]
    yield Fault(
        kind="imbalance",
        severity="warning",
        reason=f'"{large}" has {most:,} items, "{small}" {least:,}: add to the small classes; read the results class '
        "by class, the overall accuracy hides them",
    )


def _cues(good: Sequence[Scan], colours: NDArray[np.uint8] | None) -> Iterator[tuple[str, list[Ints]]]:
    """Each cue as columns of small whole numbers."""
    text = good[0].format == "TEXT"
    packed = good[0].format == "NPY"
    if text:
        yield "length", [_binned([scan.width for scan in good]), _binned([scan.height for scan in good])]
    elif not packed:
        width, height = (np.array([getattr(scan, side) for scan in good], float) for side in ("width", "height"))
        yield "file size", [_binned([scan.bytes for scan in good])]
        yield "picture size", [_binned(width), _binned(height), _binned(width / np.maximum(height, 1))]
        yield "file format", [_coded([f"{scan.format} {scan.mode}" for scan in good])]
        if sum(bool(scan.camera) for scan in good) > 0.5 * len(good):
            yield "camera", [_coded([scan.camera for scan in good])]
    if not packed and ".npy#" not in good[0].uri and "#" not in good[0].uri:
        yield "file name", [_coded([_pattern(scan.uri) for scan in good])]
    if colours is not None:
        mean = colours.reshape(len(colours), -1, 3).mean(axis=1)
        yield "mean colour", [_binned(mean[:, channel]) for channel in range(3)]


def _pattern(uri: str) -> str:
    """The shape of a file name: `IMG_0123.jpg` is `IMG_9`."""
    return re.sub(r"\d+", "9", PurePosixPath(uri).stem)[:24]


def _binned(values: object) -> Ints:
    """Numbers by which twelfth of all they are in."""
    numbers = np.asarray(values, dtype=float)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return np.searchsorted(edges, numbers, side="right").astype(np.int64)


def _coded(values: Sequence[str]) -> Ints:
    """Words as numbers; those that are rare share one."""
    counts = Counter(values)
    known = {value: number for number, (value, _) in enumerate(counts.most_common(50), 1) if counts[value] > 2}
    return np.array([known.get(value, 0) for value in values], dtype=np.int64)


def _alone(columns: Sequence[Ints], given: Ints, classes: int) -> float:
    """How often the columns tell the class of items not seen: naive Bayes on bins, in five folds."""
    order = np.random.default_rng(0).permutation(len(given))
    fold = np.empty(len(given), dtype=np.int64)
    fold[order[np.argsort(given[order], kind="stable")]] = np.arange(len(given)) % _FOLDS
    right = 0
    for number in range(_FOLDS):
        seen, out = fold != number, fold == number
        score = np.log(np.bincount(given[seen], minlength=classes) + 1.0)[None].repeat(out.sum(), axis=0)
        for column in columns:
            table = np.ones((int(column.max()) + 1, classes))
            np.add.at(table, (column[seen], given[seen]), 1)
            score += np.log(table / table.sum(axis=0))[column[out]]
        right += int((score.argmax(axis=1) == given[out]).sum())
    return right / len(given)
