"""What a name or a path leads to, before any of it is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inflame.artifact import finding


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder of texts, and beside it tables of such."""
    for name in ("hot/1.txt", "cold/1.txt"):
        (tmp_path / "letters" / name).parent.mkdir(parents=True)
        (tmp_path / "letters" / name).write_text(name)
    (tmp_path / "index.csv").write_text("path,label\nletters/hot/1.txt,hot\nletters/cold/1.txt,cold\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "warm", "label": "hot"}))
    (tmp_path / "broken.csv").write_text("path\nx\n")
    (tmp_path / "empty").mkdir()
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "letters")
    return tmp_path


@pytest.mark.parametrize("name", ["letters", "index.csv", "rows.jsonl"])
def test_texts_are_known_by_names_alone(letters: Path, home: Path, name: str) -> None:
    assert finding.are_texts(str(letters / name))
    assert not list(home.iterdir())  # nothing was noted, for nothing was read


@pytest.mark.parametrize("name", ["broken.csv", "empty", "packed.zip", "nothing", "letters/hot/1.txt"])
def test_what_must_be_read_to_be_known_is_not_known(letters: Path, home: Path, name: str) -> None:
    assert not finding.are_texts(str(letters / name))
    assert not list(home.iterdir())


def test_pictures_and_sources(photos: Path, home: Path) -> None:
    assert not finding.are_texts(str(photos))
    assert finding.are_texts("20newsgroups")
    assert finding.are_texts("BBC_News")
    assert not finding.are_texts("mnist")
    assert not finding.are_texts("")
    assert not finding.are_texts("gs://bucket/letters")
    assert not list(home.iterdir())  # nothing was fetched
