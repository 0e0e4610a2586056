"""Pictures as vectors: simple descriptors of thumbs, and what pretrained bodies say, kept on disk by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inflame import host, store
from inflame.artifact import preprocess, thumbs
from inflame.artifact.contents import Contents
from inflame.errors import DataError, StorageError
from inflame.records import Dataset, Preprocess

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]

BATCH = 256
_TURNS, _CELLS = 8, 8  # directions of an edge, and cells along a side
_COLOUR = 0.054  # weight of a colour beside the edges, so that both count about alike


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


def described(small: Pixels) -> Floats:
    """Simple descriptors of thumbs (uint8 [N, thumbs.BYTES]): where edges of which direction are (Dalal and Triggs,
    2005), and colours; float32 [N, 8·8·8 + 8·8·3]. For digits and clothes as good as a small net, and free."""
    if not len(small):
        return np.zeros((0, 1), dtype=np.float32)
    return np.concatenate([_described(small[start : start + BATCH]) for start in range(0, len(small), BATCH)])


def _described(small: Pixels) -> Floats:
    grey = thumbs.grey(small).astype(np.float32)
    along, down = np.zeros_like(grey), np.zeros_like(grey)
    along[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    strength = np.hypot(along, down)
    turn = np.arctan2(down, along) % (2 * np.pi) / (2 * np.pi) * _TURNS
    below = np.floor(turn).astype(np.int64)
    share = turn - below
    edges = np.zeros((len(grey), _TURNS, thumbs.SIDE, thumbs.SIDE), dtype=np.float32)
    item, row, column = np.ogrid[: len(grey), : thumbs.SIDE, : thumbs.SIDE]
    edges[item, below % _TURNS, row, column] = strength * (1 - share)
    edges[item, (below + 1) % _TURNS, row, column] += strength * share
    step = thumbs.SIDE // _CELLS
    cells = edges.reshape(len(grey), _TURNS, _CELLS, step, _CELLS, step).sum((3, 5)).reshape(len(grey), -1)
    cells = np.sqrt(cells / np.maximum(cells.sum(1, keepdims=True), 1))
    colours = thumbs.colours(small).reshape(len(small), -1).astype(np.float32) / 255
    found: Floats = np.concatenate([cells, _COLOUR * colours], axis=1)
    return found


def embedded(
    dataset: Dataset,
    rows: Ints,
    embed: Embed,
    squares: Sequence[Pixels] | None = None,
    progress: Progress | None = None,
) -> Floats:
    """What `embed` says of these rows (each has a sha256): float32 [len(rows), D]. Contents that were seen before
    aren't looked at again. squares: uint8 [S,S,3] of each row, else they are decoded."""
    place = _place(dataset.root, embed)
    hashes = dataset.items["sha256"].take(rows).to_pylist()
    known, kept = _recalled(place)
    missing = [number for number, sha256 in enumerate(hashes) if sha256 not in known]
    if missing:
        fresh = _fresh(dataset, rows[missing], embed, squares, progress)
        new: dict[str, int] = {}  # one row for equal contents
        for row, number in enumerate(missing):
            new.setdefault(hashes[number], row)
        known |= {sha256: len(known) + number for number, sha256 in enumerate(new)}
        kept = np.concatenate([kept if len(kept) else fresh[:0], fresh[list(new.values())]])
        _remember(place, known, kept)
    return kept[[known[sha256] for sha256 in hashes]]


def _fresh(
    dataset: Dataset, rows: Ints, embed: Embed, squares: Sequence[Pixels] | None, progress: Progress | None
) -> Floats:
    parts = []
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        kept = [] if squares is None else [squares[row] for row in some.tolist()]
        ready = bool(kept) and all(square.shape[:1] == (embed.size,) for square in kept)
        parts.append(embed(np.stack(kept) if ready else _decoded(dataset, some, embed.size)))
        if progress is not None:
            progress(min(start + BATCH, len(rows)), len(rows))
    whole = np.concatenate(parts).astype(np.float32, copy=False)
    return whole.reshape(len(whole), -1)


def _decoded(dataset: Dataset, rows: Ints, size: int) -> Pixels:
    """The squares of these rows, uint8 [n,size,size,3]; black for one that was damaged since it was scanned."""
    source, plan = Contents(dataset.root), Preprocess(size=size, resize=size)
    uris = dataset.items["uri"].take(rows).to_pylist()

    def decode(uri: str) -> Pixels:
        try:
            packed, _, row = uri.rpartition("#")
            if packed.endswith(".npy"):
                array = np.load(Path(dataset.root) / packed, mmap_mode="r", allow_pickle=False)
                return preprocess.canvas(np.ascontiguousarray(array[int(row)]), plan)
            return preprocess.canvas(source.read(uri), plan)
        except (DataError, OSError, ValueError, IndexError):
            return np.zeros((size, size, 3), np.uint8)

    with ThreadPoolExecutor(host.cores()) as pool:
        return np.stack(list(pool.map(decode, uris)))


# --- what is kept --------------------------------------------------------------------------------------------


def _place(root: str, embed: Embed) -> Path:
    key = hashlib.sha256(f"{root}\0{embed.name}\0{embed.size}".encode()).hexdigest()[:24]
    return store.home() / "cache" / "features" / f"check-{key}"


def _recalled(place: Path) -> tuple[dict[str, int], Floats]:
    """sha256 → row, and the rows; nothing where nothing was kept, or what was is damaged."""
    with suppress(OSError, ValueError):
        names = (place / "sha256.txt").read_text().split()
        kept = np.load(place / "features.npy", allow_pickle=False)
        if len(names) == len(kept) == len(set(names)):
            return {name: row for row, name in enumerate(names)}, kept
    return {}, np.zeros((0, 0), dtype=np.float32)


def _remember(place: Path, known: dict[str, int], kept: Floats) -> None:
    with suppress(StorageError), store.atomic_folder(place) as folder:
        (folder / "sha256.txt").write_text("\n".join(known))
        np.save(folder / "features.npy", kept, allow_pickle=False)
