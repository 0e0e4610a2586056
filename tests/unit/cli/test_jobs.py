"""The verbs about other machines: launch, jobs, rehearse, doctor --on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inflame import plugins
from inflame.cli.main import main
from inflame.infra import attempts
from inflame.infra.pack import wheel

INFLAME = wheel.files()

APP = """
import pathlib, sys
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
run = pathlib.Path(words["output"].removeprefix("file://")); run.mkdir(parents=True, exist_ok=True)
(run / "status.json").write_text('{"state": "done", "model": "tiny"}')
print("trained", flush=True)
sys.exit(int(words.get("code", 0)))
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_BEAT", "0.3")
    monkeypatch.setattr(attempts, "BEAT", 0.3)
    monkeypatch.setattr(wheel, "files", lambda: dict(INFLAME))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(words)) == code, capsys.readouterr()
    return capsys.readouterr().out


def test_launch_wait_logs_fetch(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no jobs yet" in said(capsys, "jobs")
    sent = json.loads(said(capsys, "launch", str(model), "--on", "local", "--json"))
    assert json.loads(said(capsys, "jobs", "wait", "--json"))["state"] == "done"
    assert said(capsys, "jobs", "logs", "-f", sent["id"]) == "trained\n"
    assert "state   done" in said(capsys, "jobs", "status", sent["id"][:8])
    fetched = json.loads(said(capsys, "jobs", "fetch", "--json"))
    assert json.loads((Path(fetched["run"]) / "status.json").read_text())["state"] == "done"
    assert sent["id"] in said(capsys, "runs")
    (row,) = json.loads(said(capsys, "jobs", "--json"))
    assert (row["id"], row["state"], row["cost"]) == (sent["id"], "done", None)
    assert "unknown" in said(capsys, "jobs")  # what it cost: never 0
    assert "done" in said(capsys, "jobs", "stop")  # an ended job stays as it is


def test_a_relative_output_is_in_the_folder_that_the_command_was_given_in(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    sent = json.loads(said(capsys, "launch", str(model), "--on", "local", "--output", "there", "--json"))
    assert json.loads(said(capsys, "jobs", "wait", "--json"))["state"] == "done"
    assert (model.parent / "there" / "jobs" / sent["id"] / "exit.json").is_file()
    assert said(capsys, "jobs", "logs", "-f") == "trained\n"


def test_what_left_no_log_of_its_own_is_told_once(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("launch", str(model), "--on", "local", "--output", str(tmp_path / "there"), "--json")
    sent = json.loads(said(capsys, *words))
    assert json.loads(said(capsys, "jobs", "wait", "--json"))["state"] == "done"
    shutil.rmtree(tmp_path / "there" / "jobs" / sent["id"] / "log")
    assert said(capsys, "jobs", "logs", "-f").count("trained") == 1  # the log of its place


def test_launched_twice_it_is_one_job(model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
    (model / "app.py").write_text(APP.replace('print("trained"', wait + 'print("trained"'))
    words = ("launch", str(model), "--on", "local", "--json")
    first, second = (json.loads(said(capsys, *words)) for _ in range(2))
    assert (first["id"], first["native"], 1) == (second["id"], second["native"], second["sent"])
    assert len(json.loads(said(capsys, "jobs", "--json"))) == 1
    gate.touch()
    assert json.loads(said(capsys, "jobs", "wait", "--json"))["state"] == "done"
    assert json.loads(said(capsys, *words))["id"] == f"{first['id']}-2"  # it is done: this is another one


def test_wait_has_the_exit_code_of_the_job(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "launch", str(model), "--on", "local", "code=3")
    assert "failed: trained" in said(capsys, "jobs", "wait", code=1)


def test_a_dry_run_shows_all_and_sends_nothing(model: Path, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    capsys.readouterr()
    assert main(["launch", str(model), "--on", "local", "--dry-run", "seed=3"]) == 0
    out, told = capsys.readouterr()
    request = json.loads(out)
    job = json.loads(request["variables"]["INFLAME_JOB"])
    assert (job["model"], job["arguments"]) == (".", ["seed=3"])
    assert "1 files" in told
    assert "app.py" in told
    assert "packages" in told
    assert not (home / "jobs" / "code").exists()
    assert "no jobs yet" in said(capsys, "jobs")


PLACES = {
    "local": ("", ""),
    "sagemaker": ("s3://bucket/x", "role = 'arn:aws:iam::123456789012:role/inflame'\nregion = 'us-east-1'"),
    "vertexai": ("gs://bucket/x", "project = 'p'\nlocation = 'us-central1'"),
    "azureml": ("az://box/x", "subscription = 's'\ngroup = 'g'\nworkspace = 'w'\naccount = 'a'"),
    "clearml": ("s3://bucket/x", ""),
    "slurm": ("/shared/x", ""),
    "kubernetes": ("gs://bucket/x", ""),
    "ray": ("/shared/x", ""),
}


def test_a_dry_run_is_there_at_once_and_imports_no_sdk(model: Path, tmp_path: Path) -> None:
    """At every place; how long it takes is measured by benchmarks/launching.py."""
    assert set(PLACES) == set(plugins.SEAMS["launcher"]), "a place that is not tried"
    (tmp_path / "inflame.toml").write_text("\n".join(f"[on.{name}]\n{told}" for name, (_, told) in PLACES.items()))
    commands = [["launch", str(model), "--on", name, "--output", at, "--dry-run"] for name, (at, _) in PLACES.items()]
    code = (
        "import sys; from inflame.cli.main import main; "
        f"codes = [main(words) for words in {commands!r}]; assert not any(codes), codes; "
        "heavy = {'torch', 'boto3', 'requests', 'azure', 'google.auth', 'clearml', 'ray', 'numpy', 'fsspec'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["launch", "mnist"], "Where should it run?"),
        (["launch", "mnist", "--on", "locall"], 'Did you mean "local"'),
        (["launch", "mnist", "--on", "local", "--machine", "gpu-smal"], 'Did you mean "gpu-small"'),
        (["launch", "mnist", "--on", "local", "--count", "0"], "1 or more"),
        (["launch", "mnist", "--on", "local", "--count", "2"], "one machine, not 2"),
        (["launch", "mnist", "--on", "local", "--max-time", "soon"], "not a length of time"),
        (["launch", "mnist", "--on", "local", "--max-money", "-1"], "more than 0"),
        (["launch", "mnist", "--on", "local", "--max-money", "1"], "unknown, so a cap on money"),
        (["launch", "mnist", "--on", "local", "--spot"], "spot machine is taken away"),
        (["launch", "mnist", "--on", "local", "output=x"], "named by --output"),
        (["launch", "--on", "local"], "One thing to train"),
        (["launch", "nmist", "--on", "local"], 'Did you mean "mnist"'),
        (["jobs", "lst"], 'Did you mean "list"'),
        (["jobs", "status"], "No job was sent yet"),
        (["jobs", "logs", "nobody"], 'no job "nobody"'),
        (["doctor", "--on", "sagemakr"], "no launcher"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "  do: " in error
    assert "Traceback" not in error


def test_a_rehearsal_finds_what_would_fail(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["rehearse", str(model), "--on", "local"]) == 1
    out = capsys.readouterr().out
    assert "without a checkpoint" in out
    (model / "app.py").write_text("import sys\nsys.exit('error: this can never be')\n")
    found = json.loads(said(capsys, "rehearse", str(model), "--on", "local", "--json", code=1))
    (job,) = [one for one in found["findings"] if one["what"] == "job"]
    assert (job["state"], job["text"]) == ("not ok", "this can never be")
    (model / "requirements.txt").write_text("there-is-no-such-package==1.0\n")
    found = json.loads(said(capsys, "rehearse", str(model), "--on", "local", "--json", code=1))
    (job,) = [one for one in found["findings"] if one["what"] == "job"]
    assert "there-is-no-such-package" in job["text"]


@pytest.mark.slow
def test_a_rehearsal_of_a_real_model(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    found = json.loads(said(capsys, "rehearse", "mnist", "--on", "local", "io.training_input=digits", "--json"))
    states = {one["what"]: one["state"] for one in found["findings"]}
    assert states["job"] == states["resume"] == states["export"] == states["step"] == "ok"
    assert found["seconds"] == 60.0  # what a training takes that is told nothing
    assert not list((home / "jobs").glob("local-*"))
    assert "no jobs yet" in said(capsys, "jobs")
