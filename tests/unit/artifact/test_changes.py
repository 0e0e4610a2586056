"""Differences between two states, each kind told as what happened."""

from __future__ import annotations

import pyarrow as pa

from inflame.artifact import changes, listing

OLD = [("a/1", "a", "train", "s1"), ("a/2", "a", "test", "s2"), ("b/3", "b", "train", "s3"), ("b/4", "b", "val", "s4")]


def _table(rows: list[tuple[str, str, str, str]]) -> pa.Table:
    names = ("uri", "label", "split", "sha256")
    return listing.table(**{name: [row[place] for row in rows] for place, name in enumerate(names)})


def _between(new: list[tuple[str, str, str, str]]) -> changes.Difference:
    return changes.between(_table(OLD), _table(new))


def test_nothing() -> None:
    found = _between(OLD[::-1])
    assert found.nothing
    assert found.same == 4


def test_added_and_removed() -> None:
    found = _between([*OLD[1:], ("b/5", "b", "train", "s5")])
    assert (found.added, found.removed, found.same) == (("b/5",), ("a/1",), 3)


def test_another_split() -> None:
    found = _between([*OLD[:3], ("b/4", "b", "test", "s4")])
    assert found.resplit == (("b/4", "val", "test"),)
    assert not found.relabelled


def test_moved_to_the_folder_of_another_class_is_relabelled() -> None:
    found = _between([*OLD[:3], ("a/4", "a", "val", "s4")])
    assert found.relabelled == (("a/4", "b", "a"),)
    assert found.renamed == (("b/4", "a/4"),)
    assert not found.added + found.removed


def test_other_content_under_the_same_name_is_changed() -> None:
    found = _between([*OLD[:3], ("b/4", "b", "val", "s9")])
    assert found.changed == ("b/4",)
    assert not found.added + found.removed


def test_of_copies_the_one_that_went_is_told() -> None:
    old = _table([("a/1", "a", "train", "s"), ("a/2", "a", "train", "s"), ("b/1", "b", "train", "s")])
    new = _table([("a/2", "a", "train", "s"), ("b/1", "b", "train", "s")])
    found = changes.between(old, new)
    assert (found.removed, found.same) == (("a/1",), 2)
    assert not found.renamed + found.relabelled


def test_from_nothing_and_to_nothing() -> None:
    assert changes.between(_table([]), _table(OLD)).added == ("a/1", "a/2", "b/3", "b/4")
    assert changes.between(_table(OLD), _table([])).removed == ("a/1", "a/2", "b/3", "b/4")


def test_json_and_back() -> None:
    found = _between([("a/9", "b", "val", "s1")])
    assert changes.Difference.from_json(found.to_json()) == found
