"""Splits that the data itself brings (folders, a column, an official test part) are kept; what lacks is carved out.

Only `train` is ever divided: an official test split stays exactly as it is, so that numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inflame.artifact import split
from inflame.records import Fault

_MOST = 5000  # items for a split carved out of an official train split: more tells nothing new


def carve(items: pa.Table, fractions: Mapping[str, float] | None, seed: int) -> tuple[pa.Table, tuple[Fault, ...]]:
    """The items with a split each, and what to know about it.

    Items that have a split keep it. Those without get one by `split.assign`; when all have one and val or test lacks,
    it comes out of train. `fractions` default to 0.7, 0.15, 0.15, and to at most 5,000 items for what is carved out.
    """
    wanted = dict(fractions or split.DEFAULT)
    free = pc.equal(items["split"], "")
    given = [name for name in pc.unique(items["split"]).to_pylist() if name]
    if not given:
        return split.assign(items, wanted, seed), ()
    if pc.any(free).as_py():
        done = split.assign(items.filter(free), wanted, seed, previous=items.filter(pc.invert(free)))
        return _put(items, free, done["split"]), (_note("no split is written for them: divided by content", []),)
    lacking = [name for name in wanted if name not in given]
    if not lacking or "train" not in given:
        return items, _unheard(fractions, given)
    train = pc.equal(items["split"], "train")
    count = pc.sum(train).as_py()
    parts = {name: wanted[name] if fractions else min(wanted[name], _MOST / count) for name in lacking}
    done = split.assign(items.filter(train), {"train": 1.0 - sum(parts.values()), **parts}, seed)
    note = f"the data brings {' and '.join(given)}; {' and '.join(lacking)} is carved out of train, by content"
    return _put(items, train, done["split"]), (_note(note, lacking), *_unheard(fractions, given))


def _put(items: pa.Table, rows: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Table:
    """The items with other splits in the rows where the mask is true."""
    column = np.array(items["split"].to_pylist(), dtype=object)
    column[rows.to_numpy()] = values.to_pylist()
    return items.set_column(items.schema.get_field_index("split"), "split", pa.array(column, pa.string()))


def _unheard(fractions: Mapping[str, float] | None, given: list[str]) -> tuple[Fault, ...]:
    """A wish that the data overrules is said, not followed."""
    overruled = [name for name in fractions or () if name in given]
    if not overruled:
        return ()
    return (
        _note(f"the data brings its own {' and '.join(overruled)}: kept, whatever fractions were asked", overruled),
    )


def _note(reason: str, splits: list[str]) -> Fault:
    return Fault(kind="split", severity="info", reason=reason, items=tuple(splits))
