"""Near duplicates: the same picture saved again, made smaller or larger, mirrored, or with its edges cut off.

Perceptual hashes with one threshold find thousands of false twins among digits. Here two pictures are twins when they
are alike in absolute terms *and* much more alike than the pictures around them: in a dense class that asks for more.
Only brightness patterns count, so a change of contrast hides no twin. Everything is numpy on the thumbs of the scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inflame.artifact.thumbs import SIDE

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]

# Chosen on MNIST, Fashion-MNIST, clothes and butterflies: twins saved as JPEG of quality 30, at 0.7 and 2 times the
# size, lie below 2.4 and 0.4; of 10,000 different digits two pairs lie below both limits.
ALIKE = 2.6  # grey levels (root mean square) between patterns of contrast 30
RATIO = 0.45  # of the distance to the pictures around
AROUND = 4  # which neighbour says how far "around" is, not counting those that are alike
MIRRORED_UP_TO = 20_000  # pictures among which mirrored twins are looked for

_NOTE, _BLUR = 16, 1.5  # a pattern is 16 x 16 values of the thumb, blurred by so many pixels
_FLAT = 2.0  # grey levels: a picture with less contrast is blank, and like any other blank one
_SKETCH = 32  # principal components by which candidates are found
_BLOCK = 1024
_MOST = 40  # candidates of one picture that are looked at
_SAMPLE = 20_000  # pictures that stand for all when distances around are measured
_RESOLUTIONS = 24  # different sizes below that of a thumb that are told apart

NONE: Ints = np.zeros((0, 2), dtype=np.int64)


def pairs(thumbs: Pixels, sizes: NDArray[np.int64] | None = None, *, mirrored: bool = True) -> Ints:
    """The near duplicates among pictures: rows int64 [M,2], first < second, sorted; pictures that are the same byte
    for byte are chained to the first of them.

    thumbs: uint8 [N,32,32], the whole pictures squashed (`thumbs.grey`). sizes: int64 [N,2], width and height of the
    pictures: with it, one that has fewer pixels than a thumb is compared at its own resolution. Blank pictures are
    nobody's twins. Takes about 2 s for 10,000 pictures on one core; nothing here depends on labels.
    """
    if len(thumbs) < 2:
        return NONE
    first, same = _identical(thumbs)
    small = thumbs[first]
    found = [_search(_patterns(small), None, mirrored and len(small) <= MIRRORED_UP_TO)]
    if sizes is not None:
        found += _coarse(small, np.asarray(sizes)[first])
    found = [first[part] for part in found] + [same]
    together = np.sort(np.concatenate(found), axis=1)
    together = together[together[:, 0] != together[:, 1]]
    return np.unique(together, axis=0) if len(together) else NONE


def clusters(links: Ints, count: int) -> Ints:
    """The cluster of each of `count` rows, int64 [count], by the lowest row in it: linked rows share one."""
    lowest = np.arange(count)
    while len(links):
        before = lowest.copy()
        least = np.minimum(lowest[links[:, 0]], lowest[links[:, 1]])
        np.minimum.at(lowest, links[:, 0], least)
        np.minimum.at(lowest, links[:, 1], least)
        lowest = lowest[lowest]
        if np.array_equal(lowest, before):
            break
    return lowest


# --- patterns ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Vectors [N, 256] of one length, and the rows without contrast; `mirrored` are those of the mirror image."""

    values: Floats
    flat: NDArray[np.bool_]

    def mirrored(self) -> Floats:
        return np.ascontiguousarray(self.values.reshape(-1, _NOTE, _NOTE)[:, :, ::-1].reshape(self.values.shape))


