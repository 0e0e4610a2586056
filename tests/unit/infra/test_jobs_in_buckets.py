"""Jobs whose output is a bucket (S3 as moto has it): on this machine, and through SageMaker's control plane, with the
real archive and the real bootstrap."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inflame import plugins, store
from inflame.infra import attempts, jobs, launch, places
from inflame.infra.command import RUN, command, variables
from inflame.infra.jobs import Sent
from inflame.infra.loopback.sagemaker import SageMaker as Control
from inflame.infra.loopback.server import Server
from inflame.infra.pack import package, wheel
from inflame.records import Job, JobSpec

pytest.importorskip("boto3")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
logging.getLogger("werkzeug").setLevel(logging.WARNING)  # moto tells every request
INFLAME = wheel.files()

APP = """
import json, os, signal, sys, time
from inflame import store
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
place = store.join(words["output"], "step")
step = int(store.read_text(place)) if store.exists(place) else 0
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("begins at", step, flush=True)
while step < int(words["steps"]):
    time.sleep(0.1); step += 1; store.write(place, str(step))
    if told:
        print("saved", flush=True); sys.exit(143)
store.write(store.join(words["output"], "status.json"), json.dumps({"state": "done"}))
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_BEAT", "0.5")
    monkeypatch.setattr(attempts, "BEAT", 0.5)
    monkeypatch.setattr(wheel, "files", lambda: dict(INFLAME))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


