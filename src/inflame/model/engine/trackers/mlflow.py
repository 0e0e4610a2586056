"""MLflow: a server named by MLFLOW_TRACKING_URI, else an SQLite file in inflame's home.

`mlflow ui --backend-store-uri sqlite:///…/mlflow/mlflow.db` shows the latter.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, final

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read while it is imported

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

from inflame import store
from inflame.model.engine.trackers import About, Point, Tracker

EXPERIMENT = "inflame"
_STATES = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_SPELLING = re.compile(r"[^\w\-. /]")  # what a name of MLflow's may not have
_METRICS, _PARAMS, _TEXT, _SOURCE = 1000, 100, 500, 60_000  # MLflow's limits of a request, and of values

T = TypeVar("T")


@final
class Mlflow(Tracker):
    """Uses a client of its own, so that nothing global is changed."""

    def place(self) -> str:
        """The tracking uri."""
        return store.shown(_uri())

    def begin(self, about: About, key: str) -> str:
        """A run of the experiment MLFLOW_EXPERIMENT_NAME (default: inflame). The key is its id."""
        self._client = MlflowClient(_uri())
        if key:
            self._key = key
            self._client.update_run(key, status="RUNNING")
            return key
        tags = {"mlflow.source.name": about.model, "mlflow.source.git.commit": about.facts.get("commit", "")}
        experiment = self._experiment()
        if about.sweep:
            tags["mlflow.parentRunId"] = self._parent(experiment, about.sweep)
        run = self._client.create_run(experiment, run_name=about.run, tags=tags)
        self._key = str(run.info.run_id)
        params = [Param(_name(name), str(value)[:_TEXT]) for name, value in about.settings.items()]
        for part in _parts(params, _PARAMS):
            self._client.log_batch(self._key, params=part)
        self._client.log_batch(self._key, tags=[RunTag(_name(name), value) for name, value in about.facts.items()])
        if about.version:
            source = json.dumps({"uri": about.source})[:_SOURCE]
            data = Dataset(about.data, about.version[:36], source_type="inflame", source=source)
            self._client.log_inputs(self._key, [DatasetInput(data, [])])
        return self._key

    def numbers(self, points: Sequence[Point]) -> None:
        """Metrics with their steps."""
        found = [
            Metric(_name(name), value, round(1000 * point.time), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for part in _parts(found, _METRICS):
            self._client.log_batch(self._key, metrics=part)

    def picture(self, name: str, file: Path) -> None:
        """An artifact below `pictures`, which MLflow shows."""
        self._client.log_artifact(self._key, str(file), "pictures")

    def files(self, name: str, path: Path) -> None:
        """Artifacts; a folder under its name."""
        if path.is_dir():
            self._client.log_artifacts(self._key, str(path), name)
        else:
            self._client.log_artifact(self._key, str(path))

    def end(self, state: str, summary: Mapping[str, float]) -> str:
        """Metrics without a history, and the state."""
        for name, value in summary.items():
            self._client.log_metric(self._key, _name(name), value)
        self._client.set_terminated(self._key, _STATES[state])
        return f"run {self._key} at {store.shown(_uri())}"

    def _parent(self, experiment: str, sweep: str) -> str:
        """The run that stands for a sweep, whose trials are its children; made by whichever comes first."""
        place = hashlib.sha256(f"{_uri()} {experiment}".encode()).hexdigest()[:12]
        file = store.make_folder(store.home() / "sweeps" / sweep) / f"mlflow-{place}"
        with file.open("a+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.seek(0)
            if known := held.read().strip():
                return known
            parent = self._client.create_run(experiment, run_name=sweep, tags={"mlflow.source.name": "inflame sweep"})
            self._client.set_terminated(parent.info.run_id)
            held.write(parent.info.run_id)
            return str(parent.info.run_id)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (_folder() / "artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=own))


def _folder() -> Path:
    return store.make_folder(store.home() / "mlflow")


def _uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_folder() / 'mlflow.db'}"


def _name(text: str) -> str:
    return _SPELLING.sub("_", text)[:250]


def _parts(items: Sequence[T], most: int) -> Iterator[Any]:
    for start in range(0, len(items), most):
        yield items[start : start + most]
