"""Splits: sizes, names, copies and groups together, small classes, and the API of plain folders."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inflame.artifact import listing
from inflame.artifact import split as dividing
from inflame.artifact.split import DEFAULT, assign, checked, split_datafiles
from inflame.errors import DataError, SettingError


def sha(content: object) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def table(rows: list[tuple[str, object]] | list[tuple[str, object, str]]) -> pa.Table:
    """Rows of (label, content) or (label, content, group)."""
    return listing.table(
        uri=[f"{row[0]}/{number}.jpg" for number, row in enumerate(rows)],
        label=[row[0] for row in rows],
        sha256=[sha(row[1]) for row in rows],
        group=[row[2] if len(row) > 2 else "" for row in rows],
    )


def sides(items: pa.Table) -> list[str]:
    return items["split"].to_pylist()


def seen(items: pa.Table) -> dict[str, set[str]]:
    """Class → splits it is in."""
    found: dict[str, set[str]] = {}
    for label, split in zip(items["label"].to_pylist(), sides(items), strict=True):
        found.setdefault(label, set()).add(split)
    return found


def test_sizes_are_the_fractions_whatever_the_class() -> None:
    items = assign(table([(f"c{n % 4}", n) for n in range(20_000)]))
    counts = Counter(zip(items["label"].to_pylist(), sides(items), strict=True))
    for label in ("c0", "c1", "c2", "c3"):
        for split, fraction in DEFAULT.items():
            assert abs(counts[label, split] / 5_000 - fraction) < 0.02


def test_same_set_same_split_another_seed_another() -> None:
    items = table([("a", n) for n in range(300)])
    shuffled = items.take(pa.array(list(range(300))[::-1]))
    assert sides(assign(items, seed=7)) == sides(assign(shuffled, seed=7))[::-1]
    assert sides(assign(items, seed=7)) != sides(assign(items, seed=8))


def test_only_the_split_column_changes() -> None:
    items = table([("a", 1), ("b", 2)]).set_column(2, "split", pa.array(["test", "nonsense"]))
    done = assign(items, {"one": 1.0})
    assert sides(done) == ["one", "one"]
    assert done.drop(["split"]) == items.drop(["split"])
    assert done.schema == items.schema


def test_copies_and_groups_stay_together() -> None:
    rows = [("a", n // 3, "") for n in range(90)] + [("b", 1_000 + n, f"g{n // 5}") for n in range(100)]
    items = assign(table(rows), seed=3)
    for key, column in (("sha256", "sha256"), ("group", "group")):
        where: dict[str, set[str]] = {}
        for value, split in zip(items[column].to_pylist(), sides(items), strict=True):
            if value:
                where.setdefault(value, set()).add(split)
        assert all(len(found) == 1 for found in where.values()), key
    assert len(set(sides(items))) == 3


def test_a_copy_ties_its_groups_together() -> None:
    """g1 and g2 share a picture, g2 and g3 another: all three are one."""
    for seed in range(20):
        rows = [
            ("a", 1, "g1"),
            ("a", 2, "g1"),
            ("a", 2, "g2"),
            ("a", 3, "g2"),
            ("a", 3, "g3"),
            ("a", 4, "g3"),
            ("a", 4),
        ]
        items = table([*rows, *[("a", n) for n in range(50, 80)]])  # type: ignore[list-item]
        assert len(set(sides(assign(items, seed=seed))[: len(rows)])) == 1


def test_items_without_a_hash_go_by_their_name() -> None:
    items = listing.table(uri=[f"a/{n}" for n in range(200)], label=["a"] * 200)
    assert set(sides(assign(items))) == set(DEFAULT)


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_every_class_of_three_is_everywhere(count: int) -> None:
    items = assign(table([(f"c{n // count}", n) for n in range(count * 100)]))
    assert all(found == set(DEFAULT) for found in seen(items).values())


@pytest.mark.parametrize("count", [1, 2])
def test_smaller_classes_can_be_learned(count: int) -> None:
    items = assign(table([(f"c{n // count}", n) for n in range(count * 100)]))
    assert all("train" in found for found in seen(items).values())


@pytest.mark.parametrize(("count", "most"), [(3, 1), (5, 1), (6, 1), (7, 2), (13, 2), (19, 3)])
def test_small_classes_hold_out_no_more_than_their_share(count: int, most: int) -> None:
    items = assign(table([(f"c{n // count}", n) for n in range(count * 100)]))
    counts = Counter(zip(items["label"].to_pylist(), sides(items), strict=True))
    for label in set(items["label"].to_pylist()):
        assert 1 <= counts[label, "val"] <= most
        assert 1 <= counts[label, "test"] <= most


def test_what_large_classes_share_with_a_small_one_stays() -> None:
    """A group with photos of both is the large class's too, and that never moves."""
    rows = [("many", n, f"g{n}") for n in range(60)]
    alone, both = assign(table(rows)), assign(table([*rows, *(("few", 100 + n, f"g{n}") for n in range(12))]))
    assert sides(both)[:60] == sides(alone)


