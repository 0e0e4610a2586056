"""Splits as an index: which side an item is on is a function of its content (or group) and the seed.

So a growing set never moves an item, copies of a picture are always together, and nothing needs to be stored. The
price: the sizes of the splits are those of a throw of dice (0.15 of 100 items is 15 ± 3.6), also within a class; only
classes of fewer than twenty are given back what they would hold out beyond their share.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from inflame.artifact import listing
from inflame.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT: Mapping[str, float] = {"train": 0.7, "val": 0.15, "test": 0.15}

_Ints = NDArray[np.int64]
_FREE = -1
_FEW = 20  # different contents of a class below which dice may leave too little to learn from


def assign(
    items: pa.Table,
    fractions: Mapping[str, float] = DEFAULT,
    seed: int = 0,
    previous: pa.Table | None = None,
    together: NDArray[np.int64] | None = None,
) -> pa.Table:
    """The items with their `split` column filled, whatever it held.

    Columns read: uri, label, sha256, group (an item without a hash goes by its uri). Items of one group, and items
    with the same content, are on one side, and so are the pairs of rows in `together` [M,2] (near duplicates). What the
    fractions leave over goes to the first split; labels play no
    part, so in expectation every class is split alike.

    Then a repair: a class with as many different contents as there are splits gets at least one in each, and any
    class at least one in the first; a class of fewer than twenty holds out no more than its share, rounded up. An item
    lent that way may go back when its class has grown; give the earlier table as `previous` and whatever it holds stays
    where it is.
    """
    shares = checked(fractions)
    components = _linked(_components(items), together)
    places = _places(components.keys, seed)
    chosen = _thrown(places, shares)
    pinned = np.zeros(len(chosen), dtype=bool)
    if previous is not None and previous.num_rows:
        kept = _kept(items, components, previous, list(shares))
        pinned = kept != _FREE
        chosen = np.where(pinned, kept, chosen)
    _repair(items, components, chosen, pinned, places, shares)
    column = pa.array(list(shares)).take(pa.array(chosen[components.of_item]))
    return items.set_column(items.schema.get_field_index("split"), "split", column)


def split_datafiles(datadir: str | Path, seed: int = 0, **fractions: float) -> dict[str, list[Path]]:
    """The files of a folder by split: `{"train": [paths], "val": [paths]}`, or any names and fractions.

    Folders in it are classes; a flat folder is one class; files may be of any kind. Files with the same content are
    together. A split may come out empty; the folder itself isn't touched. Raises DataError, SettingError.
    """
    root = Path(datadir)
    shares = checked(fractions or {"train": 0.8, "val": 0.2})
    if not root.is_dir():
        what = f"{root} is a file, not a folder." if root.exists() else f"There is no folder {root}."
        raise DataError(what, where=str(root), remedy="Give the folder that holds the files.")
    found = sorted(_files(root))
    names = [path.relative_to(root) for path in found]
    items = listing.table(
        uri=[listing.to_uri(name.as_posix()) for name in names],
        label=[listing.to_uri(name.parts[0]) if len(name.parts) > 1 else "" for name in names],
        sha256=[_content(path) for path in found],
    )
    split: dict[str, list[Path]] = {name: [] for name in shares}
    for path, name in zip(found, assign(items, shares, seed)["split"].to_pylist(), strict=True):
        split[name].append(path)
    return split


def checked(fractions: Mapping[str, float]) -> dict[str, float]:
    """The fractions with what they leave over added to the first, so that they sum to 1. Raises SettingError."""
    remedy = "Give fractions between 0 and 1 that sum to at most 1: train=0.8 val=0.1 test=0.1"
    if not fractions:
        raise SettingError("No split is named.", where="splits", remedy=remedy)
    for name, value in fractions.items():
        if not name:
            raise SettingError("A split has no name.", where="splits", remedy=remedy)
        if not _is_fraction(value):
            raise SettingError(f"The split {name} is {value!r}, not a fraction.", where=f"splits.{name}", remedy=remedy)
    total = math.fsum(fractions.values())
    if total > 1 + 1e-9:
        raise SettingError(f"The splits sum to {total:g}, more than all there is.", where="splits", remedy=remedy)
    first, *others = fractions
    rest = {name: float(fractions[name]) for name in others}
    return {first: max(1 - math.fsum(rest.values()), 0.0), **rest}


def _is_fraction(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


@dataclass(frozen=True, slots=True)
class _Components:
    """What must stay together: `of_item` [N] numbers the component of each item, `keys` names each component."""

    of_item: _Ints
    keys: list[str]


def _components(items: pa.Table) -> _Components:
    contents, content_keys = _coded(pc.if_else(_filled(items["sha256"]), items["sha256"], items["uri"]))
    grouped = np.flatnonzero(_filled(items["group"]).to_numpy(zero_copy_only=False))
    if not len(grouped):
        return _Components(contents, [f"content {key}" for key in content_keys])
    groups, group_keys = _coded(items["group"].take(pa.array(grouped)))
    lowest = contents.copy()
    while True:  # carries the lowest number through shared contents and shared groups until nothing changes
        reached = _lowest(contents, lowest)
        reached[grouped] = _lowest(groups, reached[grouped])
        if np.array_equal(reached, lowest):
            break
        lowest = reached
    _, first, of_item = np.unique(lowest, return_index=True, return_inverse=True)
    keys = [f"content {content_keys[code]}" for code in contents[first]]
    named: dict[int, str] = {}
    for component, group in dict.fromkeys(zip(of_item[grouped].tolist(), groups.tolist(), strict=True)):
        named[component] = min(named.get(component, group_keys[group]), group_keys[group])
    for component, name in named.items():  # a group goes by its own name: new members don't change it
        keys[component] = f"group {name}"
    return _Components(of_item.astype(np.int64), keys)


def _linked(components: _Components, links: NDArray[np.int64] | None) -> _Components:
    """Components that links [M,2] between items tie together are one; it goes by the least of their names, so that
    what doesn't know of the link is moved as little as can be."""
    if links is None or not len(links):
        return components
    ends = components.of_item[links]
    lowest = np.arange(len(components.keys))
    while True:
        reached = lowest.copy()
        least = np.minimum(reached[ends[:, 0]], reached[ends[:, 1]])
        np.minimum.at(reached, ends[:, 0], least)
        np.minimum.at(reached, ends[:, 1], least)
        reached = reached[reached]
        if np.array_equal(reached, lowest):
            break
        lowest = reached
    kept, place = np.unique(lowest, return_inverse=True)
    names: list[list[str]] = [[] for _ in kept]
    for component, key in zip(place.tolist(), components.keys, strict=True):
        names[component].append(key)
    # A group's own name wins (see `_components`); else any of the contents: the least.
    keys = [min(found, key=lambda key: (not key.startswith("group "), key)) for found in names]
    return _Components(place[components.of_item].astype(np.int64), keys)


