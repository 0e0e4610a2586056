"""From entries of the log to samples that can be tested, window by window."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from inflame.model.engine.expected import Expected, Sample
from inflame.monitor.entries import Entry


@functools.lru_cache(maxsize=8)
def expected_of(content: bytes) -> Expected | None:
    """What a model expects, from the `expected.npz` of its bundle; None where that is empty."""
    return Expected.of(content) if content else None


def fits(expected: Expected, entry: Entry) -> bool:
    """Whether the entry was made by a model with these classes, embedding and statistics (or without statistics)."""
    return (
        len(entry.probabilities) == len(expected.class_names)
        and len(entry.embedding) == len(expected.centre)
        and len(entry.seen) in (0, len(expected.names))
    )


def sample(entries: Sequence[Entry], width: int) -> Sample:
    """The entries, one at least and all of one model, as they are tested; `width`: how many statistics there are."""
    unknown = np.full(width, np.nan, np.float32)
    return Sample(
        probabilities=np.stack([entry.probabilities for entry in entries]).astype(np.float32),
        embedding=np.stack([entry.embedding for entry in entries]).astype(np.float32),
        seen=np.stack([entry.seen if len(entry.seen) else unknown for entry in entries]),
        known=np.array([entry.known for entry in entries]),
        kinds=tuple(entry.kind for entry in entries),
    )


def windows(entries: Iterable[Entry], size: int, seconds: float = 0.0) -> Iterator[list[Entry]]:
    """The entries in order, in windows of `size`; with `seconds` a window also ends that long after its first entry.
    The last one may be smaller."""
    found: list[Entry] = []
    for entry in entries:
        if found and seconds and entry.time - found[0].time >= seconds:
            yield found
            found = []
        found.append(entry)
        if len(found) == size:
            yield found
            found = []
    if found:
        yield found
