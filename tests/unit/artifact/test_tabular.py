"""Tables of path and label: every mistake is named by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflame.artifact import tabular
from inflame.errors import DataError
from inflame.records import Dataset


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "sub/c d.jpg", "é.jpg", " lead.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(found: Dataset, *columns: str) -> list[tuple[str, ...]]:
    return list(zip(*(found.items[name].to_pylist() for name in columns), strict=True))


def faults(found: Dataset) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(fault.kind, fault.severity, fault.items) for fault in found.faults]


def test_path_and_label(pictures: Path) -> None:
    found = tabular.read(table(pictures, "path,label\na.jpg,x\nsub/c d.jpg,y\n"))
    assert rows(found, "uri", "label", "split", "size") == [("a.jpg", "x", "", 1), ("sub/c d.jpg", "y", "", 1)]
    assert (found.name, found.classes, found.root, found.faults) == ("t", ("x", "y"), str(pictures), ())


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("a.txt", "b.TEXT"), "text"),
        (("a.txt", "b"), "text"),
        (("a.jpg", "b.txt"), "image"),
        (("a", "b"), "image"),
        (("n.jsonl#0", "n.jsonl#1"), "text"),
        (("a#b.jpg", "n.jsonl#1"), "image"),
        (("n.npy#0", "n.npy#1"), "image"),
        (("torn.parquet#0",), "image"),
    ],
)
def test_the_kind_is_that_of_what_is_named(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    """As in a folder: pictures, unless only texts are named."""
    for name in names:
        (tmp_path / name.partition("#")[0]).write_bytes(b"x")
        (tmp_path / name).write_bytes(b"x") if name == "a#b.jpg" else None
    lines = "".join(f"{name},x\n" for name in names)
    assert tabular.read(table(tmp_path, f"path,label\n{lines}")).kind == kind


def test_all_columns_under_other_names(pictures: Path) -> None:
    text = " Filename ;Category;SUBSET;group;date;colour\na.jpg;x;Validation;g1;2020-01-01;red\nb.jpg;y;;;\n"
    found = tabular.read(table(pictures, text))
    assert rows(found, "uri", "label", "split", "group", "time") == [
        ("a.jpg", "x", "val", "g1", "2020-01-01"),
        ("b.jpg", "y", "", "", ""),
    ]


def test_tabs_quotes_and_blank_lines(pictures: Path) -> None:
    found = tabular.read(table(pictures, 'path\tlabel\n\n"a.jpg"\t"x, ""y"""\n\nb.jpg\tz\n', "t.tsv"))
    assert rows(found, "uri", "label") == [("a.jpg", 'x, "y"'), ("b.jpg", "z")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_spreadsheets(pictures: Path, encoding: str) -> None:
    found = tabular.read(table(pictures, "path,label\né.jpg,ø\n".encode(encoding)))
    assert rows(found, "uri", "label") == [("é.jpg", "ø")]


def test_absolute_paths_and_paths_upward(pictures: Path) -> None:
    text = f"path,label\n{pictures / 'a.jpg'},x\n../b.jpg,y\nc d.jpg,z\n"
    found = tabular.read(table(pictures / "sub", text))
    assert [uri for (uri,) in rows(found, "uri")] == [str(pictures / "a.jpg"), "../b.jpg", "c d.jpg"]


def test_spaces_around_and_backslashes(pictures: Path) -> None:
    found = tabular.read(table(pictures, "path, label\n a.jpg , x \n lead.jpg,y\nsub\\c d.jpg,z\n"))
    assert rows(found, "uri", "label") == [("a.jpg", "x"), (" lead.jpg", "y"), ("sub/c d.jpg", "z")]
    assert faults(found) == [("odd_mode", "info", ("a.jpg",))]
    assert "(t.csv, line 2)" in found.faults[0].reason


@pytest.mark.parametrize("name", ["group", "patient_id", "Video"])
def test_names_of_a_group(pictures: Path, name: str) -> None:
    assert rows(tabular.read(table(pictures, f"path,label,{name}\na.jpg,x,7\n")), "group") == [("7",)]


@pytest.mark.parametrize("name", ["patients", "person", "videos"])
def test_words_like_a_group_are_columns_of_their_own(pictures: Path, name: str) -> None:
    assert rows(tabular.read(table(pictures, f"path,label,{name}\na.jpg,x,7\n")), "group") == [("",)]


def test_rows_that_cannot_be_used_are_faults(pictures: Path) -> None:
    text = "path,label\na.jpg,x\na.jpg,x\nb.jpg,\n,x\ngone.jpg,x\nsub,x\nb.jpg,x\n"
    found = tabular.read(table(pictures, text))
    assert rows(found, "uri", "label") == [("a.jpg", "x"), ("b.jpg", "x")]
    assert faults(found) == [
        ("duplicate", "info", ("a.jpg",)),
        ("no_label", "error", ("b.jpg",)),
        ("no_path", "error", ("t.csv:5",)),
        ("unreadable", "error", ("gone.jpg", "sub")),
    ]
    assert "(t.csv, lines 6, 7)" in found.faults[-1].reason
    assert "(t.csv, line 3)" in found.faults[0].reason


def test_one_picture_under_two_labels_stays_for_the_checks(pictures: Path) -> None:
    assert len(tabular.read(table(pictures, "path,label\na.jpg,x\na.jpg,y\n"))) == 2


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "lacks a column for the path and the label"),
        ("path\na.jpg\n", 1, "lacks a column for the label: it has path"),
        ("a.jpg,x\nb.jpg,y\n", 1, "lacks a column for the path and the label: it has a.jpg, x"),
        ("path,lable\na.jpg,x\n", 1, 'has a column "lable"; did you mean "label"?'),
        ("path,label,splt\na.jpg,x,\n", 1, 'did you mean "split"?'),
        ("path,label,label\na.jpg,x,y\n", 1, 'two columns "label"'),
        ("path,label\na.jpg,x,y,z\n", 2, "has 4 fields; the first line has 2"),
        ("path,label\na.jpg,x\nb.jpg\n", 3, "has 1 fields"),
        ("path,label,split\na.jpg,x,train\nb.jpg,x,tset\n", 3, 'names the split "tset". Did you mean "test"?'),
        ('path,label\na.jpg,x\n"b.jpg,y\n', 3, "can't be read"),
        (b"path,label\na.jpg,x\n\x00\x01,y\n", 1, "is not text"),
        ("path,label\ngone.jpg,x\nlost.jpg,x\n", 2, "there is no such file"),
    ],
)
def test_what_is_wrong_is_named_by_line(pictures: Path, text: str | bytes, line: int, said: str) -> None:
    path = table(pictures, text)
    with pytest.raises(DataError) as caught:
        tabular.read(path)
    assert said in caught.value.message
    assert caught.value.where == f"{path}:{line}"
    assert caught.value.remedy


def test_a_table_without_rows(pictures: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        tabular.read(table(pictures, "path,label\n"))


def test_a_table_that_cannot_be_read(pictures: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        tabular.read(pictures / "sub")