def by_time(items: pa.Table, fractions: Mapping[str, float] = DEFAULT) -> pa.Table:
    """The items with their `split` column filled by the `time` column: the oldest first, in the order of the fractions
    (train, val, test). Copies go with the oldest of them; items of one moment are never parted.

    Times are compared as text, so they must be ISO dates or numbers of one length. Raises DataError for items without.
    """
    shares = checked(fractions)
    empty = np.flatnonzero(~_filled(items["time"]).to_numpy(zero_copy_only=False))
    if len(empty):
        first = items["uri"][int(empty[0])].as_py()
        raise DataError(
            f"{len(empty):,} items have no time; the first is {first}.",
            where="time",
            remedy="Give a table with a column time (2024-05-31T12:00), or divide in another way.",
        )
    components = _components(items)
    moments = np.array(items["time"].to_pylist(), dtype=object)
    oldest: dict[int, str] = {}
    for component, moment in zip(components.of_item.tolist(), moments.tolist(), strict=True):
        oldest[component] = min(oldest.get(component, moment), moment)
    own = np.array([oldest[component] for component in components.of_item.tolist()])
    ranks = np.searchsorted(np.sort(own), own, side="left") / max(len(own), 1)
    edges = np.cumsum(list(shares.values()))[:-1]
    chosen = np.searchsorted(edges - 1e-12, ranks, side="right")
    column = pa.array(list(shares)).take(pa.array(np.minimum(chosen, len(shares) - 1)))
    return items.set_column(items.schema.get_field_index("split"), "split", column)


