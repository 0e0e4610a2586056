"""A packaged job of SageMaker in a real container: podman or docker, and an image that is here and has a Python. With
one of the target `train` (and `torch` in its name, so that its own torch is taken) pods are rehearsed in it too.

INFLAME_TEST_IMAGE=localhost/inflame-torch:1 pytest -m slow tests/unit/infra/test_in_a_container.py
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame import store
from inflame.infra import rehearse
from inflame.infra.launcher import OK
from inflame.infra.loopback import machine
from inflame.infra.loopback.aws import Aws
from inflame.infra.loopback.sagemaker import SageMaker as Control
from inflame.infra.loopback.server import Server
from inflame.infra.pack import package
from inflame.infra.places.sagemaker import SageMaker
from inflame.records import Job, JobSpec, Package

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")]
Wait = Callable[..., Job]
Send = Callable[..., Job]

# Needs nothing but the standard library; process 1 of its container.
PROGRAM = """
import json, os, pathlib, signal, sys, time
job = json.loads(os.environ["INFLAME_JOB"])
words = dict(word.split("=", 1) for word in job["arguments"])
def save(*_):
    print("saved", flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("process", os.getpid(), "token", os.environ["TOKEN"], flush=True)
print(*sorted(os.listdir("/opt/ml/input/data/code")), flush=True)
pathlib.Path("/opt/ml/model/net.txt").write_text("net")
if job["output"].startswith("file://"):
    pathlib.Path(job["output"][7:], "told.txt").write_text("told")
print("line two", flush=True)
time.sleep(float(words.get("sleep", 0)))
sys.exit(int(words.get("code", 0)))
"""


@pytest.fixture
def image() -> str:
    found = os.environ.get("INFLAME_TEST_IMAGE", "")
    if not found or not machine.having(found):
        pytest.skip("needs podman or docker, and INFLAME_TEST_IMAGE: an image with a Python")
    return found


@pytest.fixture
def control(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    pytest.importorskip("boto3")
    aws = Aws(tmp_path / "buckets")
    with Server(aws) as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "TOKEN": "hush",
        }.items():
            monkeypatch.setenv(name, value)
        found = Control(tmp_path / "machines")
        aws.join(found)
        archive = aws.buckets.make("bucket") / "code" / "abc.tar.gz"
        archive.parent.mkdir()
        package.pack(archive, {".inflame/bootstrap.py": PROGRAM.encode()}, iter(()))
        yield found


@pytest.fixture
def place(control: Control) -> SageMaker:
    settings = {"role": "arn:aws:iam::123456789012:role/inflame", "region": "us-east-1"}
    return SageMaker({**settings, "endpoint": os.environ["AWS_ENDPOINT_URL"]})


@pytest.fixture
def send(place: SageMaker, image: str, model: Path) -> Send:
    def now(*words: str, output: str = "s3://bucket/out") -> Job:
        more: dict[str, Any] = {"environment": ("TOKEN",), "image": image, "output": output}
        spec = JobSpec(model=str(model), arguments=words, **more)
        return place.send(place.request(spec, Package(tree="t", archive="s3://bucket/code/abc.tar.gz")))

    return now


def test_the_job_is_process_1_and_its_model_comes_out(place: SageMaker, send: Send, wait: Wait, tmp_path: Path) -> None:
    job = wait(place, send())
    assert (job.status, job.code) == ("done", 0), list(place.logs(job))
    assert list(place.logs(job)) == ["process 1 token hush", "abc.tar.gz", "line two"]
    (artifact,) = (tmp_path / "buckets" / "bucket" / "out").rglob("model.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(artifact.read_bytes())) as archive:
        assert archive.extractfile("./net.txt").read() == b"net"  # type: ignore[union-attr]


def test_a_failure_has_its_code(place: SageMaker, send: Send, wait: Wait) -> None:
    job = wait(place, send("code=3"))
    assert (job.status, job.code) == ("failed", 3)


def test_stop_lets_it_save(place: SageMaker, send: Send, wait: Wait, at_work: Callable[[SageMaker, Job], None]) -> None:
    job = send("sleep=60")
    at_work(place, job)
    place.cancel(job)
    assert wait(place, job).status == "stopped"
    assert list(place.logs(job))[-1] == "saved"


def test_a_machine_that_is_lost_leaves_no_container(
    control: Control, place: SageMaker, send: Send, wait: Wait, at_work: Callable[[SageMaker, Job], None], image: str
) -> None:
    job = send("sleep=600")
    at_work(place, job)
    control.lose(job.id)
    assert (wait(place, job).status, place.status(job).code) == ("failed", 137)
    words = [machine.having(image), "ps", "--quiet", "--filter", f"name={control.jobs[job.id].machines[0].name}"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == ""


def test_the_folder_of_a_rehearsal_is_seen(
    place: SageMaker, send: Send, wait: Wait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(machine.STAGE, str(tmp_path))
    assert wait(place, send(output=tmp_path.as_uri())).status == "done"
    assert (tmp_path / "told.txt").read_text() == "told"


# Saves, and then works until it is killed; the second time it goes on and ends. Tells where it was.
APP = """
import json, os, pathlib, sys, time
from inflame import store
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
def at(name): return store.join(words["output"], *name.split("/"))
if not store.exists(at("last/checkpoint.safetensors")):
    store.write(at("last/checkpoint.safetensors"), b"saved")
    time.sleep(600)
inside = [name for name in ("/run/.containerenv", "/.dockerenv") if pathlib.Path(name).exists()]
store.write(at("bundle/bundle.json"), "{}")
store.write(at("status.json"), json.dumps({"state": "done", "model": f"tiny {inside} {os.getuid()}", "sittings": 2}))
"""


@pytest.mark.timeout(300)
def test_a_rehearsed_pod_is_a_container(image: str, model: Path, tmp_path: Path) -> None:
    """Killed in the middle, made anew, and at its end nothing of it is left."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    has = [machine.having(image), "run", "--rm", "--entrypoint", "python3", image, "-c", "import torch, inflame"]
    if "torch" not in image or subprocess.run(has, capture_output=True).returncode:
        pytest.skip("needs an image of the target train, with torch in its name")
    (model / "app.py").write_text(APP)
    (tmp_path / "inflame.toml").write_text(f'[on.kubernetes]\nclaim = "shared:{tmp_path}/claim"\nimage = "{image}"\n')
    spec = JobSpec(model=str(model), output=f"{tmp_path}/claim/inflame", arguments=("io.training_input=digits",))
    rows = {one.what: one for one in rehearse.rehearse(spec, "kubernetes").findings}
    for what in ("request", "job", "resume", "export"):
        assert rows[what].state == OK, rows
    assert f"in containers of {image}" in rows["request"].text
    assert "containerenv" in rows["job"].text or "dockerenv" in rows["job"].text
    assert f" {os.getuid()} " in rows["job"].text
    words = [machine.having(image), "ps", "--all", "--quiet", "--filter", "name=inflame-"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == ""
    assert not list((store.home() / "cache" / "rehearsals").iterdir())
