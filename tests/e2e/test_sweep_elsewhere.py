"""Sweeps whose trials are jobs of a place: sent once each, watched and stopped there, and brought back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inflame.infra import jobs
from inflame.infra.loopback.server import Server

APP = """import sys
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
# A home of its own has every job, so what it does is noted beside the model. It ends when the file `go` is there.
TRAIN = """import hashlib, math, time
from pathlib import Path

from inflame.runs import Run


def train(settings):
    h = settings.hyperparam
    beside = Path(h.beside)
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        with (beside / "begun.log").open("a") as file:
            file.write(f"{h.mood}\\n")
        run.metric(epoch=1, seconds=1.0, val_accuracy=math.nan if h.mood == "diverges" else h.x)
        run.flush()
        while h.mood == "diverges" or not (beside / "go").exists():
            time.sleep(0.02)
        run.status(val={"accuracy": h.x, "low": h.x, "high": h.x, "n": 1})
    return {"run": str(run.path)}
"""
CONFIG = '[hyperparam]\nx = 0.5\nmood = "fine"\nbeside = ""\n[io]\ntraining_input = "digits"\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "waits"
    folder.mkdir()
    for name, text in (("app.py", APP), ("train.py", TRAIN), ("model-config.toml", CONFIG)):
        (folder / name).write_text(text)
    return folder


def driver(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "inflame", "sweep", *words, "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "INFLAME_BEAT": "0.5"},
    )


def killed_when(there: Callable[[], bool], *words: str, seconds: float) -> None:
    """Begins the sweep, and kills its driver as soon as it has come so far."""
    with driver(*words) as begun:
        wait_for(there, begun, seconds)
        begun.kill()


def wait_for(there: Callable[[], bool], begun: subprocess.Popen[str], seconds: float) -> None:
    """Until it is so, while the driver lives."""
    end = time.monotonic() + seconds
    while not there():
        assert begun.poll() is None, begun.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(*words: str, seconds: float) -> dict[str, Any]:
    """What the sweep says at its end."""
    with driver(*words) as going:
        out, err = going.communicate(timeout=seconds)
    assert going.returncode == 0, out + err
    return dict(json.loads(out))


def test_a_killed_driver_goes_on_and_what_is_hopeless_is_stopped_there(model: Path, tmp_path: Path, home: Path) -> None:
    words = [str(model), "hyperparam.mood=one,two,diverges", f"hyperparam.beside={tmp_path}", "in=30s"]
    words += ["--workers", "2", "--on", "local", "--output", (tmp_path / "place").as_uri()]
    killed_when(lambda: len(list((home / "runs").glob("*/metrics.jsonl"))) == 2, *words, seconds=60)
    (tmp_path / "go").touch()
    told = ended(*words, seconds=60)
    assert [one["state"] for one in told["trials"]] == ["done", "done", "stopped"], told
    assert "no longer finite" in told["trials"][2]["reason"]
    assert sorted((tmp_path / "begun.log").read_text().split()) == ["diverges", "one", "two"]
    assert all(one["attempt"] == 1 for one in told["trials"])
    status = [json.loads((home / "runs" / one["run"] / "status.json").read_text()) for one in told["trials"]]
    assert [(one["sweep"], one["trial"]) for one in status] == [(told["sweep"], number) for number in range(3)]
    assert [one["state"] for one in status] == ["done", "done", "interrupted"]


def test_ctrl_c_ends_the_jobs_and_the_same_command_goes_on(model: Path, tmp_path: Path, home: Path) -> None:
    words = [str(model), "hyperparam.mood=one,two", f"hyperparam.beside={tmp_path}", "--workers", "2"]
    words += ["--on", "local", "--output", (tmp_path / "place").as_uri()]
    with driver(*words) as begun:
        wait_for(lambda: len(list((home / "runs").glob("*/metrics.jsonl"))) == 2, begun, 60)
        begun.send_signal(signal.SIGINT)
        begun.communicate(timeout=60)
    assert begun.returncode == 130
    assert {one.state for one in jobs.every()} == {"stopped"}, "nothing that costs money is left"
    (tmp_path / "go").touch()
    told = ended(*words, seconds=60)
    assert [(one["state"], one["attempt"]) for one in told["trials"]] == [("done", 2)] * 2
    assert len(jobs.every()) == 4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
def test_on_sagemaker_every_trial_is_one_job(sagemaker: Server, home: Path) -> None:
    """Real trainings, in buckets; the driver is killed while some are done, some at work and some not begun."""
    words = ["mnist", "io.training_input=digits", "hyperparam.num_epochs=3", "hyperparam.learning_rate=1e-4,1e-3,5e-3"]
    words += ["seed=0,1", "--workers", "2", "--on", "sagemaker", "--output", "s3://bucket/sweep", "--no-rehearsal"]
    words += ["--max-money", "3"]
    control: Any = sagemaker.control
    killed_when(lambda: len(control.jobs) == 3, *words, seconds=200)
    told = ended(*words, seconds=400)
    assert [one["state"] for one in told["trials"]] == ["done"] * 6, told
    assert len(control.jobs) == 6
    assert all(one["attempt"] == 1 for one in told["trials"])
    assert 0 < told["cost"] < 0.1
    for one in told["trials"]:
        status = json.loads((home / "runs" / one["run"] / "status.json").read_text())
        assert (status["state"], status["sittings"], status["trial"]) == ("done", 1, one["number"])
        assert (home / "runs" / one["run"] / "bundle" / "model.onnx").is_file()
    board = [sys.executable, "-m", "inflame", "board", "--sweep", told["sweep"], "--each", "--json"]
    (table,) = json.loads(subprocess.run(board, capture_output=True, text=True, check=True).stdout)["tables"]
    assert len(table["entries"]) == 6
