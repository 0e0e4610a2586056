"""Names with accents: macOS writes é as e and an accent (NFD), most others as one letter (NFC). A table of the one kind
finds files of the other."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from inflame import artifact
from inflame.artifact import tabular

NAME = "Käfer/grüner bébé.jpg"


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_a_table_finds_files_however_their_accents_are_written(tmp_path: Path, in_table: str, on_disk: str) -> None:
    file = tmp_path / unicodedata.normalize(on_disk, NAME)
    file.parent.mkdir()
    file.write_bytes(b"x")
    table = tmp_path / "t.csv"
    table.write_text(f"path,label\n{unicodedata.normalize(in_table, NAME)},x\n", encoding="utf-8")
    found = tabular.read(table)
    assert found.faults == ()
    assert found.items["uri"].to_pylist() == [file.relative_to(tmp_path).as_posix()], "named as the file is"


def test_two_files_that_differ_in_nothing_else_are_two(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this disk takes both for one name")
    table = tmp_path / "t.csv"
    table.write_text("path,label\n" + "".join(f"{name},x\n" for name in names), encoding="utf-8")
    assert tabular.read(table).items["uri"].to_pylist() == names


def test_a_class_folder_keeps_the_name_it_has(tmp_path: Path, photos: Path) -> None:
    name = unicodedata.normalize("NFD", "Äpfel")
    (photos / "apple").rename(photos / name)
    assert name in artifact.open(photos).classes