@pytest.fixture
def sagemaker(aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The launcher of that name, and a control plane that runs what it is told."""
    plugin = plugins.Plugin(target="inflame.infra.places.sagemaker:SageMaker", extra="aws")
    monkeypatch.setitem(plugins.SEAMS["launcher"], "sagemaker", plugin)
    monkeypatch.setenv("INFLAME_SAGEMAKER_ROLE", "arn:aws:iam::123456789012:role/inflame")
    with Server(Control(tmp_path / "machines")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", server.url)
        yield server


def until(sent: Sent, *states: str, seconds: float = 90) -> Sent:
    deadline = time.monotonic() + seconds
    while (sent := jobs.refresh(sent)).state not in states:
        assert time.monotonic() < deadline, f"{sent.state}: {sent.reason} {jobs.logs(sent)[0]}"
        time.sleep(0.2)
    return sent


def send(model: Path, backend: str, steps: int, place: str, **more: object) -> Sent:
    spec = JobSpec(model=str(model), arguments=(f"steps={steps}",), output=place, **more)  # type: ignore[arg-type]
    return launch.plan(spec, backend).send()


@pytest.mark.parametrize("backend", ["local", "sagemaker"])
def test_there_and_back(backend: str, mine: Path, sagemaker: Server, request: pytest.FixtureRequest) -> None:
    place = f"s3://bucket/{request.node.name}"
    sent = send(mine, backend, 3, place, max_time=600.0)
    done = until(sent, *jobs.ENDED)
    assert (done.state, done.reason, done.sent) == ("done", "", 1), jobs.logs(done)
    assert jobs.logs(done)[0] == ["begins at 0"]
    assert (done.cost is None) == (backend == "local")
    folder = jobs.fetch(done)
    assert (folder / "step").read_text() == "3"
    assert store.listdir(store.join(place, "code")) == [sent.package.archive.rpartition("/")[2]]
    assert send(mine, backend, 4, place).package.archive == sent.package.archive  # uploaded once


def test_stop_there(mine: Path, sagemaker: Server) -> None:
    sent = send(mine, "sagemaker", 1000, "s3://bucket/stop")
    deadline = time.monotonic() + 60
    while not jobs.logs(sent)[0]:
        assert time.monotonic() < deadline, jobs.refresh(sent)
        time.sleep(0.2)
    ended = until(jobs.stop(sent), *jobs.ENDED)
    assert (ended.state, ended.reason) == ("stopped", "it was asked to stop")
    assert jobs.logs(ended)[0][-1] == "saved"


def test_one_of_many_gets_the_attempt(aws: str, request: pytest.FixtureRequest) -> None:
    out = f"s3://bucket/{request.node.name}"
    code = (
        "import os, sys, time; from inflame.infra import attempts\n"
        "n = attempts.begin(sys.argv[1], limit=5, me={'sign': os.urandom(8).hex()})\n"
        "for _ in range(12 if n else 0): attempts.beat(sys.argv[1], n, 1.0); time.sleep(0.2)\n"
        "print(n)"
    )
    given = {**os.environ, "INFLAME_BEAT": "0.5"}
    many = [
        subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE, text=True, env=given)
        for _ in range(4)
    ]
    assert sorted(int(one.communicate()[0]) for one in many) == [0, 0, 0, 1]


def test_create_gives_it_to_one(aws: str, tmp_path: Path) -> None:
    for uri in (f"s3://bucket/{tmp_path.name}/once", str(tmp_path / "once"), "memory://here/once"):
        assert store.create(uri, "first")
        assert not store.create(uri, "second")
        assert store.read_text(uri) == "first"


def test_what_has_changed_is_fetched_again_and_what_has_not_stays(aws: str, home: Path) -> None:
    out = "s3://bucket/again"
    job = Job(id="again", backend="sagemaker", status="running", output=out)
    store.write(store.join(out, RUN, "status.json"), "{}")
    store.write(store.join(out, RUN, "weights"), b"1" * 2**21)
    folder = places.fetched(job)
    before = (folder / "weights").stat()
    assert places.fetched(job) == folder
    assert (folder / "weights").stat().st_ino == before.st_ino  # not written again
    time.sleep(1.1)  # S3 counts whole seconds
    store.write(store.join(out, RUN, "weights"), b"2" * 2**21)  # as long as before
    assert (places.fetched(job) / "weights").read_bytes() == b"2" * 2**21


def test_nothing_of_the_package_but_its_name_is_in_the_request(mine: Path, sagemaker: Server) -> None:
    plan = launch.plan(JobSpec(model=str(mine), output="s3://bucket/x", machine="gpu-small"), "sagemaker")
    assert plan.machine.price == 0.736
    assert len(json.dumps(plan.request)) < 6000
    assert RUN == "run"


@pytest.mark.slow
def test_two_machines_that_share_nothing_but_the_bucket(aws: str, tmp_path: Path) -> None:
    """A model of inflame's own: each machine has a home and a work folder of its own."""
    pytest.importorskip("lightning")
    from inflame.plugins import model_folder

    words = ("io.training_input=digits", "hyperparam.num_epochs=3", "limit=400")
    spec = JobSpec(model=str(model_folder("mnist")), arguments=words, output="s3://bucket/two")
    plan = launch.plan(spec, "local")
    package.upload(plan.luggage, plan.place)
    told = variables(replace(plan.spec, count=2), plan.package)
    store.download(plan.package.archive, tmp_path / "code.tar.gz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    machines = []
    for rank in range(2):
        folder = tmp_path / f"machine-{rank}"
        mine = {"NODE_RANK": str(rank), "INFLAME_WORK": str(folder), "INFLAME_PARTS": str(tmp_path / "parts")}
        given = {key: value for key, value in os.environ.items() if key != "INFLAME_HOME"} | told | meet | mine
        machines.append(subprocess.Popen(command(str(tmp_path / "code.tar.gz")), env=given, stdout=subprocess.PIPE))
    said = [one.communicate(timeout=110)[0].decode() for one in machines]
    assert [one.returncode for one in machines] == [0, 0], said
    status = json.loads(store.read_text(store.join(plan.spec.output, RUN, "status.json")))
    assert (status["state"], status["devices"]) == ("done", 2)
    assert '"label"' in said[0].splitlines()[-1] or any('"label"' in line for line in said[0].splitlines())
