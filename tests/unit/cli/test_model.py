"""train says what is to be run; predict and runs say what they found, in the form that was asked for."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from inflame.cli import model
from inflame.cli.main import main, parser
from inflame.errors import DataError, InflameError
from inflame.infra import local
from inflame.records import Prediction, Preprocess
from inflame.runs import Run


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `inflame train` would become, filled in by `main`; models stand for themselves without torch."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(local, "become", lambda request: found.update(request) or 0)
    monkeypatch.setattr(model.plugins, "model_folder", lambda name: _folder(tmp_path, name))
    return found


def _folder(root: Path, name: str) -> Path:
    path = Path(name) if (Path(name) / "app.py").exists() else root / "models" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "app.py").touch()
    return path


def _words(job: dict[str, Any]) -> tuple[str, list[str]]:
    return Path(job["command"][1]).parent.name, job["command"][3:]


# --- train ---------------------------------------------------------------------------------------


def test_a_model_by_name(job: dict[str, Any]) -> None:
    main(["train", "mnist", "--in", "60s", "seed=1"])
    assert _words(job) == ("mnist", ["in=60s", "seed=1"])


def test_a_model_by_folder(job: dict[str, Any], tmp_path: Path) -> None:
    folder = _folder(tmp_path, "my_birds")
    main(["train", str(folder), "--json", "--debug"])
    assert _words(job) == ("my_birds", ["--json", "--debug"])
    assert job["command"][1] == str(folder / "app.py")


def test_data_goes_to_auto_by_its_whole_path(
    job: dict[str, Any], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    main(["train", "photos/", "hyperparam.num_epochs=2"])
    assert _words(job) == ("auto", [f"io.training_input={photos}", "hyperparam.num_epochs=2"])


@pytest.mark.parametrize("name", ["data.csv", 'a b\'c="d".zip', "größe=1.zip"])
def test_a_file_with_any_name(job: dict[str, Any], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    main(["train", name])
    assert _words(job) == ("auto", [f"io.training_input={tmp_path / name}"])


def test_a_named_set_goes_to_auto(job: dict[str, Any]) -> None:
    main(["train", "clothing", "--epochs", "3"])
    assert _words(job) == ("auto", ["io.training_input=clothing", "hyperparam.num_epochs=3"])


def test_a_models_name_wins_over_data(job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    main(["train", "mnist"])
    assert _words(job) == ("mnist", [])
    main(["train", "./mnist"])
    assert _words(job) == ("auto", [f"io.training_input={tmp_path / 'mnist'}"])


def test_weights_are_found_before_anything_starts(job: dict[str, Any], tmp_path: Path) -> None:
    assert main(["train", "mnist", "--weights", str(tmp_path / "w.safetensors")]) == 2
    assert not job
    (tmp_path / "w.safetensors").touch()
    main(["train", "mnist", "--weights", str(tmp_path / "w.safetensors")])
    assert _words(job) == ("mnist", [f"weights={tmp_path / 'w.safetensors'}"])


def test_help_about_a_model_is_the_models(job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "mnist", "--help"])
    assert _words(job) == ("mnist", ["--help"])
    assert main(["train", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: inflame train")


def test_texts_go_to_auto_by_their_own_word(job: dict[str, Any]) -> None:
    main(["train", "auto", "text=letters/", "--in", "20s"])
    assert _words(job) == ("auto", ["in=20s", "text=letters/"])
    main(["train", "--text", "letters.csv"])  # nothing else is said: the model that takes any data
    assert _words(job) == ("auto", ["text=letters.csv"])


def test_explain_becomes_a_setting(job: dict[str, Any]) -> None:
    main(["train", "clothing", "--explain"])
    assert _words(job) == ("auto", ["io.training_input=clothing", "explain=true"])


def test_options_may_stand_anywhere(job: dict[str, Any]) -> None:
    main(["train", "--in", "10s", "seed=1", "mnist", "limit=5"])
    assert _words(job) == ("mnist", ["in=10s", "seed=1", "limit=5"])


def test_settings_may_have_dashes(job: dict[str, Any]) -> None:
    main(["train", "--seed", "1", "--hyperparam.learning-rate=0.1", "--fresh", "mnist", "--in=5s", "--lr", "0.2"])
    assert _words(job) == ("mnist", ["in=5s", "seed=1", "hyperparam.learning_rate=0.1", "fresh=true", "lr=0.2"])


def test_without_torch_nothing_starts(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "mnist"]) == 2
    assert "pip install 'inflame[train]'" in capsys.readouterr().err
    assert not job


# --- predict -------------------------------------------------------------------------------------


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


def _run(home: Path, name: str, **fields: Any) -> Path:
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps(fields))
    return folder


def test_the_last_model_is_the_default(bundle: Path, home: Path) -> None:
    old = _run(home, "old", state="done", updated=1.0)
    _run(home, "new", state="failed", updated=2.0)
    (old / "bundle").mkdir()
    (old / "bundle" / "bundle.json").touch()
    assert model.bundle_of(None) == old / "bundle"
    assert model.bundle_of("old") == model.bundle_of(str(old)) == old / "bundle"
    assert model.bundle_of(str(bundle)) == bundle
    with pytest.raises(InflameError, match="has made no model; it is failed"):
        model.bundle_of("new")


def test_runs_as_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = {"accuracy": 0.9942, "low": 0.9925, "high": 0.9955, "n": 10000}
    _run(
        home,
        "mnist-1",
        state="done",
        model="mnist",
        dataset="mnist",
        seconds=31.4,
        test=test,
        updated=time.time() - 3 * 3600,
    )
    _run(home, "auto-1", state="running", updated=2.0)
    _run(home, "strange", state="done", test="?", seconds=None, updated="?")
    assert main(["runs"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["mnist-1"] == ["mnist-1", "mnist", "mnist", "0.994", "(0.993–0.996)", "31", "done", "3", "h"]
    assert lines["auto-1"][1:6] == ["-", "-", "-", "-", "interrupted"], "its process is gone"
    assert lines["strange"][1:] == ["-", "-", "-", "-", "done", "-"]


def test_runs_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", "--json"])
    assert json.loads(capsys.readouterr().out) == []
    folder = _run(home, "mnist-1", state="done", model="mnist", test={"accuracy": 1.0})
    main(["runs", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["folder"], found["test"]) == ("mnist-1", str(folder), {"accuracy": 1.0})


@pytest.mark.parametrize(("seconds", "age"), [(5, "5 s"), (90, "2 min"), (7300, "2 h"), (200000, "2 d"), (-50, "0 s")])
def test_age(seconds: float, age: str) -> None:
    assert model._age(time.time() - seconds) == age


def test_report_takes_the_last_run(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def report(folder: Path) -> Path:
        made.append(folder)
        (folder / "report.json").write_text('{"a": 1}\n')
        return folder / "report.html"

    monkeypatch.setattr("inflame.model.engine.report.report", report)
    monkeypatch.setattr("webbrowser.open", made.append)
    folder = _run(home, "mnist-1", state="done")
    assert main(["report", "--open"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert made == [folder, (folder / "report.html").as_uri()]
    assert main(["report", "mnist-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    assert main(["report", "mnist-2"]) == 2
    assert 'Did you mean "mnist-1"?' in capsys.readouterr().err


def test_run_is_what_the_floor_says() -> None:
    assert {"name", "read_status", "state", "bundle", "path"} <= {*dir(Run)}
    assert parser("runs").prog == "inflame runs"


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


def test_the_report_shows_what_mistakes_rest_on(photos: Path, tmp_path: Path, finished: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from inflame.artifact import manifest
    from inflame.model.engine import nets
    from inflame.model.engine.report import report
    from inflame.records import Preprocess

    net = nets.linear(size=16, channels=3, classes=3)
    run = finished(tmp_path / "run", photos, net, Preprocess(size=16, resize=16), steps=1)
    held = manifest.load(run.path).split("test").items
    count = len(held)
    wrong = ["plum" if label != "plum" else "lime" for label in held["label"].to_pylist()]
    columns = {"uri": held["uri"], "label": held["label"], "split": ["test"] * count, "predicted": wrong}
    odds = [[float(name == other) * 0.8 + 0.1 for other in ("apple", "lime", "plum")] for name in wrong]
    more = {
        "correct": [False] * count,
        "suspect": [0.1] * count,
        "probabilities": pa.array(odds, pa.list_(pa.float32())),
    }
    pq.write_table(pa.table({**columns, **more}), run.path / "predictions.parquet")
    page = report(run.path).read_text()
    assert "What the surest of them rest on" in page
    assert page.count('alt="heat over') == min(count, 8)