def test_a_split_of_zero_stays_empty() -> None:
    items = assign(table([("a", n) for n in range(40)]), {"train": 0.8, "val": 0.0, "test": 0.2})
    assert set(sides(items)) == {"train", "test"}
    assert set(sides(assign(table([("a", n) for n in range(40)]), {"train": 0.0, "test": 1.0}))) == {"test"}


def test_what_is_left_over_goes_to_the_first() -> None:
    assert checked({"a": 0.5, "b": 0.2, "c": 0.1}) == pytest.approx({"a": 0.7, "b": 0.2, "c": 0.1})
    assert checked({"train": 0.7, "val": 0.15, "test": 0.15}) == pytest.approx(dict(DEFAULT))
    assert checked({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})["a"] == pytest.approx(0.1)
    assert checked({"all": 0}) == {"all": 1.0}


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ({}, "No split"),
        ({"train": -0.1}, "train"),
        ({"train": 1.1}, "train"),
        ({"train": float("nan")}, "train"),
        ({"train": 0.8, "val": float("inf")}, "val"),
        ({"train": 0.8, "val": 0.3}, "1.1"),
        ({"train": "0.8"}, "train"),
        ({"train": True}, "train"),
        ({"train": None}, "train"),
        ({"": 0.5}, "no name"),
    ],
)
def test_impossible_fractions(fractions: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        assign(table([("a", 1)]), fractions)
    assert caught.value.remedy
    assert caught.value.where.startswith("splits")


def test_carving_val_out_of_train_leaves_test_alone() -> None:
    items = table([("a", n) for n in range(1_000)])
    two, three = sides(assign(items, {"train": 0.85, "test": 0.15})), sides(assign(items))
    assert [s == "test" for s in two] == [s == "test" for s in three]


def test_previous_pins_content_group_and_name() -> None:
    old = table([("a", 1, "g"), ("a", 2), ("a", 3)]).set_column(2, "split", pa.array(["test", "val", "test"]))
    new = table([("b", 1), ("b", 9, "g"), ("a", 33), ("b", 2), *[("a", n) for n in range(100, 200)]])  # type: ignore[list-item]
    done = sides(assign(new, previous=old))
    assert done[0] == "test"  # the content of the first
    assert done[1] == "test"  # its group
    assert done[2] == "test"  # the name of the third, edited since
    assert done[3] == "val"
    assert set(done[4:]) == set(DEFAULT)


def test_previous_with_splits_that_are_gone_is_no_help() -> None:
    items = table([("a", n) for n in range(50)])
    old = items.set_column(2, "split", pa.array(["holdout"] * 50))
    assert sides(assign(items, previous=old)) == sides(assign(items))


def test_a_newcomer_between_two_pinned_sides_goes_to_train() -> None:
    old = table([("a", 1, "g1"), ("a", 2, "g2")]).set_column(2, "split", pa.array(["test", "train"]))
    tie = table([("a", 1, "g1"), ("a", 2, "g2"), ("a", 5, "g1"), ("a", 5, "g2")])
    assert sides(assign(tie, previous=old)) == ["train"] * 4


def test_nothing_and_one() -> None:
    assert assign(table([("a", 1)]).slice(0, 0)).num_rows == 0
    assert sides(assign(table([("a", 1)]))) == ["train"]


def test_seventy_thousand_in_half_a_second() -> None:
    items = table([(str(n % 10), n) for n in range(70_000)])
    best = min(_seconds(items) for _ in range(3))
    assert best < 0.5


def _seconds(items: pa.Table) -> float:
    started = time.process_time()
    assign(items)
    return time.process_time() - started


# --- folders ------------------------------------------------------------------------------------------


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(text))


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for number in range(400):
        write(tmp_path / f"c{number % 2}" / "deep" / f"{number}.txt", number)
    before = sorted(tmp_path.rglob("*"))
    found = split_datafiles(tmp_path, train=0.8, dev=0.1, evaluation=0.1)
    assert list(found) == ["train", "dev", "evaluation"]
    assert sorted(path for paths in found.values() for path in paths) == [p for p in before if p.is_file()]
    assert 290 < len(found["train"]) < 350
    assert all(paths == sorted(paths) for paths in found.values())
    assert sorted(tmp_path.rglob("*")) == before
    assert split_datafiles(str(tmp_path), train=0.8, dev=0.1, evaluation=0.1) == found
    assert split_datafiles(tmp_path, seed=1, train=0.8, dev=0.1, evaluation=0.1) != found


