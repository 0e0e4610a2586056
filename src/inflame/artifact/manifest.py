"""A data set as a manifest, and the two files that keep it.

A manifest is a description (`dataset.json`) and one row for each item (`items.parquet`); pictures stay where they
are. Its `version` is a hash of the content: the same pictures, labels and splits give the same version anywhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from inflame import store
from inflame.artifact import listing
from inflame.errors import DataError
from inflame.records import Dataset, Fault

DESCRIPTION, ITEMS = "dataset.json", "items.parquet"
GROWTH = "growth.json"  # beside them in a data set that was grown (see grow.py)

_KEPT = listing.COLUMNS
_Ints = NDArray[np.int64]


def save(dataset: Dataset, folder: Path) -> None:
    """Writes `dataset.json` and `items.parquet` to the folder, each whole or not at all, the description last."""
    with store.atomic(folder / ITEMS) as path:
        pq.write_table(dataset.items.select(list(_KEPT)), path)
    store.write(folder / DESCRIPTION, json.dumps(dataset.to_json(), indent=1) + "\n")


def load(folder: Path) -> Dataset:
    """The data set that `save` wrote. Missing or damaged: DataError."""
    try:
        items = pq.read_table(folder / ITEMS, columns=list(_KEPT))
        value = json.loads((folder / DESCRIPTION).read_text())
        faults = tuple(Fault.from_json(fault) for fault in value.pop("faults"))
        found = Dataset.from_json({**value, "items": items})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(
            f"{folder} {'holds no data set' if missing else 'holds a damaged data set'}: {ITEMS} or {DESCRIPTION} "
            f"can't be read ({error}).",
            where=str(folder),
            remedy="Give the data itself again (its name, folder, zip or table) instead of this folder.",
        ) from error
    return dataclasses.replace(found, faults=faults)


def version(items: pa.Table) -> str:
    """The content hash of a data set: SHA-256 over the sorted (sha256, label, split) of all items, as 64 digits.
    Neither names nor places of files matter, nor their order."""
    rows = pc.binary_join_element_wise(items["sha256"], items["label"], items["split"], "\0")
    rows = pc.take(rows, pc.sort_indices(rows))
    return hashlib.sha256("\n".join(rows.to_pylist()).encode()).hexdigest()


def sample(items: pa.Table, limit: int) -> pa.Table:
    """At most `limit` items, chosen by content: the same mixture of (label, split), at least one of each if it fits.

    A larger limit keeps what a smaller one chose, up to rounding; no random numbers are drawn.
    """
    if limit < 1:
        raise DataError(
            f"A sample of {limit} items holds nothing.", where="limit", remedy="Give a positive number: limit=1000"
        )
    if limit >= items.num_rows:
        return items
    groups = pc.binary_join_element_wise(items["label"], items["split"], "\0")
    _, codes = np.unique(np.asarray(groups.to_pylist(), dtype=object).astype(str), return_inverse=True)
    counts = np.bincount(codes)
    quota = _quotas(counts, limit)
    order = np.lexsort((_keys(items), codes))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return items.take(pa.array(np.flatnonzero(rank < quota[codes])))


def _quotas(counts: _Ints, limit: int) -> _Ints:
    """How many of each group make `limit`: in proportion by largest remainders, one at least where that fits."""
    exact = counts * (limit / counts.sum())
    quota: _Ints = np.floor(exact).astype(np.int64)
    if limit >= len(counts):
        quota = np.maximum(quota, 1)
    while quota.sum() > limit:  # what was rounded up to one is taken from those that have more
        quota[np.argmax(np.where(quota > 1, quota - exact, -np.inf))] -= 1
    for group in np.argsort(quota - exact, kind="stable")[: limit - quota.sum()]:
        quota[group] += 1
    return quota


def _keys(items: pa.Table) -> NDArray[np.bytes_]:
    """A number for each item by which to choose: a hash of its content, unlike the one that decides the split."""
    return np.array(
        [hashlib.sha256(f"sample/{sha256}".encode()).digest()[:8] for sha256 in items["sha256"].to_pylist()], dtype="S8"
    )
