"""What is different between two states of a data set: added, removed, changed, renamed, relabelled, resplit.

An item is known again by its content first, so that a file that moved to the folder of another class is one that was
relabelled, not one that went and one that came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from inflame.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Record):
    """The difference from `old` to `new`. Items are named by their uri (in `removed` the old one, else the new one);
    of three texts the second and third are what was and what is. `same` items differ in nothing."""

    old: str
    new: str
    same: int = 0
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # the same name with other content
    renamed: tuple[tuple[str, str], ...] = ()  # (old uri, new uri) of the same content
    relabelled: tuple[tuple[str, str, str], ...] = ()  # (uri, old label, new label)
    resplit: tuple[tuple[str, str, str], ...] = ()  # (uri, old split, new split)

    @property
    def nothing(self) -> bool:
        """Whether the two are the same data set."""
        return not (self.added or self.removed or self.changed or self.renamed or self.relabelled or self.resplit)


class _Row(NamedTuple):
    uri: str
    label: str
    split: str
    sha256: str


_WAYS: tuple[Callable[[_Row], Hashable], ...] = (  # how an item is known again, the surest first
    lambda row: row,
    lambda row: (row.uri, row.sha256),
    lambda row: (row.sha256, row.label, row.split),  # of copies, those that are most alike belong together
    lambda row: (row.sha256, row.label),
    lambda row: row.sha256,
    lambda row: row.uri,
)


def between(old: pa.Table, new: pa.Table, names: tuple[str, str] = ("old", "new")) -> Difference:
    """The difference between two tables of items (columns uri, label, split, sha256)."""
    before, after = _rows(old), _rows(new)
    pairs: list[tuple[_Row, _Row]] = []
    for way in _WAYS:
        found, before, after = _matched(before, after, way)
        pairs += found
    return _told(pairs, before, after, names)


def _told(pairs: list[tuple[_Row, _Row]], gone: list[_Row], come: list[_Row], names: tuple[str, str]) -> Difference:
    found: dict[str, list[Any]] = defaultdict(list)
    for was, now in pairs:
        if was.uri != now.uri:
            found["renamed"].append((was.uri, now.uri))
        if was.sha256 != now.sha256:
            found["changed"].append(now.uri)
        if was.label != now.label:
            found["relabelled"].append((now.uri, was.label, now.label))
        if was.split != now.split:
            found["resplit"].append((now.uri, was.split, now.split))
    found["added"], found["removed"] = [row.uri for row in come], [row.uri for row in gone]
    same = sum(was == now for was, now in pairs)
    return Difference(old=names[0], new=names[1], same=same, **{k: tuple(sorted(v)) for k, v in found.items()})


def _matched(
    before: list[_Row], after: list[_Row], way: Callable[[_Row], Hashable]
) -> tuple[list[tuple[_Row, _Row]], list[_Row], list[_Row]]:
    """Pairs that are the same in this way, each row once, and the rows of both sides that are left."""
    waiting: dict[Hashable, list[_Row]] = defaultdict(list)
    for row in reversed(before):
        waiting[way(row)].append(row)
    pairs, left = [], []
    for row in after:
        same = waiting.get(way(row))
        if same:
            pairs.append((same.pop(), row))
        else:
            left.append(row)
    return pairs, [row for rows in waiting.values() for row in rows], left


def _rows(items: pa.Table) -> list[_Row]:
    columns = (items[name].to_pylist() for name in _Row._fields)
    return sorted(_Row(*row) for row in zip(*columns, strict=True))
