"""What is known of files from an earlier pass: checksum and verdict, by size and time of change.

Kept in the cache folder, one file for each data set; losing it costs only time. A second `open` of the same folder
reads none of its pictures.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inflame import store
from inflame.artifact import fetch
from inflame.artifact.checks import Scan
from inflame.errors import StorageError

_FIELDS = tuple(field.name for field in dataclasses.fields(Scan))
_FRESH = 100_000_000  # ns: a file changed just now may change again without its time of change showing it
_FORMAT = 1


def recall(key: str, items: pa.Table) -> list[Scan | None]:
    """For each item (columns uri, size, mtime) what was found when it was last read; None when it has changed."""
    with suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        known = pq.read_table(_place(key))
        columns = [known[name].to_pylist() for name in _FIELDS]
        states = zip(known["size"].to_pylist(), known["mtime"].to_pylist(), strict=True)
        memory = {
            row[0]: (state, row) for state, row in zip(states, zip(*columns, strict=True), strict=True)
        }  # the first field of a Scan is its uri
        wanted = zip(*(items[name].to_pylist() for name in ("uri", "size", "mtime")), strict=True)
        return [_same(memory.get(uri), size, mtime) for uri, size, mtime in wanted]
    return [None] * items.num_rows


def remember(key: str, items: pa.Table, scans: Sequence[Scan | None], begun: float) -> None:
    """Keeps what was found (None: not read yet); `begun` is the time (seconds since the epoch) when reading began.
    Files that are missing or were changed as late as that are left out. A cache that can't be written is no reason to
    stop."""
    sizes, times = items["size"].to_pylist(), items["mtime"].to_pylist()
    late = int(begun * 1e9) - _FRESH
    rows = [row for row, scan in enumerate(scans) if scan is not None and sizes[row] >= 0 and times[row] < late]
    columns = {name: [getattr(scans[row], name) for row in rows] for name in _FIELDS}
    with suppress(StorageError), store.atomic(_place(key)) as path:
        pq.write_table(
            pa.table({**columns, "size": [sizes[row] for row in rows], "mtime": [times[row] for row in rows]}), path
        )


def _same(found: tuple[tuple[int, int], tuple[object, ...]] | None, size: int, mtime: int) -> Scan | None:
    if found is None or found[0] != (size, mtime):
        return None
    return Scan(*found[1])  # type: ignore[arg-type]


def _place(key: str) -> Path:
    return store.home() / "cache" / "index" / f"{fetch.digest_text(f'{_FORMAT}:{key}')[:32]}.parquet"


def now() -> float:
    """Seconds since the epoch, for `remember`."""
    return time.time()
