"""`inflame runs`: searching, and sending a run to a tracker afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inflame import config
from inflame.cli.main import main
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
