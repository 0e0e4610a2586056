"""Splits that the data brings are kept; what lacks comes out of train."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from inflame.artifact import carve, listing


def items(splits: list[str], classes: int = 4) -> pa.Table:
    rows = range(len(splits))
    return listing.table(
        uri=[f"{row}.jpg" for row in rows],
        label=[str(row % classes) for row in rows],
        split=splits,
        sha256=[hashlib.sha256(str(row).encode()).hexdigest() for row in rows],
    )


def counts(table: pa.Table) -> dict[str, int]:
    column = table["split"].to_pylist()
    return {name: column.count(name) for name in sorted(set(column))}


def test_without_splits_all_is_divided() -> None:
    done, notes = carve.carve(items([""] * 2000), None, 0)
    assert notes == ()
    assert set(counts(done)) == {"train", "val", "test"}
    assert 240 < counts(done)["val"] < 360
    assert 240 < counts(done)["test"] < 360


def test_an_official_test_split_stays_as_it_is() -> None:
    table = items(["train"] * 1000 + ["test"] * 200)
    done, (note,) = carve.carve(table, None, 0)
    assert done["split"].to_pylist()[1000:] == ["test"] * 200
    assert 100 < counts(done)["val"] < 200
    assert (note.kind, note.severity, note.items) == ("split", "info", ("val",))
    assert "val is carved out of train" in note.reason


def test_a_missing_test_split_comes_out_of_train_and_is_told() -> None:
    table = items(["train"] * 1000 + ["val"] * 200)
    done, (note,) = carve.carve(table, None, 0)
    assert done["split"].to_pylist()[1000:] == ["val"] * 200
    assert 100 < counts(done)["test"] < 200
    assert "test is carved out of train" in note.reason


def test_train_alone_gives_both() -> None:
    done, (note,) = carve.carve(items(["train"] * 1000), None, 0)
    assert set(counts(done)) == {"train", "val", "test"}
    assert note.items == ("val", "test")


def test_no_more_is_carved_than_helps() -> None:
    done, _ = carve.carve(items(["train"] * 100_000 + ["test"] * 10), None, 0)
    assert 4_700 < counts(done)["val"] < 5_300


def test_complete_splits_are_left_alone() -> None:
    table = items(["train", "val", "test"] * 10)
    done, notes = carve.carve(table, None, 3)
    assert done.equals(table)
    assert notes == ()


def test_wishes_that_the_data_overrules_are_told() -> None:
    table = items(["train", "val", "test"] * 10)
    done, (note,) = carve.carve(table, {"train": 0.5, "test": 0.5}, 0)
    assert done.equals(table)
    assert "its own train and test" in note.reason
    done, notes = carve.carve(items(["train"] * 1000 + ["test"] * 100), {"train": 0.5, "val": 0.5}, 0)
    assert 430 < counts(done)["val"] < 570
    assert counts(done)["test"] == 100
    assert len(notes) == 2


def test_rows_without_a_split_are_divided_and_stay_with_their_copies() -> None:
    table = items(["train"] * 300 + ["val"] * 300 + ["test"] * 300 + [""] * 900)
    hashes = table["sha256"].to_pylist()
    hashes[900:] = hashes[:900]
    table = table.set_column(3, "sha256", pa.array(hashes))
    done, (note,) = carve.carve(table, None, 0)
    column = done["split"].to_pylist()
    assert column[900:] == column[:900]
    assert "no split is written" in note.reason


def test_without_train_nothing_can_be_carved() -> None:
    table = items(["test"] * 5 + ["val"] * 5)
    assert carve.carve(table, None, 0)[0].equals(table)


def test_growing_moves_nothing() -> None:
    before, _ = carve.carve(items(["train"] * 500 + ["test"] * 50), None, 0)
    small = dict(zip(before["uri"].to_pylist(), before["split"].to_pylist(), strict=True))
    after, _ = carve.carve(items(["train"] * 500 + ["test"] * 50 + ["train"] * 500), None, 0)
    large = dict(zip(after["uri"].to_pylist(), after["split"].to_pylist(), strict=True))
    assert all(large[uri] == split for uri, split in small.items())


def test_random_says_what_it_costs() -> None:
    items = listing.table(
        uri=[f"{n}.jpg" for n in range(400)],
        label=["a", "b"] * 200,
        sha256=[f"{n // 4:064x}" for n in range(400)],
    )
    found, (fault,) = carve.carve(items, None, 0, carve.Way(by="random"))
    assert fault.kind == "split_leak"
    assert "flattered by up to" in fault.reason
    assert set(found["split"].to_pylist()) == {"train", "val", "test"}
    assert found["sha256"].equals(items["sha256"])


def test_data_with_splits_is_divided_anew_when_asked() -> None:
    items = listing.table(
        uri=[f"{n}.jpg" for n in range(100)],
        label=["a", "b"] * 50,
        sha256=[f"{n:064x}" for n in range(100)],
        split=["train"] * 100,
    )
    found, _ = carve.carve(items, {"train": 0.5, "dev": 0.5}, 0, carve.Way(anew=True))
    assert set(found["split"].to_pylist()) == {"train", "dev"}


def test_every_way_but_the_safe_one_says_what_it_costs() -> None:
    items = listing.table(
        uri=[f"shot{n}.jpg" for n in range(40)],
        label=["a", "b"] * 20,
        sha256=[f"{n:064x}" for n in range(40)],
        group=[f"g{n % 4}" for n in range(40)],
        time=[f"2020-01-{1 + n // 2:02}" for n in range(40)],
    )
    for by in ("time", r"shot(\d+)", "random"):
        found, notes = carve.carve(items, None, 0, carve.Way(by=by))
        assert any("flattered by up to" in note.reason for note in notes) == (by != "time"), by
    assert set(found["group"].to_pylist()) == {"g0", "g1", "g2", "g3"}
    near = np.array([[0, 39]])
    blank = items.set_column(items.schema.get_field_index("group"), "group", pa.array([""] * 40))
    _, notes = carve.carve(blank, None, 0, carve.Way(by="time", together=near))
    assert "flattered" in notes[-1].reason
    assert carve.carve(items, None, 0, carve.Way(by="content", together=near))[1] == ()


def test_without_anything_to_train_on_that_is_said() -> None:
    table = items(["test"] * 8 + ["val"] * 2)
    done, (note,) = carve.carve(table, None, 0)
    assert done.equals(table)
    assert (note.kind, note.severity, note.reason) == (
        "split",
        "error",
        "the data brings test and val alone: there is nothing to train on",
    )
    assert carve.untrainable(items(["test"] * 8 + [""])) == ()
    assert carve.untrainable(items([])) == ()