def _patterns(thumbs: Pixels, degrade: tuple[Floats, Floats] | None = None) -> _Patterns:
    """The brightness patterns of thumbs. `degrade`: matrices [32,32] (down the rows, along them) applied before."""
    down, right = _smoothing(), _smoothing()
    if degrade is not None:
        down, right = down @ degrade[0], right @ degrade[1]
    values = np.empty((len(thumbs), _NOTE * _NOTE), dtype=np.float32)
    for start in range(0, len(thumbs), _BLOCK * 4):
        part = thumbs[start : start + _BLOCK * 4].astype(np.float32)
        values[start : start + len(part)] = (down @ part @ right.T).reshape(len(part), -1)
    values -= values.mean(1, keepdims=True)
    length = np.sqrt((values**2).mean(1, keepdims=True))
    values *= 30 / np.maximum(length, _FLAT)
    return _Patterns(values, length[:, 0] < _FLAT)


def _smoothing() -> Floats:
    """The matrix [16,32] that blurs and takes every second value."""
    centres = (np.arange(_NOTE) + 0.5) * (SIDE / _NOTE) - 0.5
    weights = np.exp(-0.5 * ((np.arange(SIDE) - centres[:, None]) / _BLUR) ** 2)
    found: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return found


def _identical(thumbs: Pixels) -> tuple[Ints, Ints]:
    """The first row of each different thumb, and links [M,2] from it to those that are the same."""
    rows = np.ascontiguousarray(thumbs.reshape(len(thumbs), -1)).view(f"V{thumbs[0].size}").ravel()
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    leader = first[which]
    others = np.flatnonzero(leader != np.arange(len(thumbs)))
    keep = thumbs.reshape(len(thumbs), -1)[others].std(1) >= _FLAT
    return np.sort(first), np.stack([leader[others], others], axis=1)[keep].astype(np.int64)


def _coarse(thumbs: Pixels, sizes: NDArray[np.int64]) -> Iterator[Ints]:
    """Twins of pictures with fewer pixels than a thumb: the others are looked at with as few."""
    if not len(sizes) or (sizes == sizes[0]).all():
        return
    small = sizes.min(1) < SIDE
    kinds, counts = np.unique(sizes[small], axis=0, return_counts=True)
    for width, height in kinds[np.argsort(-counts)][:_RESOLUTIONS]:
        if width < 4 or height < 4:
            continue
        own = np.flatnonzero((sizes == (width, height)).all(1))
        larger = (sizes > (width, height)).any(1)
        if larger.any():
            patterns = _patterns(thumbs, (_through(int(height)), _through(int(width))))
            links = _search(patterns, own, mirrored=False)
            either = np.asarray(np.asarray(larger)[links].any(1))
            yield links[either]


def _through(pixels: int) -> Floats:
    """The matrix [32,32] that makes a row of a thumb as coarse as one of so many pixels."""
    if pixels >= SIDE:
        return np.eye(SIDE, dtype=np.float32)
    found: Floats = _triangles(pixels, SIDE) @ _triangles(SIDE, pixels)
    return found


def _triangles(source: int, target: int) -> Floats:
    """The matrix [target, source] of a bilinear resize."""
    scale = source / target
    width = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(source) + 0.5 - centres[:, None]) / width)
    found: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return found


# --- searching -----------------------------------------------------------------------------------------------


def _search(patterns: _Patterns, own: Ints | None, mirrored: bool) -> Ints:
    """Pairs of rows that are alike, and more alike than what is around; `own`: at least one of them is in it."""
    values = patterns.values
    links = _near(values, values, own)
    if mirrored:
        links = np.concatenate([links, _near(patterns.mirrored(), values, own)])
    links = links[~patterns.flat[links].any(1)]
    if not len(links):
        return NONE
    distance = _distances(values, links, mirrored)
    rows, place = np.unique(links, return_inverse=True)
    around = _around(values, rows, mirrored)[place.reshape(links.shape)].min(1)
    kept: Ints = links[distance <= RATIO * around]
    return kept