def test_a_flat_folder_and_the_defaults(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / f"{number}.txt", number)
    write(tmp_path / ".DS_Store", "x")
    write(tmp_path / ".git" / "config", "x")
    os.mkfifo(tmp_path / "pipe")
    found = split_datafiles(tmp_path)
    assert list(found) == ["train", "val"]
    assert sum(map(len, found.values())) == 100
    assert all(paths for paths in found.values())


def test_copies_of_a_file_are_together(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path / f"{number}.txt", number // 3)
    split = {
        path.read_text(): name for name, paths in split_datafiles(tmp_path, a=0.5, b=0.5).items() for path in paths
    }
    by_path = split_datafiles(tmp_path, a=0.5, b=0.5)
    assert all(split[path.read_text()] == name for name, paths in by_path.items() for path in paths)


def test_an_empty_folder_gives_empty_splits(tmp_path: Path) -> None:
    assert split_datafiles(tmp_path) == {"train": [], "val": []}


def test_growing_a_folder_moves_no_file(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / f"{number}.txt", number)
    old = split_datafiles(tmp_path)
    for number in range(100, 300):
        write(tmp_path / f"{number}.txt", number)
    new = split_datafiles(tmp_path)
    assert all(set(paths) <= set(new[name]) for name, paths in old.items())


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder") as caught:
        split_datafiles(tmp_path / "none")
    assert caught.value.remedy
    write(tmp_path / "file", "x")
    with pytest.raises(DataError, match="not a folder"):
        split_datafiles(tmp_path / "file")
    with pytest.raises(SettingError):
        split_datafiles(tmp_path, train=2)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt", "x")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match="Permission denied"):
        split_datafiles(tmp_path)


# --- other ways to divide ----------------------------------------------------------------------------


def things(count: int = 60, **columns: list[str]) -> pa.Table:
    return listing.table(
        uri=[f"kind{n % 3}/bird{n // 4}_{n}.jpg" for n in range(count)],
        label=[f"kind{n % 3}" for n in range(count)],
        sha256=[f"{n:064x}" for n in range(count)],
        **columns,
    )


def test_pairs_stay_together_and_others_stay_where_they_are() -> None:
    items = things(200)
    links = np.array([[0, 1], [1, 2], [50, 120]])
    before, after = (dividing.assign(items, together=link)["split"].to_pylist() for link in (None, links))
    assert len({after[0], after[1], after[2]}) == 1
    assert after[50] == after[120]
    moved = [row for row in range(200) if before[row] != after[row]]
    assert set(moved) <= {0, 1, 2, 50, 120}


def test_a_link_ties_whole_groups() -> None:
    items = things(40, group=[f"g{n // 4}" for n in range(40)])
    found = dividing.assign(items, together=np.array([[0, 39]]))["split"].to_pylist()
    assert len({*found[:4], *found[36:]}) == 1


def test_the_oldest_are_learned_from() -> None:
    times = [f"2020-01-{1 + n // 3:02d}" for n in range(60)]
    found = dividing.by_time(things(60, time=times), {"train": 0.5, "val": 0.25, "test": 0.25})["split"].to_pylist()
    order = {"train": 0, "val": 1, "test": 2}
    assert [order[name] for name in found] == sorted(order[name] for name in found)
    assert all(len({found[row] for row in range(60) if times[row] == time}) == 1 for time in times)
    assert abs(found.count("train") - 30) <= 3


def test_an_item_without_a_time_is_named() -> None:
    times = ["2020"] * 59 + [""]
    with pytest.raises(DataError, match="bird14_59"):
        dividing.by_time(things(60, time=times))


@pytest.mark.parametrize("count", [2, 5])
def test_folds_keep_groups_together_and_move_nothing(count: int) -> None:
    groups = [f"g{n // 4}" for n in range(60)]
    found = dividing.folds(things(60, group=groups), count)
    assert set(found.tolist()) <= set(range(count))
    assert all(len(set(found[4 * g : 4 * g + 4].tolist())) == 1 for g in range(15))
    assert np.array_equal(dividing.folds(things(40, group=groups[:40]), count), found[:40])


def test_one_fold_is_none() -> None:
    with pytest.raises(SettingError, match="1 folds"):
        dividing.folds(things(), 1)


def test_a_pattern_names_groups() -> None:
    found = dividing.grouped(things(8), r"bird(\d+)_")
    assert found["group"].to_pylist() == ["0"] * 4 + ["1"] * 4
    assert dividing.grouped(things(1), "nothing")["group"].to_pylist() == [""]
    with pytest.raises(SettingError, match="no regular expression"):
        dividing.grouped(things(1), "bird(")


def test_what_random_splits_cost_is_counted() -> None:
    items = things(60, group=[f"g{n // 2}" for n in range(60)])
    sides = ["train" if n % 2 else "test" for n in range(60)]
    items = items.set_column(items.schema.get_field_index("split"), "split", pa.array(sides))
    assert dividing.leaked(items) == 30
    assert dividing.leaked(dividing.assign(items)) == 0
