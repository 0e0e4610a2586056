"""Every launcher keeps the promises of `inflame.infra.launcher.Launcher`, with a model folder that needs no torch.

What a launcher asks for is shown for all of them; what it does, here for those of this machine: the others are run
against their control planes (tests/unit/infra) and on their machines (test_on_the_machine.py).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from inflame import plugins
from inflame.errors import DataError, UserError
from inflame.infra.launcher import ENDED, NOT_OK, OK, UNKNOWN, Launcher
from inflame.records import Job, JobSpec, Package

APP = """
import json, os, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
run = pathlib.Path(words["output"]); run.mkdir(parents=True)
arrived = {"argv": sys.argv[1:], "token": os.environ.get("TOKEN"), "started": os.environ["INFLAME_STARTED"]}
(run / "words.json").write_text(json.dumps(arrived))
def save(*_):
    (run / "saved").touch(); print("saved", flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("Grüße, line one", flush=True)
time.sleep(float(words.get("sleep", 0)))
sys.exit(int(words.get("code", 0)))
"""


HERE = ("local",)
OUTPUTS = {
    "sagemaker": "s3://bucket/x",
    "azureml": "az://container/x",
    "vertexai": "gs://bucket/x",
    "kubernetes": "s3://bucket/x",
}
CARRIED = Package(tree="1" * 40, archive="{place}/code/abc.tar.gz", model="models/mine", sha256="abc")


@pytest.fixture(params=HERE)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    found = plugins.load("launcher", request.param)()
    assert isinstance(found, Launcher)
    return found


@pytest.fixture(params=plugins.names("launcher"))
def place(request: pytest.FixtureRequest) -> tuple[str, Launcher, str]:
    """Any launcher, with the settings that it needs, and an output that its machines reach."""
    kind = plugins.load("launcher", request.param)
    known = getattr(sys.modules[kind.__module__], "SETTINGS", ())
    found = kind({one.name: one.example for one in known if one.required}) if known else kind()
    assert isinstance(found, Launcher)
    return request.param, found, OUTPUTS.get(request.param, "/shared/x")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


def wait(launcher: Launcher, job: Job, seconds: float = 20) -> Job:
    deadline = time.monotonic() + seconds
    while (now := launcher.status(job)).status not in ENDED:
        assert time.monotonic() < deadline, f"{now} after {seconds} s"
        time.sleep(0.02)
    return now


def test_a_request_for_elsewhere_is_pure_and_says_all(
    place: tuple[str, Launcher, str], model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, found, output = place
    monkeypatch.setenv("TOKEN", "hush")
    words = ("hyperparam.lr=0.1", "name=two words and 'quotes' $HOME")
    spec = JobSpec(model=str(model), arguments=words, environment=("TOKEN",), output=f"{output}/jobs/mine")
    package = replace(CARRIED, archive=CARRIED.archive.format(place=output))
    before = sorted(home.rglob("*"))
    first, second = found.request(spec, package), found.request(spec, package)
    assert first == second == json.loads(json.dumps(first))
    assert sorted(home.rglob("*")) == before
    text = json.dumps(first)
    assert "hush" not in text
    assert "TOKEN" in text
    assert "abc.tar.gz" in text
    assert first["backend"] == name
    assert first["output"] == spec.output


def test_no_launcher_takes_a_folder_without_app(place: tuple[str, Launcher, str], tmp_path: Path) -> None:
    _, found, output = place
    with pytest.raises(DataError, match=r"no app\.py"):
        found.request(JobSpec(model=str(tmp_path), output=output))


def test_looking_at_a_place_raises_nothing(place: tuple[str, Launcher, str], model: Path) -> None:
    """No credentials, no network: each is a finding with a remedy, or could not be checked."""
    _, found, output = place
    for one in found.check(JobSpec(model=str(model), output=output)):
        assert one.state in (OK, NOT_OK, UNKNOWN)
        assert one.what
        assert one.text
        assert one.state != NOT_OK or one.remedy
    assert json.loads(json.dumps(found.rights(JobSpec(model=str(model), output=output)))) is not None


def test_request_is_pure_and_json(launcher: Launcher, model: Path, home: Path) -> None:
    spec = JobSpec(model=str(model), arguments=("a=1",), environment=("NOT_SET",), output="/runs/1")
    before = sorted(home.rglob("*"))
    first, second = launcher.request(spec), launcher.request(spec)
    assert first == second == json.loads(json.dumps(first))
    assert sorted(home.rglob("*")) == before
    assert "a=1" in json.dumps(first)
    assert "/runs/1" in json.dumps(first)


def test_request_refuses_a_folder_without_app(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no app\.py"):
        launcher.request(JobSpec(model=str(tmp_path)))


def test_a_variable_that_is_not_set_is_named(launcher: Launcher, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(UserError, match="TOKEN"):
        launcher.send(launcher.request(JobSpec(model=str(model), environment=("TOKEN",))))


def test_words_variables_and_output_arrive(
    launcher: Launcher, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    words = ("hyperparam.lr=0.1", "name=two words and 'quotes' $HOME", "--json")
    spec = JobSpec(model=str(model), arguments=words, environment=("TOKEN",), output=str(tmp_path / "out put"))
    request = launcher.request(spec)
    assert "hush" not in json.dumps(request)
    job = wait(launcher, launcher.send(request))
    assert (job.status, job.code) == ("done", 0)
    folder = launcher.fetch(job)
    arrived = json.loads((folder / "words.json").read_text())
    assert arrived["argv"] == ["train", *words, f"output={tmp_path / 'out put'}"]
    assert arrived["token"] == "hush"
    assert abs(float(arrived["started"]) - time.time()) < 60


def test_logs_are_lines(launcher: Launcher, model: Path) -> None:
    job = wait(launcher, launcher.send(launcher.request(JobSpec(model=str(model)))))
    assert list(launcher.logs(job)) == ["Grüße, line one"]


def test_a_failure_has_its_code(launcher: Launcher, model: Path) -> None:
    job = wait(launcher, launcher.send(launcher.request(JobSpec(model=str(model), arguments=("code=3",)))))
    assert (job.status, job.code) == ("failed", 3)


def test_cancel_lets_the_job_save(launcher: Launcher, model: Path) -> None:
    job = launcher.send(launcher.request(JobSpec(model=str(model), arguments=("sleep=60",))))
    while not list(launcher.logs(job)):
        time.sleep(0.02)
    assert launcher.status(job).status == "running"
    launcher.cancel(job)
    ended = wait(launcher, job)
    assert (ended.status, ended.code) == ("stopped", 143)
    assert (launcher.fetch(ended) / "saved").exists()
    assert launcher.cancel(ended).status == "stopped"


def test_another_process_sees_the_same(launcher: Launcher, model: Path) -> None:
    """A launcher made anew stands for the one of another process: it has no memory of the job."""
    job = launcher.send(launcher.request(JobSpec(model=str(model), arguments=("code=4",))))
    other = type(launcher)()
    assert wait(other, job).code == 4
    assert wait(launcher, job).code == 4


def test_nothing_to_fetch_is_said(launcher: Launcher, model: Path) -> None:
    (model / "app.py").write_text("raise SystemExit(1)")
    job = wait(launcher, launcher.send(launcher.request(JobSpec(model=str(model)))))
    with pytest.raises(DataError, match="no run folder"):
        launcher.fetch(job)


def test_an_unknown_job_is_refused(launcher: Launcher) -> None:
    with pytest.raises(UserError, match="nowhere-7"):
        launcher.status(Job(id="nowhere-7", backend="local", status="running"))


def test_the_command_is_this_python(launcher: Launcher, model: Path) -> None:
    assert launcher.request(JobSpec(model=str(model)))["command"][:3] == [
        sys.executable,
        str(model / "app.py"),
        "train",
    ]