def _near(left: Floats, right: Floats, own: Ints | None) -> Ints:
    """All pairs i < j (i of left, j of right, the same pictures) at most `ALIKE` apart: rows int64 [M,2].

    Along the first principal component twins are no further apart than in all, so with rows in its order only a
    stretch has to be compared; in the first 32 components first, whole only where those are near enough.
    """
    limit = ALIKE * _NOTE
    axes = _principal(right)
    a, b = left @ axes, right @ axes
    order = np.argsort(b[:, 0], kind="stable")
    sorted_b = np.ascontiguousarray(b[order])
    starts = sorted_b[:, 0]
    rows = np.argsort(a[:, 0], kind="stable") if own is None else own[np.argsort(a[own, 0], kind="stable")]
    found = []
    for start in range(0, len(rows), _BLOCK):
        mine = rows[start : start + _BLOCK]
        low, high = np.searchsorted(starts, (a[mine[0], 0] - limit, a[mine[-1], 0] + limit))
        theirs = sorted_b[low:high]
        squares = (a[mine] ** 2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * (a[mine] @ theirs.T)
        close = np.argwhere(squares <= limit**2 * 1.001)
        close = _few(close, squares)
        links = np.stack([mine[close[:, 0]], order[low:high][close[:, 1]]], axis=1)
        links = links[links[:, 0] != links[:, 1]]
        gaps = ((left[links[:, 0]] - right[links[:, 1]]) ** 2).sum(1)
        found.append(links[gaps <= limit**2])
    links = np.sort(np.concatenate(found), axis=1) if found else NONE
    return np.unique(links, axis=0).astype(np.int64) if len(links) else NONE


def _few(close: NDArray[np.intp], squares: Floats) -> NDArray[np.intp]:
    """At most `_MOST` candidates of each row, the nearest, so that a thousand nearly equal pictures are no trouble."""
    if len(close) <= _MOST * len(squares):
        return close
    nearest = np.argpartition(squares, min(_MOST, squares.shape[1] - 1), axis=1)[:, :_MOST]
    rows = np.repeat(np.arange(len(squares)), nearest.shape[1])
    return np.stack([rows, nearest.ravel()], axis=1)


def _principal(values: Floats) -> Floats:
    """The first principal axes [256, 32] of (a sample of) the patterns."""
    sample = values[:: max(1, len(values) // _SAMPLE)]
    _, axes = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    return np.ascontiguousarray(axes[:, ::-1][:, :_SKETCH]).astype(np.float32)


def _distances(values: Floats, links: Ints, mirrored: bool) -> Floats:
    one, other = values[links[:, 0]], values[links[:, 1]]
    found: Floats = np.sqrt(((one - other) ** 2).mean(1))
    if mirrored:
        turned = other.reshape(-1, _NOTE, _NOTE)[:, :, ::-1].reshape(other.shape)
        found = np.minimum(found, np.sqrt(((one - turned) ** 2).mean(1)))
    return found


def _around(values: Floats, rows: Ints, mirrored: bool) -> Floats:
    """How far the pictures around each of the rows are: the distance to the fourth that isn't alike. float32."""
    step = max(1, len(values) // _SAMPLE)
    sample = values[::step]
    rank = max(1, AROUND // step)
    found = np.full(len(rows), np.inf, dtype=np.float32)
    squares = (sample**2).sum(1)
    for start in range(0, len(rows), _BLOCK):
        part = values[rows[start : start + _BLOCK]]
        gaps = _gaps(part, sample, squares)
        if mirrored:
            turned = part.reshape(-1, _NOTE, _NOTE)[:, :, ::-1].reshape(part.shape)
            gaps = np.minimum(gaps, _gaps(turned, sample, squares))
        gaps[gaps <= ALIKE] = np.inf
        if gaps.shape[1] <= rank:  # so few pictures that all of them are around
            gaps = np.sort(gaps, axis=1)
            found[start : start + len(part)] = gaps[:, 0]
            continue
        nearest = np.partition(gaps, rank - 1, axis=1)[:, :rank]
        beyond = np.where(np.isfinite(nearest), nearest, -np.inf).max(1)
        found[start : start + len(part)] = np.where(np.isfinite(beyond), beyond, np.inf)
    return found


def _gaps(part: Floats, sample: Floats, squares: Floats) -> Floats:
    gaps: Floats = (part**2).sum(1)[:, None] + squares - 2 * (part @ sample.T)
    return (np.sqrt(np.maximum(gaps, 0, out=gaps), out=gaps) / _NOTE).astype(np.float32)
