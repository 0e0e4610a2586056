"""A real training through a place: packaged, sent, run by its control plane, and brought back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inflame.infra.loopback.server import Server

pytest.importorskip("boto3")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*"),
]
INFLAME = str(Path(sys.executable).parent / "inflame")


def say(*words: str, code: int = 0) -> Any:
    done = subprocess.run([INFLAME, *words, "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_sagemaker_there_and_back(sagemaker: Server) -> None:
    words = ("mnist", "--on", "sagemaker", "--output", "s3://bucket/inflame", "--no-rehearsal")
    settings = ("io.training_input=digits", "in=5s", "seed=3")
    job = say("launch", *words, *settings)["id"]
    assert say("launch", *words, *settings)["id"] == job  # sent once, however often it is said
    assert say("jobs", "wait", job)["state"] == "done"
    run = Path(say("jobs", "fetch", job)["run"])
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "done"
    assert status["test"]["n"] > 200
    assert (run / "bundle" / "model.onnx").is_file()
    assert (run / "report.html").is_file()
    assert len([one for one in sagemaker.asked if one.startswith("POST")]) >= 3
    assert len(sagemaker.control.jobs) == 1  # type: ignore[attr-defined]


def test_two_machines_of_sagemaker_train_as_one(sagemaker: Server) -> None:
    """They find each other by what SageMaker writes into their folders, and torchrun does the rest."""
    words = ("mnist", "--on", "sagemaker", "--output", "s3://bucket/two", "--no-rehearsal", "--count", "2")
    job = say("launch", *words, "io.training_input=digits", "in=5s")["id"]
    assert say("jobs", "wait", job)["state"] == "done"
    told = subprocess.run([INFLAME, "jobs", "logs", job], capture_output=True, text=True, timeout=60).stdout
    assert "pace     2 x cpu" in told
    assert json.loads((Path(say("jobs", "fetch", job)["run"]) / "status.json").read_text())["state"] == "done"
