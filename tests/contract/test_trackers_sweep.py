"""The trials of a sweep where runs are looked at: children of one run, a group, a table of hyperparameters."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from inflame.config import Hyperparam, Settings
from inflame.model.engine.trackers import following
from inflame.runs import Run

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


def trial(tracker: str, number: int, monkeypatch: pytest.MonkeyPatch, sweep: str = "lr-001") -> Run:
    """A finished trial, told to the tracker."""
    monkeypatch.setenv("INFLAME_SWEEP", sweep)
    monkeypatch.setenv("INFLAME_TRIAL", str(number))
    rate = Hyperparam(learning_rate=0.1 * (number + 1))
    settings = Settings(model="m", folder="m", seed=number, tracker=tracker, hyperparam=rate)
    with Run.begin(settings, f"identity {number}", "d") as run:
        run.write("dataset.json", {"name": "birds", "classes": ["a", "b"]})
        run.metric(epoch=1, step=10, loss=1.0, val_accuracy=0.5 + 0.1 * number, seconds=0.1)
        run.status(test={"accuracy": 0.75})
    done = Run(path=run.path)
    following.sync(done, (tracker,))
    return done


def test_tensorboard_has_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import metadata

    found = {}
    for number in range(2):
        run = trial("tensorboard", number, monkeypatch)
        for file in (run.path / "trackers" / "tensorboard").glob("events*"):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "hparams":
                        info = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                        found[info.group_name] = info.hparams["hyperparam.learning_rate"].number_value
    assert sorted(found.values()) == [0.1, 0.2]


def test_wandb_has_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for number in range(2):
        run = trial("wandb", number, monkeypatch)
        content = b"".join(file.read_bytes() for file in (run.path / "trackers").rglob("*.wandb"))
        from wandb.proto import wandb_internal_pb2 as records

        said = records.RunRecord(run_group="lr-001").SerializeToString()
        assert said in content


@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow isn't installed")
def test_mlflow_has_a_parent_and_its_children(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = [trial("mlflow", number, monkeypatch, sweep) for number, sweep in enumerate(("a-001", "a-001", "b-001"))]
    client = MlflowClient(f"sqlite:///{home}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("inflame")
    assert experiment is not None
    found = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    parents = {name: key for key, run in found.items() if (name := run.info.run_name) in ("a-001", "b-001")}
    assert len(found) == len(runs) + 2
    children = {run.info.run_name: run.data.tags.get("mlflow.parentRunId") for run in found.values()}
    assert [children[run.name] for run in runs] == [parents["a-001"], parents["a-001"], parents["b-001"]]
