"""What is known of files from an earlier pass: checksum, verdict and thumb, by size and time of change.

Kept in the cache folder, one file for each data set; losing it costs only time. A second `open` of the same folder
reads none of its pictures.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inflame import store
from inflame.artifact import fetch, thumbs
from inflame.artifact.scanning import Scan
from inflame.artifact.thumbs import Pixels
from inflame.errors import StorageError

_FIELDS = tuple(field.name for field in dataclasses.fields(Scan))
_FRESH = 100_000_000  # ns: a file changed just now may change again without its time of change showing it
_FORMAT = 4
_THUMB = "thumb"


def recall(key: str, items: pa.Table) -> tuple[list[Scan | None], Pixels]:
    """For each item (columns uri, size, mtime) what was found when it was last read, None when it has changed; and
    the thumbs of those that are known, uint8 [N, thumbs.BYTES]."""
    found: list[Scan | None] = [None] * items.num_rows
    small = thumbs.empty(items.num_rows)
    with suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        known = pq.read_table(_place(key))
        columns = [known[name].to_pylist() for name in _FIELDS]
        kept = _pixels(known[_THUMB])
        states = zip(known["size"].to_pylist(), known["mtime"].to_pylist(), strict=True)
        rows = zip(*columns, strict=True)
        memory = {  # the first field of a Scan is its uri
            row[0]: (place, state, row) for place, (state, row) in enumerate(zip(states, rows, strict=True))
        }
        wanted = zip(*(items[name].to_pylist() for name in ("uri", "size", "mtime")), strict=True)
        for number, (uri, size, mtime) in enumerate(wanted):
            place, state, row = memory.get(uri, (-1, None, ()))
            if state == (size, mtime):
                found[number] = Scan(*row)
                small[number] = kept[place]
    return found, small


def remember(key: str, items: pa.Table, scans: Sequence[Scan | None], small: Pixels, begun: float) -> None:
    """Keeps what was found (None: not read yet); `begun` is the time (seconds since the epoch) when reading began.
    Files that are missing or were changed as late as that are left out. A cache that can't be written is no reason to
    stop."""
    sizes, times = items["size"].to_pylist(), items["mtime"].to_pylist()
    late = int(begun * 1e9) - _FRESH
    rows = [row for row, scan in enumerate(scans) if scan is not None and sizes[row] >= 0 and 0 < times[row] < late]
    columns = {name: [getattr(scans[row], name) for row in rows] for name in _FIELDS}
    kept = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(thumbs.BYTES), len(rows), [None, pa.py_buffer(np.ascontiguousarray(small[rows]))]
    )
    state = {"size": [sizes[row] for row in rows], "mtime": [times[row] for row in rows]}
    with suppress(StorageError), store.atomic(_place(key)) as path:
        pq.write_table(pa.table({**columns, **state, _THUMB: kept}), path)


def _pixels(column: pa.ChunkedArray) -> Pixels:
    whole = column.combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    bytes_ = np.frombuffer(whole.buffers()[1], dtype=np.uint8)
    start = whole.offset * thumbs.BYTES
    return bytes_[start : start + len(whole) * thumbs.BYTES].reshape(-1, thumbs.BYTES)


def _place(key: str) -> Path:
    return store.home() / "cache" / "index" / f"{fetch.digest_text(f'{_FORMAT}:{key}')[:32]}.parquet"


def now() -> float:
    """Seconds since the epoch, for `remember`."""
    return time.time()
