"""What kind of pictures these are, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inflame.artifact import packed
from inflame.artifact import preprocess as decoder
from inflame.artifact.contents import Contents
from inflame.plugins import names
from inflame.records import Dataset

CANVAS = 256  # photos are decoded to squares of this side, in pixels
SMALL = 64  # pictures up to this side are learnt from scratch
SCRATCH = 64  # side to which photos are shrunk when there is no pretrained net
LOOKED_AT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """`small`: learn from scratch, on pictures of `side` pixels and `channels` colours."""

    small: bool
    side: int
    channels: int
    middle: int  # side of the pictures as they are, the median


def may_be_photos(data: str) -> bool:
    """Whether `data` is worth decoding to photo squares while it is read for the first time."""
    return data not in names("source") or data in ("clothing", "butterflies", "fowl")


def look(dataset: Dataset) -> Road:
    """Looks at a sample of the pictures: their middle size, and whether all are grey."""
    if packed.is_packed(dataset):
        array = packed.images(dataset)
        largest, least = max(array.shape[1:3]), min(array.shape[1:3])
        return Road(small=largest <= SMALL, side=_even(least), channels=_channels(array), middle=least)
    step = max(1, len(dataset) // LOOKED_AT)
    uris = dataset.items["uri"].to_pylist()[::step]
    source = Contents(dataset.root)
    heads = [decoder.header(source.read(uri)) for uri in uris]
    side = int(np.median([min(head.width, head.height) for head in heads]))
    grey = all(head.mode in ("1", "L", "I;16", "LA") for head in heads)
    return Road(small=side <= SMALL, side=_even(min(side, SMALL)), channels=1 if grey else 3, middle=side)


def shrunk(road: Road) -> Road:
    """The road for photos without a pretrained net."""
    return replace(road, small=True, side=SCRATCH)


def _channels(array: np.ndarray) -> int:
    return 1 if array.ndim == 3 or array.shape[-1] == 1 else 3


def _even(side: int) -> int:
    """A side that can be halved; tiny pictures are enlarged, for nets need some room."""
    return max(16, side + side % 2)
