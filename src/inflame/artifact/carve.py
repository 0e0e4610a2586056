"""Splits that the data itself brings (folders, a column, an official test part) are kept; what lacks is carved out.

Only `train` is ever divided: an official test split stays exactly as it is, so that numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from inflame.artifact import split
from inflame.records import Fault

_MOST = 5000  # items for a split carved out of an official train split: more tells nothing new


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How items are divided: `by` is "content" (default), "burst" (see `grouping.by_burst`), "time", "random", or a
    regular expression on the uri whose first bracket names a group; `together` are pairs of rows [M,2] that stay on one
    side; `previous` an earlier index, which nothing moves against; `anew`: also where the data brings its own splits.
    """

    by: str = "content"
    together: NDArray[np.int64] | None = None
    previous: pa.Table | None = None
    anew: bool = False


def carve(
    items: pa.Table, fractions: Mapping[str, float] | None, seed: int, way: Way | None = None
) -> tuple[pa.Table, tuple[Fault, ...]]:
    """The items with a split each, and what to know about it.

    Items that have a split keep it. Those without get one by `split.assign`; when all have one and val or test lacks,
    it comes out of train. `fractions` default to 0.7, 0.15, 0.15, and to at most 5,000 items for what is carved out.
    """
    wanted, way = dict(fractions or split.DEFAULT), way or Way()
    given = [name for name in pc.unique(items["split"]).to_pylist() if name]
    if given and way.anew:
        blank = pa.array([""] * items.num_rows)
        items = items.set_column(items.schema.get_field_index("split"), "split", blank)
        done, notes = _divided(items, wanted, seed, way)
        return done, (_anew(given), *notes)
    if not given:
        return _divided(items, wanted, seed, way)
    free = pc.equal(items["split"], "")
    if pc.any(free).as_py():
        done = split.assign(items.filter(free), wanted, seed, previous=items.filter(pc.invert(free)))
        return _put(items, free, done["split"]), (_note("no split is written for them: divided by content", []),)
    lacking = [name for name in wanted if name not in given]
    if "train" not in given:
        return items, (*untrainable(items), *_unheard(fractions, given, way))
    if not lacking:
        return items, _unheard(fractions, given, way)
    train = pc.equal(items["split"], "train")
    count = pc.sum(train).as_py()
    parts = {name: wanted[name] if fractions else min(wanted[name], _MOST / count) for name in lacking}
    done = split.assign(items.filter(train), {"train": 1.0 - sum(parts.values()), **parts}, seed)
    note = f"the data brings {' and '.join(given)}; {' and '.join(lacking)} is carved out of train, by content"
    return _put(items, train, done["split"]), (_note(note, lacking), *_unheard(fractions, given, way))


def _divided(items: pa.Table, wanted: Mapping[str, float], seed: int, way: Way) -> tuple[pa.Table, tuple[Fault, ...]]:
    """All items, divided in the wanted way, and what that costs where it isn't the safe one."""
    if way.by in ("content", "burst"):  # bursts are groups already (grouping.by_burst)
        return split.assign(items, wanted, seed, way.previous, way.together), ()
    notes: tuple[Fault, ...] = ()
    if way.by == "time":
        done, notes = split.by_time(items, wanted), (_note("divided by time: the oldest to learn from", []),)
    elif way.by == "random":
        done = split.assign(_blind(items), wanted, seed)
    else:
        done = split.assign(split.grouped(items, way.by), wanted, seed, way.previous, way.together)
    place = items.schema.get_field_index("split")
    torn = items.set_column(place, "split", done["split"])  # with the groups that the data brings
    return done if way.by != "random" else torn, (*notes, *_cost(torn, way))


def _blind(items: pa.Table) -> pa.Table:
    """The items as if each stood for itself, whatever it is a copy of."""
    for name in ("sha256", "group"):
        empty = pa.array([""] * items.num_rows, pa.string())
        items = items.set_column(items.schema.get_field_index(name), name, empty)
    return items


def _cost(items: pa.Table, way: Way) -> tuple[Fault, ...]:
    """By how much a score is flattered where copies, near copies and groups were torn apart."""
    lost, outside = split.leaked(items, way.together), items.num_rows - items["split"].to_pylist().count("train")
    if not lost:
        return ()
    reason = (
        f"{lost:,} of {outside:,} held-out items have a copy, near copy or member of their group in train: the score "
        f"is flattered by up to {lost / outside:.0%}; divide by content (the default) to keep them together"
    )
    return (Fault(kind="split_leak", severity="warning", reason=reason),)


def _anew(given: list[str]) -> Fault:
    reason = (
        f"the data's own {' and '.join(given)} {'is' if len(given) == 1 else 'are'} given up: numbers can't be "
        "compared with those measured there; leave out --resplit to keep what was given"
    )
    return Fault(kind="split", severity="warning", reason=reason, items=tuple(given))


def _put(items: pa.Table, rows: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Table:
    """The items with other splits in the rows where the mask is true."""
    column = np.array(items["split"].to_pylist(), dtype=object)
    column[rows.to_numpy()] = values.to_pylist()
    return items.set_column(items.schema.get_field_index("split"), "split", pa.array(column, pa.string()))


def _unheard(fractions: Mapping[str, float] | None, given: list[str], way: Way) -> tuple[Fault, ...]:
    """A wish that the data overrules is said, not followed."""
    if way.by != "content":
        reason = (
            f"the data brings its own {' and '.join(given)}: kept, not divided by {way.by} (--resplit divides anew)"
        )
        return (_note(reason, given),)
    overruled = [name for name in fractions or () if name in given]
    if not overruled:
        return ()
    names = " and ".join(overruled)
    reason = f"the data brings its own {names}: kept, whatever fractions were asked (--resplit divides anew)"
    return (_note(reason, overruled),)


def untrainable(items: pa.Table) -> tuple[Fault, ...]:
    """That all items come with a split, and none with train, where that is so."""
    given = pc.unique(items["split"]).to_pylist()
    if not given or {"", "train"} & set(given):
        return ()
    reason = f"the data brings {' and '.join(given)} alone: there is nothing to train on"
    return (Fault(kind="split", severity="error", reason=reason, items=tuple(given)),)


def _note(reason: str, splits: list[str]) -> Fault:
    return Fault(kind="split", severity="info", reason=reason, items=tuple(splits))
