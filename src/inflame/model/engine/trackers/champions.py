"""MLflow's registry of models is told about a champion: `python -m inflame.model.engine.trackers.champions FOLDER`.

A process of its own (decision 0009), so that a server that hangs or refuses stops nothing. What MLflow hasn't got yet
of the versions is sent, and its alias `champion` set to the one that serves: telling it twice changes nothing, and
whatever could not be told is told by the next change.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from inflame import plugins, store
from inflame.errors import UserError

WAIT = 60.0  # seconds for a server to answer
ALIAS, VERSION = "champion", "inflame.version"
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def told(folder: Path) -> str:
    """Tells the registry about the named model in the folder; what came of it, in words. Raises nothing."""
    try:
        plugins.demand("tracker", "mlflow")
    except UserError as error:
        return f"not told: {error.message} {error.remedy}"
    command = [sys.executable, "-m", __name__, str(folder)]
    environment = {**_IMPATIENT, "MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=WAIT, env=environment, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not told: no answer in {WAIT:.0f} s; the next promotion or rollback tells it"
    lines = (done.stdout if done.returncode == 0 else done.stderr).decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no answer"
    return last if done.returncode == 0 else f"not told: {last[:300]}; the next promotion or rollback tells it"


def tell(folder: Path) -> str:
    """Sends the versions that MLflow hasn't got, and sets the alias."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client, name = MlflowClient(), folder.name
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, tags={"made by": "inflame"})
    known = {
        found.tags[VERSION]: found.version
        for found in client.search_model_versions(f"name='{name}'")
        if VERSION in found.tags
    }
    serving = (folder / "champion").resolve().name
    entries = {f"{entry['version']:04}": entry for entry in _promoted(folder)}
    for number, entry in entries.items():
        if number not in known:
            known[number] = _send(client, name, folder / "versions" / number, entry)
    client.set_registered_model_alias(name, ALIAS, known[serving])
    return f"{name}@{ALIAS} is version {known[serving]} at {store.shown(os.environ.get('MLFLOW_TRACKING_URI', ''))}"


def _send(client: Any, name: str, place: Path, entry: dict[str, Any]) -> str:
    """A run with the bundle as its artifact, and a version of the model that is made of it."""
    experiment = client.get_experiment_by_name("inflame")
    number = experiment.experiment_id if experiment is not None else client.create_experiment("inflame")
    run = client.create_run(number, run_name=f"{name} {place.name}", tags={"inflame.run": entry["run"]})
    client.log_artifacts(run.info.run_id, str(place / "bundle"), "bundle")
    accuracy = entry["evidence"].get("b", entry["evidence"].get("accuracy"))
    if accuracy is not None:
        client.log_metric(run.info.run_id, "test_accuracy", accuracy)
    client.set_terminated(run.info.run_id)
    about = {key: str(entry[key])[:5000] for key in ("run", "who", "time", "action", "why")}
    made = client.create_model_version(
        name,
        f"{run.info.artifact_uri}/bundle",
        run_id=run.info.run_id,
        tags={VERSION: place.name, **{f"inflame.{key}": value for key, value in about.items()}},
        description=f"{entry['run']}: {entry['why']}",
    )
    return str(made.version)


def _promoted(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_bytes().split(b"\n")[:-1]
    return [entry for entry in map(json.loads, lines) if entry["action"] in ("promote", "force")]


if __name__ == "__main__":
    sys.stdout.write(tell(Path(sys.argv[1])) + "\n")
