"""Which new things are nearly items that are held out, and which are nearly each other: for a set that grows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inflame.artifact import contents, index, prose, scanning, texts, thumbs, twins
from inflame.records import Dataset

Progress = Callable[[int, int], None]
Pixels = NDArray[np.uint8]
New = Sequence[tuple[bytes, str]]  # bytes and suffix of each


def akin(
    dataset: Dataset, held: pa.Table, new: New, progress: Progress | None = None
) -> tuple[dict[int, set[str]], twins.Ints, dict[int, str]]:
    """The splits of the held-out items that each new thing is nearly, by its place; pairs of new things that are nearly
    the same, int64 [M,2]; and of those that can't be used the reason, by place."""
    if not new:
        return {}, twins.NONE, {}
    count, wrong = held.num_rows, dict[int, str]()
    if dataset.kind == "text":
        links = _texts(dataset, held, new)
    else:
        links, wrong = _seen(dataset, held, new, progress)
    splits = held["split"].to_pylist()
    beside: dict[int, set[str]] = {}
    for first, second in links.tolist():
        if first < count <= second:
            beside.setdefault(second - count, set()).add(splits[first])
    return beside, links[links[:, 0] >= count] - count, wrong


def known(dataset: Dataset, items: pa.Table) -> tuple[list[scanning.Scan | None], Pixels]:
    """What an earlier reading of these items found."""
    return index.recall(f"{dataset.root}\0{dataset.name}", contents.stated(items, dataset.root))


def _texts(dataset: Dataset, held: pa.Table, new: New) -> twins.Ints:
    read = contents.Contents(dataset.root).read
    told = [read(uri) for uri in held["uri"].to_pylist()] + [content for content, _ in new]
    words = [texts.words(texts.decode(content)[0]) for content in told]
    return prose.pairs(words, prose.sketches(prose.count(words)))


def _seen(dataset: Dataset, held: pa.Table, new: New, progress: Progress | None) -> tuple[twins.Ints, dict[int, str]]:
    scans, small = known(dataset, held)
    lacking = [row for row, scan in enumerate(scans) if scan is None]
    uris = held["uri"].to_pylist()
    part = thumbs.empty(len(lacking))
    read = scanning.scan(dataset.root, [uris[row] for row in lacking], small=part, progress=progress)
    for row, scan in zip(lacking, read, strict=True):
        scans[row] = scan
    small[lacking] = part
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"{place}{suffix}" for place, (_, suffix) in enumerate(new)]
        for name, (content, _) in zip(names, new, strict=True):
            (folder / name).write_bytes(content)
        mine = thumbs.empty(len(new))
        looked = scanning.scan(folder, names, small=mine)
    sizes = np.array([(scan.width, scan.height) for scan in (*scans, *looked) if scan is not None], dtype=np.int64)
    links = twins.pairs(thumbs.grey(np.concatenate([small, mine])), sizes.reshape(-1, 2))
    return links, {place: f"can't be used: {scan.reason}" for place, scan in enumerate(looked) if scan.kind}