def folds(items: pa.Table, count: int, seed: int = 0, together: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The fold of each item, 0 … count - 1, int64 [N]: by content like `assign`, whole groups and copies together, so
    a growing set moves nothing. Raises SettingError for fewer than two folds."""
    if count < 2:
        raise SettingError(f"{count} folds are none.", where="folds", remedy="Give two or more: --folds 5")
    components = _linked(_components(items), together)
    found = (_places(components.keys, seed) * count).astype(np.int64)
    return found[components.of_item]


def grouped(items: pa.Table, pattern: str) -> pa.Table:
    """The items with their `group` column filled by a regular expression on the uri: its first bracket, or all it
    matches; empty where it doesn't match. Raises SettingError for a broken expression."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingError(
            f"{pattern} is no regular expression: {error}.", where="by", remedy=r"For IMG_0123_2.jpg: --by 'IMG_(\d+)'"
        ) from error
    found = [compiled.search(uri) for uri in items["uri"].to_pylist()]
    names = ["" if match is None else match.group(1 if compiled.groups else 0) or "" for match in found]
    return items.set_column(items.schema.get_field_index("group"), "group", pa.array(names, pa.string()))


def leaked(items: pa.Table, together: NDArray[np.int64] | None = None) -> int:
    """How many items outside the first split have a copy, near copy or member of their group inside it."""
    components = _linked(_components(items), together)
    names = np.array(items["split"].to_pylist())
    inside = np.zeros(len(components.keys), dtype=bool)
    inside[components.of_item[names == "train"]] = True
    return int((inside[components.of_item] & (names != "train")).sum())


def _lowest(codes: _Ints, values: _Ints) -> _Ints:
    """For each item the lowest value among the items with its code."""
    least = np.full(codes.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, codes, values)
    return least[codes]


def _coded(column: pa.ChunkedArray) -> tuple[_Ints, list[str]]:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.not_equal(pc.fill_null(column, ""), "")


