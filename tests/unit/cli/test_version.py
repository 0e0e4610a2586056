"""The verb version: what it prints, what programs get, and what it says to a wrong word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inflame import __version__, artifact
from inflame.artifact import manifest, version
from inflame.cli.main import main
from inflame.records import dumps
from inflame.runs.index import folder_of_runs

Capture = pytest.CaptureFixture[str]


def _said(capsys: Capture, *words: str) -> str:
    assert main(["version", *words]) == 0
    return capsys.readouterr().out


def _json(capsys: Capture, *words: str) -> Any:
    return json.loads(_said(capsys, *words, "--json"))


def test_of_inflame_itself(capsys: Capture) -> None:
    assert _said(capsys) == f"inflame {__version__}\n"
    assert _json(capsys) == {"version": __version__}


def test_a_walk(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    first = _json(capsys, str(photos), "--note", "as they came")
    assert (first["new"], first["items"], first["note"]) == (True, 36, "as they came")
    assert Path(first["dvc"]).read_text().startswith("outs:\n- md5: ")
    assert "already  photos" in _said(capsys, str(photos))
    (photos / "lime/lime_00.jpg").unlink()
    shutil.move(photos / "lime/lime_01.jpg", photos / "plum/p.jpg")
    said = _said(capsys, "diff", str(photos))
    assert "removed           1   lime/lime_00.jpg" in said
    assert "relabelled        1   plum/p.jpg: lime → plum" in said
    assert f"next   inflame version {photos}" in said
    second = _json(capsys, str(photos))
    assert second["new_items"] == 0
    found = _json(capsys, "diff", first["version"][:8], second["version"][:8])
    assert (found["removed"], found["relabelled"]) == (["lime/lime_00.jpg"], [["plum/p.jpg", "lime", "plum"]])
    assert found["versions"] == [first["version"], second["version"]]
    assert [one["version"] for one in _json(capsys, "list")] == [second["version"], first["version"]]
    assert "as they came" in _said(capsys, "list", "photos")
    restored = _json(capsys, "restore", first["version"][:8], str(tmp_path / "then"))
    assert artifact.open(restored["data"]).version == first["version"]
    assert "has its hash" in _said(capsys, "verify", first["version"][:8])


def test_a_run_leads_to_its_version(photos: Path, capsys: Capture) -> None:
    run = folder_of_runs() / "mnist-photos-001"
    run.mkdir()
    (run / "status.json").write_text(dumps({"state": "done"}))
    manifest.save(artifact.open(photos, seed=3), run)  # as a training does: see e2e
    made = _json(capsys, "mnist-photos-001")
    assert made["version"] == artifact.open(photos, seed=3).version
    assert made["version"] == _json(capsys, str(photos), "--seed", "3")["version"]
    (listed,) = _json(capsys, "list")
    assert listed["runs"] == ["mnist-photos-001"]
    found = _json(capsys, "diff", str(run), str(photos))
    assert found["resplit"]
    assert not found["removed"] + found["added"]


def test_in_a_folder_of_ones_own(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "kept"
    made = _json(capsys, str(photos), "--to", str(folder))
    assert (made["folder"], made["dvc"]) == (str(folder), f"{folder}.dvc")
    assert not version.folders()
    assert len(_json(capsys, "list", str(folder))) == len(_json(capsys, "list", "--to", str(folder))) == 1
    assert "same             36" in _said(capsys, "diff", str(photos), "--to", str(folder))


def test_push_and_pull(photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvc", reason="needs DVC: pip install 'inflame[dvc]'")
    made = _json(capsys, str(photos))
    assert "pushed   1 versions of photos" in _said(capsys, "push", "--remote", str(tmp_path / "remote"))
    (pack,) = (version.home_of("photos") / "packs").iterdir()
    assert pack.stat().st_nlink == 2  # a pack isn't on the disk twice
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path / "other"))
    assert _json(capsys, "pull", "photos", "--remote", str(tmp_path / "remote"))["pulled"] == [made["version"]]
    assert "has its hash" in _said(capsys, "verify", "photos")


def test_no_versions_yet(capsys: Capture) -> None:
    assert "no versions yet\nnext   inflame version DATA" in _said(capsys, "list")
    assert _json(capsys, "list") == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["diff"], "takes A [B]"),
        (["restore", "1234"], "takes VERSION FOLDER"),
        (["difff", "a"], 'Did you mean "diff"?'),
        (["nowhere"], 'no version "nowhere"'),
        (["push"], "no versions yet"),
        (["push", "nothing"], 'no versions of "nothing"'),
        (["restore", "beef", "x"], 'no version "beef"'),
    ],
)
def test_wrong_words(words: list[str], told: str, capsys: Capture) -> None:
    assert main(["version", *words]) == 2
    assert told in capsys.readouterr().err
