"""Parts of the tests of places: a packaged job without torch, and AWS on this machine."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame import store
from inflame.infra.launcher import ENDED, Launcher
from inflame.records import Job, JobSpec, Package

pytest.register_assert_rewrite("promises")

# What the packaged job does in these tests: says what has reached it, then as its arguments say.
PROGRAM = """
import json, os, pathlib, signal, sys, time
from inflame import store
job = json.loads(os.environ["INFLAME_JOB"])
words = dict(word.split("=", 1) for word in job["arguments"] if "=" in word)
rank = os.environ.get("RANK_FOR_TEST", "0")
def put(name, text):
    store.write(store.join(job["output"], "run", name), text)
def stop(*_):
    put("saved", "")
    print("saved", flush=True)
    sys.exit(int(words.get("stop", 143)))
signal.signal(signal.SIGTERM, stop)
print("Grüße, line one", flush=True)
began = store.exists(store.join(job["output"], "run", "saved"))
files = {}
for name in json.loads(words.get("look", "[]")):
    path = pathlib.Path(os.path.expandvars(name))
    files[name] = path.read_text() if path.is_file() else sorted(str(p.relative_to(path)) for p in path.rglob("*"))
seen = {"environment": dict(os.environ), "job": job, "files": files, "resumed": began}
who = "".join(c for c in os.environ.get(words.get("who", ""), "0") if c.isalnum())
put(f"seen-{who}.json", json.dumps(seen))
print("line two", flush=True)
if "model" in words and os.environ.get("SAGEMAKER_BASE_DIR"):
    pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "model", "net.txt").write_text("net")
if not began:
    time.sleep(float(words.get("sleep", 0)))
while "until" in words and not store.exists(store.join(job["output"], words["until"])):
    time.sleep(0.1)
sys.exit(int(words.get("code", 0)))
"""


def pack(path: Path) -> Path:
    """An archive as a `Package` names it, with the program as its bootstrap."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in ((".inflame/bootstrap.py", PROGRAM), ("app.py", "")):
            about = tarfile.TarInfo(name)
            about.size = len(text.encode())
            archive.addfile(about, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder, as far as infra looks."""
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "app.py").touch()
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No inflame.toml from above; this Python is the one that a machine finds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    pytest.importorskip("moto")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(_moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """AWS as moto has it: S3, CloudWatch, IAM and so on; a bucket `bucket`."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": _moto,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    return _moto


@pytest.fixture
def package(tmp_path: Path) -> Callable[[str], Package]:
    """The packaged job, put below a uri."""

    def put(below: str) -> Package:
        uri = store.join(below, "code", f"{'c0ffee' * 10}.tar.gz")
        packed = pack(tmp_path / "code.tar.gz")
        store.upload(packed, uri)
        return Package(tree="0123456789" * 4, archive=uri, model="my model", bytes=packed.stat().st_size, files=2)

    return put


@pytest.fixture
def wait() -> Callable[..., Job]:
    """Asks until the job has ended, or is as wanted."""

    def until(launcher: Launcher, job: Job, *wanted: str, seconds: float = 60) -> Job:
        deadline = time.monotonic() + seconds
        while (now := launcher.status(job)).status not in (wanted or (*ENDED, "preempted")):
            assert now.status not in ENDED, f"{now}, and not {wanted}: {list(launcher.logs(job))}"
            assert time.monotonic() < deadline, f"{now} after {seconds} s"
            time.sleep(0.05)
        return now

    return until


@pytest.fixture
def at_work() -> Callable[[Launcher, Job], None]:
    """Waits until the job has written all that it writes before it sleeps."""

    def until(launcher: Launcher, job: Job) -> None:
        deadline = time.monotonic() + 30
        while "line two" not in list(launcher.logs(job)):
            assert time.monotonic() < deadline, launcher.status(job)
            time.sleep(0.05)

    return until


@pytest.fixture
def seen() -> Callable[..., dict[str, Any]]:
    """What has reached the job, by what it has left in its run folder."""

    def read(folder: Path, who: str = "0") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / f"seen-{who}.json").read_text())
        return found

    return read


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Where jobs of a place write, by default a folder that its machines share."""
    return str(tmp_path / "out")


@pytest.fixture
def spec(model: Path, output: str) -> Callable[..., JobSpec]:
    def make(*words: str, **more: Any) -> JobSpec:
        return JobSpec(**{"model": str(model), "arguments": words, "output": output, **more})

    return make


@pytest.fixture
def packed(package: Callable[[str], Package], tmp_path: Path) -> Package:
    return package(str(tmp_path / "shared"))
