"""Real accounts, for those who have them. It costs some cents: see docs/places.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

PLACES = [name for name in os.environ.get("INFLAME_LIVE", "").split(",") if name]
OUTPUT = os.environ.get("INFLAME_LIVE_OUTPUT", "")
PATIENCE = 3600  # seconds: machines of clouds take their time
pytestmark = [pytest.mark.live, pytest.mark.timeout(2 * PATIENCE)]
INFLAME = str(Path(sys.executable).parent / "inflame")


@pytest.fixture(params=PLACES or ["nowhere"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if not PLACES or not OUTPUT:
        pytest.skip("needs an account: INFLAME_LIVE=sagemaker INFLAME_LIVE_OUTPUT=s3://my-bucket/inflame")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)  # these tests, and no others, have a network
    return str(request.param)


def say(*words: str, code: int = 0) -> Any:
    done = subprocess.run([INFLAME, *words, "--json"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def launch(place: str, *words: str) -> str:
    job = say("launch", "mnist", "--on", place, "--output", f"{OUTPUT}/{uuid.uuid4().hex[:8]}", *words)
    return str(job["id"])


def test_a_job_there_and_back(place: str) -> None:
    job = launch(place, "--no-rehearsal", "--max-time", "20m", "io.training_input=digits", "in=30s")
    assert say("jobs", "wait", job)["state"] == "done"
    run = Path(say("jobs", "fetch", job)["run"])
    assert json.loads((run / "status.json").read_text())["state"] == "done"


def test_a_job_that_is_stopped(place: str) -> None:
    job = launch(place, "--no-rehearsal", "--max-time", "20m", "io.training_input=digits", "in=10m")
    until = time.monotonic() + PATIENCE
    while say("jobs", "status", job)["state"] != "running":
        assert time.monotonic() < until
        time.sleep(10)
    say("jobs", "stop", job)
    assert say("jobs", "wait", job, code=1)["state"] == "stopped"
