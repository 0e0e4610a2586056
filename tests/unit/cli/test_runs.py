"""`inflame runs` and `inflame report`: what is told of runs, searching, and sending one to a tracker afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inflame import config
from inflame.cli import runs
from inflame.cli.main import main, parser
from inflame.config import Settings
from inflame.errors import SettingError
from inflame.runs import Run


def finished(name: str, accuracy: float, tracker: str = "jsonl") -> Run:
    with Run.begin(Settings(model="m", folder="m", tracker=tracker), name, name) as run:
        run.metric(epoch=1, step=3, loss=0.5)
        run.status(test={"accuracy": accuracy, "low": 0.1, "high": 1.0, "n": 5})
    return Run(path=run.path)


def test_runs_that_meet_a_condition(capsys: pytest.CaptureFixture[str]) -> None:
    finished("good", 0.9)
    finished("bad", 0.2)
    assert main(["runs", "--where", "accuracy > 0.5", "--json"]) == 0
    assert [found["run"] for found in json.loads(capsys.readouterr().out)] == ["m-good-001"]
    assert main(["runs", "--where", "accuracy > 0.95"]) == 0
    assert capsys.readouterr().out == "no such runs\n"
    assert main(["runs", "--where", "acuracy > 0.95"]) == 2
    assert "no such column: acuracy" in capsys.readouterr().err


def test_a_run_is_sent_to_a_tracker_that_it_never_had(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    run = finished("good", 0.9)
    assert main(["runs", "--sync", run.name]) == 2
    assert f"inflame runs --sync {run.name} --to mlflow" in capsys.readouterr().err
    assert main(["runs", "--sync", run.name, "--to", "tensorbord"]) == 2
    assert 'Did you mean "tensorboard"?' in capsys.readouterr().err
    assert main(["runs", "--sync", run.name, "--to", "tensorboard"]) == 0
    assert list((run.path / "trackers" / "tensorboard").glob("events*"))


def test_a_run_is_sent_to_its_own_tracker(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    run = finished("good", 0.9, tracker="jsonl,tensorboard")
    assert main(["runs", "--sync", run.name]) == 0
    assert "tensorboard: all is there" in capfd.readouterr().err


def test_words_that_need_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--to", "mlflow"]) == 2
    assert main(["runs", "--sync", "nowhere"]) == 2
    assert "There is no run" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model-config.toml").write_text('tracker = "tensorboard"\n[hyperparam]\nnum_epochs = 1\n')
    (tmp_path / "app.py").write_text("")
    (tmp_path / "train.py").write_text("def train(settings):\n    return settings.hyperparam.num_epochs\n")
    return tmp_path


def test_several_trackers_are_one_setting(folder: Path) -> None:
    assert config.load(folder).tracker == "tensorboard"
    assert config.load(folder, ["tracker=mlflow, wandb"]).tracker == "mlflow,wandb"
    assert config.load(folder, ["tracker=[mlflow,wandb]"]).tracker == "mlflow,wandb"
    (folder / "model-config.toml").write_text('tracker = ["jsonl", "clearml"]\n[hyperparam]\nnum_epochs = 1\n')
    assert config.load(folder).tracker == "jsonl,clearml"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("mlflow,wanbd", 'Did you mean "wandb"'),
        ("mlflow,", "must be a name"),
        ("choice(a,b)", "asks for several values"),
    ],
)
def test_trackers_that_are_none(folder: Path, word: str, hint: str) -> None:
    with pytest.raises(SettingError) as caught:
        config.load(folder, [f"tracker={word}"])
    assert hint in caught.value.message


@pytest.mark.slow
def test_a_training_with_trackers(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole road, with one tracker that works and one whose server is not there."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    from inflame import plugins
    from inflame.model.engine import switchboard
    from inflame.runs import latest

    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    words = ["train", "digits", "hyperparam.num_epochs=2", "tracker=tensorboard,wandb"]
    assert switchboard.main(plugins.model_folder("mnist"), words) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["label"]
    assert "tracker  tensorboard: all is there" in said.err
    assert "tracker  wandb: not delivered: 2 of 2 rows of numbers, the confusion, the bundle, the report" in said.err
    run = latest()
    assert run is not None
    assert run.state == "done"


def test_runs_as_a_table(run_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    test = {"accuracy": 0.9942, "low": 0.9925, "high": 0.9955, "n": 10000}
    run_folder(
        "mnist-1",
        state="done",
        model="mnist",
        dataset="mnist",
        seconds=31.4,
        test=test,
        updated=time.time() - 3 * 3600,
    )
    run_folder("auto-1", state="running", updated=2.0)
    run_folder("strange", state="done", test="?", seconds=None, updated="?")
    assert main(["runs"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["mnist-1"] == ["mnist-1", "mnist", "mnist", "0.994", "(0.993–0.996)", "31", "done", "3", "h"]
    assert lines["auto-1"][1:6] == ["-", "-", "-", "-", "interrupted"], "its process is gone"
    assert lines["strange"][1:] == ["-", "-", "-", "-", "done", "-"]


def test_runs_as_json(run_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", "--json"])
    assert json.loads(capsys.readouterr().out) == []
    folder = run_folder("mnist-1", state="done", model="mnist", test={"accuracy": 1.0})
    main(["runs", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["run"], found["folder"], found["test"]) == ("mnist-1", str(folder), {"accuracy": 1.0})


@pytest.mark.parametrize(("seconds", "age"), [(5, "5 s"), (90, "2 min"), (7300, "2 h"), (200000, "2 d"), (-50, "0 s")])
def test_age(seconds: float, age: str) -> None:
    assert runs._age(time.time() - seconds) == age


def test_report_takes_the_last_run(
    run_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def report(folder: Path) -> Path:
        made.append(folder)
        (folder / "report.json").write_text('{"a": 1}\n')
        return folder / "report.html"

    monkeypatch.setattr("inflame.model.engine.report.report", report)
    monkeypatch.setattr("webbrowser.open", made.append)
    folder = run_folder("mnist-1", state="done")
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
