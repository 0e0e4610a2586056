"""Splits to the last item: which one lies where, which leaks, and what is said of what can't be divided."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inflame.artifact import listing
from inflame.artifact.split import assign, by_time, checked, folds, grouped, leaked, split_datafiles
from inflame.errors import DataError, SettingError


def placed(key: str, seed: int = 0) -> float:
    """Where the BLAKE2b hash of a name lies in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "little") / 2**64


def sha(content: object) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def table(rows: list[Any]) -> pa.Table:
    """Rows of (label, content) or (label, content, group)."""
    return listing.table(
        uri=[f"{row[0]}/{number}.jpg" for number, row in enumerate(rows)],
        label=[row[0] for row in rows],
        sha256=[sha(row[1]) for row in rows],
        group=[row[2] if len(row) > 2 else "" for row in rows],
    )


def birds(count: int = 60, **columns: list[str]) -> pa.Table:
    uris = [f"kind{n % 3}/bird{n // 4}_{n}.jpg" for n in range(count)]
    return listing.table(uri=uris, label=[uri[:5] for uri in uris], sha256=[sha(uri) for uri in uris], **columns)


def sides(items: pa.Table) -> list[str]:
    return items["split"].to_pylist()


def test_what_is_refused_says_what_where_and_the_way_out(tmp_path: Path) -> None:
    remedy = "Give fractions between 0 and 1 that sum to at most 1: train=0.8 val=0.1 test=0.1"
    said = {
        "No split is named.": ({}, "splits"),
        "A split has no name.": ({"": 0.5}, "splits"),
        "The split val is 2, not a fraction.": ({"train": 0.5, "val": 2}, "splits.val"),
        "The splits sum to 1.2, more than all there is.": ({"train": 0.9, "val": 0.3}, "splits"),
    }
    for message, (fractions, where) in said.items():
        with pytest.raises(SettingError) as caught:
            checked(fractions)
        assert (caught.value.message, caught.value.where, caught.value.remedy) == (message, where, remedy)
    with pytest.raises(SettingError) as caught:
        folds(birds(), 1)
    assert (caught.value.where, caught.value.remedy) == ("folds", "Give two or more: --folds 5")
    with pytest.raises(SettingError) as caught:
        grouped(birds(1), "(")
    assert (caught.value.where, caught.value.remedy) == ("by", r"For IMG_0123_2.jpg: --by 'IMG_(\d+)'")
    with pytest.raises(DataError) as wrong:
        by_time(birds(3, time=["2020", "", ""]))
    assert wrong.value.message == "2 items have no time; the first is kind1/bird0_1.jpg."
    assert wrong.value.where == "time"
    assert "column time (2024-05-31T12:00)" in wrong.value.remedy
    with pytest.raises(DataError) as wrong:
        split_datafiles(tmp_path / "none")
    assert wrong.value.message == f"There is no folder {wrong.value.where}."
    assert wrong.value.where == str(tmp_path / "none")
    assert wrong.value.remedy == "Give the folder that holds the files."


def test_fractions_may_sum_to_one_but_for_rounding() -> None:
    assert checked({"a": 0.1 + 0.2, "b": 0.7})["a"] == pytest.approx(0.3)
    assert checked({"a": 0.0, "b": 1.0}) == {"a": 0.0, "b": 1.0}
    assert checked({"a": 1}) == {"a": 1.0}


def test_an_item_is_where_its_hash_says() -> None:
    """The last split lies lowest."""
    items = table([("a", n) for n in range(60)])
    found = sides(assign(items, {"train": 0.5, "val": 0.2, "test": 0.3}, seed=5))
    for key, side in zip(items["sha256"].to_pylist(), found, strict=True):
        place = placed(f"content {key}", seed=5)
        assert side == ("test" if place < 0.3 else "val" if place < 0.5 else "train")


def test_a_group_is_where_its_name_says() -> None:
    items = table([("a", n, f"g{n % 20}") for n in range(60)])
    for group, fold in zip(items["group"].to_pylist(), folds(items, 4, seed=2).tolist(), strict=True):
        assert fold == int(4 * placed(f"group {group}", seed=2))


def test_of_linked_groups_the_first_name_counts_and_of_linked_items_the_least() -> None:
    for links, rows in (([[0, 1]], [("a", 1, "g2"), ("a", 2, "g1")]), ([[0, 1]], [("a", 1), ("a", 2, "g1")])):
        items = table(rows)
        assert folds(items, 100, together=np.array(links)).tolist() == [int(100 * placed("group g1"))] * 2
    items = table([("a", n) for n in range(3)])
    least = min(items["sha256"].to_pylist()[:2])
    found = folds(items, 100, together=np.array([[1, 0]])).tolist()
    assert found[0] == found[1] == int(100 * placed(f"content {least}"))
    assert np.array_equal(folds(items, 100, together=np.zeros((0, 2), np.int64)), folds(items, 100))


def test_a_chain_of_links_ties_all() -> None:
    items = birds(30)
    chain = np.array([[n + 1, n] for n in range(20)][::-1])
    found = folds(items, 50, together=chain)
    assert len(set(found[:21].tolist())) == 1
    assert len(set(found.tolist())) > 3


def test_the_oldest_by_the_date_and_copies_with_the_oldest_of_them() -> None:
    items = listing.table(
        uri=list("abcdefghij"),
        label=["x"] * 10,
        sha256=[sha(n if n < 9 else 0) for n in range(10)],  # the last is a copy of the first
        time=[f"2020-01-{day:02d}" for day in (9, 8, 7, 6, 5, 4, 3, 2, 1, 30)],
    )
    found = sides(by_time(items, {"train": 0.5, "val": 0.2, "test": 0.3}))
    assert found == ["test", "test", "val", "val", "train", "train", "train", "train", "train", "test"]
    assert by_time(items.slice(0, 0)).num_rows == 0


def test_what_leaks_is_counted_outside_train_alone() -> None:
    items = birds(6).set_column(2, "split", pa.array(["train", "test", "val", "test", "train", "other"]))
    assert leaked(items) == 0
    assert leaked(items, np.array([[0, 1], [4, 5]])) == 2
    assert leaked(items, np.array([[1, 2]])) == 0
    assert leaked(items, np.array([[1, 2], [2, 0]])) == 2


def test_groups_by_a_pattern_without_brackets_and_with_an_empty_one() -> None:
    assert grouped(birds(8), r"bird\d")["group"].to_pylist() == ["bird0"] * 4 + ["bird1"] * 4
    assert grouped(birds(2), r"kind0(x)?")["group"].to_pylist() == ["", ""]


def test_a_class_borrows_from_the_fullest_split_what_lies_lowest() -> None:
    for seed in range(30):
        items = table([("a", n) for n in range(4)])
        parts = {"train": 0.5, "test": 0.5}
        places = [placed(f"content {key}", seed) for key in items["sha256"].to_pylist()]
        own = ["test" if places[row] < 0.5 else "train" for row in range(4)]
        if len(set(own)) == 1:
            own[int(np.argmin(places))] = "train" if own[0] == "test" else "test"
        for row in sorted((row for row in range(4) if own[row] == "test"), key=places.__getitem__)[2:]:
            own[row] = "train"  # no more than its share is held out of a small class
        assert sides(assign(items, parts, seed)) == own