def _places(keys: list[str], seed: int) -> NDArray[np.float64]:
    """The place of each key in [0, 1), by its hash."""
    start = f"{seed}\0".encode()
    raw = b"".join(hashlib.blake2b(start + key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(raw, dtype="<u8").astype(np.float64) / 2.0**64


def _thrown(places: NDArray[np.float64], shares: Mapping[str, float]) -> _Ints:
    """The split of each place. The last split lies lowest: carving another one out of the first moves nothing else."""
    edges = np.cumsum(list(shares.values())[:0:-1])
    return len(shares) - 1 - np.searchsorted(edges, places, side="right").astype(np.int64)


def _kept(items: pa.Table, components: _Components, previous: pa.Table, names: list[str]) -> _Ints:
    """The earlier split of each component, or _FREE. Where a newcomer ties together two that were apart, the first
    of the splits (train) takes all: what was tested on may be learned from later, never the other way round."""
    kept = np.full(len(components.keys), len(names), dtype=np.int64)
    earlier = pc.index_in(previous["split"], value_set=pa.array(names))
    for column in ("sha256", "group", "uri"):
        known = previous.filter(_filled(previous[column])) if column != "uri" else previous
        splits = earlier if column == "uri" else earlier.filter(_filled(previous[column]))
        rows = pc.index_in(items[column], value_set=known[column].combine_chunks())
        split = pc.fill_null(splits.take(rows), len(names)).to_numpy().astype(np.int64)
        np.minimum.at(kept, components.of_item, split)
    return np.where(kept == len(names), _FREE, kept)


@dataclass(frozen=True, slots=True)
class _Spread:
    """How classes are spread over the splits: pairs of class and component (int64 [P] each, a component may have items
    of several classes), the components of each class in each split (int64 [classes, splits], kept up to date), and
    where every component is (int64), may not be moved from (bool) and lies (float64, in [0, 1))."""

    label_of: _Ints
    component_of: _Ints
    counts: _Ints
    chosen: _Ints
    pinned: NDArray[np.bool_]
    places: NDArray[np.float64]

    def classes(self, component: int) -> _Ints:
        """Those that the component has items of."""
        mine: _Ints = self.label_of[self.component_of == component]
        return mine

    def move(self, component: int, split: int) -> None:
        """Puts the component into that split."""
        mine = self.classes(component)
        self.counts[mine, self.chosen[component]] -= 1
        self.counts[mine, split] += 1
        self.chosen[component] = split


def _repair(
    items: pa.Table,
    components: _Components,
    chosen: _Ints,
    pinned: NDArray[np.bool_],
    places: NDArray[np.float64],
    shares: Mapping[str, float],
) -> None:
    """What dice do to small classes, made good in `chosen`."""
    labels, label_keys = _coded(items["label"])
    label_of, component_of = np.divmod(np.unique(labels * len(places) + components.of_item), max(len(places), 1))
    counts = np.zeros((len(label_keys), len(shares)), dtype=np.int64)
    np.add.at(counts, (label_of, chosen[component_of]), 1)
    spread = _Spread(label_of, component_of, counts, chosen, pinned, places)
    _lend(spread, label_keys, [number for number, share in enumerate(shares.values()) if share > 0])
    _give_back(spread, np.array([*shares.values()]))


def _lend(spread: _Spread, names: list[str], wanted: list[int]) -> None:
    """Lends components to the `wanted` splits that lack a class: from the fullest split the one that lies lowest."""
    counts = spread.counts
    needed = np.zeros(counts.shape, dtype=bool)
    needed[:, wanted[0]] = True
    needed[np.ix_(counts.sum(axis=1) >= len(wanted), wanted)] = True
    lacking = sorted(np.argwhere(needed & (counts == 0)).tolist(), key=lambda pair: (names[pair[0]], pair[1]))
    for label, split in lacking:
        spare = [c for c in spread.component_of[spread.label_of == label].tolist() if not spread.pinned[c]]
        spare.sort(key=lambda c: (-counts[label, spread.chosen[c]], spread.places[c]))
        for component in spare:
            mine, source = spread.classes(component), spread.chosen[component]
            if ((counts[mine, source] > 1) | ~needed[mine, source]).all():
                spread.move(component, split)
                break


def _give_back(spread: _Spread, shares: NDArray[np.float64]) -> None:
    """What small classes hold out beyond their share goes to the first split: those that lie nearest to it. Dice that
    leave one of five to learn from are no good ones."""
    if not shares[0]:
        return
    counts = spread.counts
    sizes = counts.sum(axis=1, keepdims=True)
    most = np.where(sizes < _FEW, np.maximum(np.ceil(sizes * shares - 1e-9), 1), np.inf)
    most[:, 0] = np.inf
    full: NDArray[np.bool_] = np.any(counts > most, axis=1)
    over = np.unique(spread.component_of[full[spread.label_of]])
    for component in over[np.argsort(-spread.places[over], kind="stable")].tolist():
        mine, source = spread.classes(component), spread.chosen[component]
        if not spread.pinned[component] and (counts[mine, source] > most[mine, source]).all():
            spread.move(component, 0)


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not listing.is_junk(name)]
        for name in names:
            path = Path(place, name)
            if not listing.is_junk(name) and path.is_file():
                yield path


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror}."
        raise DataError(what, where=str(path), remedy="Make it readable (chmod +r) or move it away.") from error
