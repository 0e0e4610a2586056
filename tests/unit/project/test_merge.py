"""A later template is merged: what only one side changed is taken, what both changed is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inflame.cli.main import main
from inflame.errors import UserError
from inflame.project import make, merge


@pytest.fixture
def like(tmp_path: Path) -> Path:
    """A model folder to begin from, which a later version changes."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "app.py").write_text("".join(f"line {number}\n" for number in range(20)))
    (folder / "train.py").write_text("train = 1\n")
    (folder / "net.py").write_text("net = 1\n")
    return folder


@pytest.fixture
def project(like: Path, tmp_path: Path) -> Path:
    target = tmp_path / "mine"
    make.write(target, {"made": "new", "name": "mine", "like": str(like)})
    return target


def test_nothing_has_changed(project: Path) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert merge.upgrade(project) == []
    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def test_each_side_changes_other_lines(like: Path, project: Path) -> None:
    lines = (like / "app.py").read_text().splitlines(keepends=True)
    (project / "app.py").write_text("".join(["mine\n", *lines]))
    (like / "app.py").write_text("".join([*lines, "theirs\n"]))
    (like / "train.py").write_text("train = 2\n")
    (like / "more.py").write_text("more = 1\n")
    (project / "score.py").write_text("only mine\n")
    told = {change.path: change.what for change in merge.upgrade(project, dry=True)}
    assert told == {"app.py": "merged", "train.py": "updated", "more.py": "added"}
    assert (project / "train.py").read_text() == "train = 1\n"  # a dry run changes nothing
    merge.upgrade(project)
    assert (project / "app.py").read_text() == "".join(["mine\n", *lines, "theirs\n"])
    assert (project / "train.py").read_text() == "train = 2\n"
    assert (project / "more.py").read_text() == "more = 1\n"
    assert (project / "score.py").read_text() == "only mine\n"
    assert merge.upgrade(project) == []  # it is up to date now


def test_both_change_the_same_line(like: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "train.py").write_text("train = 'mine'\n")
    (like / "train.py").write_text("train = 'theirs'\n")
    assert main(["upgrade", str(project), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"changes": [{"path": "train.py", "what": "conflict"}]}
    text = (project / "train.py").read_text()
    assert merge.MARK in text
    assert "train = 'mine'" in text
    assert "train = 'theirs'" in text
    with pytest.raises(UserError, match="still has conflicts"):
        merge.upgrade(project)
    (project / "train.py").write_text("train = 'both'\n")
    assert main(["upgrade", str(project)]) == 0
    assert (project / "train.py").read_text() == "train = 'both'\n"


def test_what_was_removed_stays_away(like: Path, project: Path) -> None:
    (project / "train.py").unlink()
    (like / "train.py").write_text("train = 2\n")
    (like / "net.py").unlink()
    told = {change.path: change.what for change in merge.upgrade(project)}
    assert told["train.py"] == told["net.py"] == "kept"
    assert not (project / "train.py").exists()
    assert (project / "net.py").exists()


def test_the_model_it_came_from_has_gone(like: Path, project: Path) -> None:
    shutil.rmtree(like)
    (project / make.ORIGIN / "base" / "Makefile").write_text("as it once was\n")
    (project / "Makefile").write_text("as it once was\n")
    assert [change.path for change in merge.upgrade(project)] == ["Makefile"]
    assert "as it once was" not in (project / "Makefile").read_text()


def test_without_git(like: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "train.py").write_text("train = 'mine'\n")
    (like / "train.py").write_text("train = 'theirs'\n")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs git"):
        merge.upgrade(project)


def test_no_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", str(tmp_path)]) == 2
    assert "was not made by inflame new" in capsys.readouterr().err
