"""predict says what it found, in the form that was asked for, and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from inflame.cli import predict
from inflame.cli.main import main
from inflame.errors import DataError, InflameError
from inflame.records import Prediction, Preprocess


class FakePredictor:
    """Answers by the name of the file; a file called `bad…` can't be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.preprocess = Preprocess(size=8, resize=8)

    def predict(self, sources: Iterable[Path], top_k: int, *, errors: str) -> list[Prediction | InflameError]:
        assert errors == "collect"
        return [self._one(source, top_k) for source in sources]

    def _one(self, source: Path, top_k: int) -> Prediction | InflameError:
        if source.name.startswith("bad"):
            return DataError("The file is empty.", remedy="Take another.")
        top = (("turkey", 0.7779676), ("hen", 0.2), ("cock", 0.0220324))[:top_k]
        known = not source.name.startswith("odd")
        return Prediction(label="turkey", probability=0.7779676, top=top, known=known, source=str(source), model="abc")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("inflame.model.engine.bundle.Predictor", FakePredictor)
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", "odd.png", "bad.jpg", "deep/ü b.JPEG", "notes.txt", ".hidden.jpg", "._a.jpg", "Thumbs.db"):
        (folder / name).touch()
    return folder


def test_one_picture_as_json(bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(pictures / "a.jpg"), "--model", str(bundle), "--json", "--top", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer)[:2] == ["label", "probability"]
    assert answer["label"] == "turkey"
    assert answer["probability"] == "0.7779676"
    assert answer["top"] == [
        {"label": "turkey", "probability": "0.7779676"},
        {"label": "hen", "probability": "0.2000000"},
    ]
    assert answer["known"] is True
    assert answer["source"] == str(pictures / "a.jpg")


def test_a_folder_as_a_table(
    bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)  # short names, which the table needn't cut
    assert main(["predict", "inbox", "--model", str(bundle)]) == 1
    out, err = capsys.readouterr()
    head, *rows = out.splitlines()
    assert head.split() == ["file", "label", "probability", "else"]
    assert [row.split("inbox/")[1][:5] for row in rows] == ["a.jpg", "deep/", "odd.p"]
    assert "unsure (turkey?)" in rows[2]
    assert rows[0].endswith("turkey            0.7780       hen 0.200, cock 0.022")
    assert "bad.jpg: The file is empty: Take another." in err
    assert "notes" not in out + err


def test_an_unreadable_file_is_a_line_of_json(bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(pictures / "bad.jpg"), str(pictures / "a.jpg"), "--model", str(bundle), "--json"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "source": str(pictures / "bad.jpg"),
        "error": "The file is empty.",
        "where": "",
        "remedy": "Take another.",
    }
    assert second["label"] == "turkey"


def test_csv(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    assert main(["predict", str(pictures), "--model", str(bundle), "--csv", str(tmp_path / "out" / "a.csv")]) == 1
    with (tmp_path / "out" / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["a.jpg", "bad.jpg", "ü b.JPEG", "odd.png"]
    assert rows[0] | {"file": ""} == {
        "file": "",
        "label": "turkey",
        "probability": "0.7779676",
        "known": "true",
        "error": "",
    }
    assert rows[1]["error"] == "The file is empty."
    assert rows[3]["known"] == "false"


def test_a_picture_that_is_not_there(bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(pictures / "a.jpgg"), "--model", str(bundle)]) == 2
    assert f'Did you mean "{pictures / "a.jpg"}"?' in capsys.readouterr().err


def test_a_folder_without_pictures(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert main(["predict", str(tmp_path / "none"), "--model", str(bundle)]) == 2
    assert "There is no picture in" in capsys.readouterr().err


@pytest.mark.parametrize("top", ["0", "-1", "many"])
def test_top_is_a_count(bundle: Path, pictures: Path, top: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(pictures), "--model", str(bundle), "--top", top]) == 2
    assert "--top" in capsys.readouterr().err


def test_without_a_model(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(pictures)]) == 2
    assert "no trained model yet" in capsys.readouterr().err


# --- runs ----------------------------------------------------------------------------------------


def test_the_last_model_is_the_default(bundle: Path, run_folder: Callable[..., Path]) -> None:
    old = run_folder("old", state="done", updated=1.0)
    run_folder("new", state="failed", updated=2.0)
    (old / "bundle").mkdir()
    (old / "bundle" / "bundle.json").touch()
    assert predict.bundle_of(None) == old / "bundle"
    assert predict.bundle_of("old") == predict.bundle_of(str(old)) == old / "bundle"
    assert predict.bundle_of(str(bundle)) == bundle
    with pytest.raises(InflameError, match="has made no model; it is failed"):
        predict.bundle_of("new")


def test_predict_says_why(capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path, finished: Any) -> None:
    from inflame.model.engine import nets
    from inflame.records import Preprocess

    net = nets.linear(size=16, channels=3, classes=3)
    run = finished(tmp_path / "run", photos, net, Preprocess(size=16, resize=16))
    files = [str(next(photos.rglob("lime*.jpg"))), str(next(photos.rglob("plum*.jpg")))]
    assert main(["predict", *files, "--explain", "--model", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "why lime" in said
    assert "why plum" in said
    page = (run.path / "explained.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert "http" not in page.partition("<body>")[2]
    assert main(["predict", files[0], "--explain", "--json", "--model", str(run.path)]) == 0
    assert json.loads(capsys.readouterr().out)["explanation"]["how"] == "covering"
