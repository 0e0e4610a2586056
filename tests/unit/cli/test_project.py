"""A new model folder is whole, named, and never in the way of what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inflame import __version__
from inflame.cli.main import main


@pytest.fixture
def like(tmp_path: Path) -> Path:
    """A model folder to begin from."""
    folder = tmp_path / "bird_model"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "app.py").write_text("print('hello')\n")
    (folder / "__init__.py").write_text("")
    (folder / ".hidden").write_text("")
    (folder / "model-config.toml").write_text("# inflame train bird_model  # größer\nseed = 0\n", encoding="utf-8")
    return folder


def test_new(like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_birds", "--like", str(like), "--bare"]) == 0
    made = tmp_path / "my_birds"
    assert sorted(file.name for file in made.iterdir()) == ["app.py", "model-config.toml"]
    assert "# inflame train ./my_birds  # größer" in (made / "model-config.toml").read_text(encoding="utf-8")
    assert "cd my_birds && python app.py" in capsys.readouterr().out
    assert {file.stat().st_mode & 0o777 for file in made.iterdir()} == {(made.stat().st_mode & 0o666)}


def test_new_elsewhere_as_json(like: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "b-2"), "--like", str(like), "--bare", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(tmp_path / "b-2"),
        "files": ["app.py", "model-config.toml"],
    }


@pytest.mark.parametrize("name", ["my birds", "2birds", "größe", ".birds", "a;b"])
def test_a_name_that_can_not_be(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / name)]) == 2
    assert "do: inflame new " in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_what_is_there_stays(like: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_text() for file in like.iterdir() if file.is_file()}
    assert main(["new", str(like), "--like", str(like)]) == 2
    assert "already there" in capsys.readouterr().err
    assert before == {file: file.read_text() for file in like.iterdir() if file.is_file()}


def test_a_folder_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "no" / "birds")]) == 2
    assert f"mkdir -p {tmp_path / 'no'}" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == main(["--version"]) == 0
    assert capsys.readouterr().out == 2 * f"inflame {__version__}\n"
    main(["version", "--json"])
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    whats = [finding["what"] for finding in told["findings"]]
    assert whats == ["python", "cores", "memory", "GPU", "torch", "core", "train", "extras", "home", "disk", "mirror"]


def test_doctor_says_what_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path / "file" / "home"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "NOT OK  home" in out
    assert "Set INFLAME_HOME to a folder" in out.partition("to do")[2]
