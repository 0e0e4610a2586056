"""Rehearsals: a place's own request, sent to its control plane here, killed and sent again; and a bare Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inflame import remote
from inflame.infra import attempts, rehearse
from inflame.infra.launcher import NOT_OK, OK, UNKNOWN, Finding
from inflame.infra.loopback import ray, slurmctld, stage
from inflame.infra.pack import bare, wheel
from inflame.records import Job, JobSpec

INFLAME = wheel.files()
ROLE = "arn:aws:iam::123456789012:role/inflame"
SETTINGS = f"""
[on.sagemaker]
role = "{ROLE}"
region = "eu-central-1"
[on.vertexai]
project = "my-project"
location = "europe-west4"
[on.azureml]
subscription = "s"
group = "g"
workspace = "w"
account = "a"
compute = "mine"
"""
OUTPUTS = {"vertexai": "gs://bucket/inflame", "azureml": "az://box/inflame", "clearml": "az://box/inflame"}

# Saves, and then works until it is killed; the second time it goes on and ends.
APP = """
import json, sys, time
from inflame import store
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
def at(name): return store.join(words["output"], *name.split("/"))
assert words["limit"] == "200", words
if "broken" in words: sys.exit("error: it is broken\\n  do: mend it")
if not store.exists(at("last/checkpoint.safetensors")):
    store.write(at("last/checkpoint.safetensors"), b"saved")
    print("works", flush=True); time.sleep(600)
store.write(at("bundle/bundle.json"), "{}")
store.write(at("status.json"), json.dumps({"state": "done", "model": "tiny", "sittings": 2}))
"""


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inflame.toml").write_text(SETTINGS)
    monkeypatch.setattr(stage, "BEAT", "0.2")
    monkeypatch.setattr(attempts, "BEAT", 0.2)
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    monkeypatch.setattr(wheel, "files", lambda: dict(INFLAME))
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "CLEARML_", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


def found(model: Path, backend: str, *words: str, output: str, **more: Any) -> dict[str, Any]:
    done = rehearse.rehearse(JobSpec(model=str(model), arguments=words, output=output, **more), backend)
    return {one.what: one for one in done.findings}


def _went_well(rows: dict[str, Any]) -> None:
    for what in ("request", "job", "resume", "export"):
        assert rows[what].state == OK, rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
def test_sagemaker_takes_the_request_and_the_job_goes_on(tiny: Path, home: Path) -> None:
    pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    before = dict(os.environ)
    rows = found(tiny, "sagemaker", output="s3://bucket/inflame")
    _went_well(rows)
    assert "sagemaker's control plane" in rows["request"].text
    assert rows["credentials"].state == NOT_OK  # of the place itself: there are none here
    assert dict(os.environ) == before
    assert not list((home / "cache" / "rehearsals").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("backend", OUTPUTS)
def test_the_others_as_well(backend: str, tiny: Path) -> None:
    pytest.importorskip("requests")
    rows = found(tiny, backend, output=OUTPUTS[backend])
    _went_well(rows)
    assert rows["login"].state == NOT_OK  # of the place itself, once for all that would need it


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
def test_data_in_a_bucket_are_left_where_they_are(tiny: Path) -> None:
    """The job's own keys and the real S3 are needed for them: the output gives way to a folder."""
    pytest.importorskip("boto3")
    _went_well(found(tiny, "sagemaker", "io.training_input=s3://mine/photos", output="s3://bucket/inflame"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
def test_what_its_place_would_refuse_is_found(tiny: Path) -> None:
    pytest.importorskip("boto3")
    rows = found(tiny, "sagemaker", output="s3://bucket/inflame", machine="t2.micro")
    assert rows["request"].state == NOT_OK
    assert "t2.micro is no instance type" in rows["request"].text
    assert "job" not in rows


@pytest.mark.slow
def test_what_would_fail_there_fails_here(tiny: Path) -> None:
    rows = found(tiny, "clearml", "broken=1", output="az://box/inflame")
    assert (rows["job"].state, rows["job"].text, rows["job"].remedy) == (NOT_OK, "it is broken", "mend it")


def test_kubernetes_makes_the_pod_anew_and_the_job_goes_on(tiny: Path, home: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    before = dict(os.environ)
    rows = found(tiny, "kubernetes", output="az://box/inflame")
    _went_well(rows)
    assert "kubernetes's control plane" in rows["request"].text
    assert "ran it as processes, because" in rows["request"].text  # gigabytes are not fetched for a trial
    assert dict(os.environ) == before
    assert not list((home / "cache" / "rehearsals").iterdir())


def test_slurm_has_a_stand_in(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurmctld, "possible", lambda: False)
    rows = found(tiny, "slurm", output=str(tmp_path / "shared"))
    _went_well(rows)
    assert "stands in for Slurm" in rows["request"].text


@pytest.fixture(scope="module")
def fetcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package by which a job fetches its code from a bucket, where it can be had."""
    folder = tmp_path_factory.mktemp("wheels")
    words = [sys.executable, "-m", "pip", "download", "-q", "--dest", str(folder), "obstore"]
    if subprocess.run(words, capture_output=True, timeout=60).returncode:
        pytest.skip("needs a package index, or a wheel of obstore")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "place"),
    [("kubernetes", "s3://bucket/inflame"), ("kubernetes", "gs://bucket/inflame"), ("clearml", "s3://bucket/in")],
)
def test_a_bucket_keeps_its_name_and_the_code_is_fetched_from_it(
    backend: str, place: str, fetcher: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "kubernetes" and shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(fetcher))
    judged, outputs = rehearse._judge, []

    def judge(here: stage.Stage, job: Job, *, fresh: bool) -> list[Finding]:
        outputs.append(here.request["output"])
        return judged(here, job, fresh=fresh)

    monkeypatch.setattr(rehearse, "_judge", judge)
    _went_well(found(tiny, backend, output=place))
    assert outputs[0].startswith(f"{place}/jobs/tiny-")


def test_what_a_script_names() -> None:
    script = "#!/bin/sh\n#SBATCH --partition=gpu-long,cpu\n#SBATCH -C a100&ib*2\nsrun --partition=other true\n"
    assert stage._named(script, "--partition=|-p ?") == ["gpu-long", "cpu"]
    assert stage._named(script, "--constraint=|-C ?") == ["a100", "ib", "2"]


@pytest.mark.slow
def test_a_real_slurm_has_what_the_script_names(tiny: Path, tmp_path: Path) -> None:
    if not slurmctld.possible():
        pytest.skip("needs Slurm (apt-get install slurm-wlm munge) and root")
    settings = 'partition = "gpu-long"\noptions = "--constraint=a100&ib --qos=high"'
    (tmp_path / "inflame.toml").write_text(f"[on.slurm]\n{settings}\n")
    rows = found(tiny, "slurm", output=str(tmp_path / "shared"), machine="gpu-small", count=2)
    _went_well(rows)
    assert "a Slurm 2" in rows["request"].text


@pytest.mark.slow
def test_a_real_ray_goes_on(tiny: Path, tmp_path: Path) -> None:
    if not ray.possible():
        pytest.skip("needs Ray with its dashboard: pip install 'ray[default]'")
    rows = found(tiny, "ray", output=str(tmp_path / "shared"), machine="cpu-medium")
    _went_well(rows)
    assert "a Ray 2" in rows["request"].text


@pytest.mark.slow
def test_a_place_without_a_control_plane_is_tried_as_a_job_of_this_machine(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "possible", lambda: False)
    rows = found(tiny, "ray", output=str(tmp_path / "shared"))
    assert (rows["request"].state, rows["job"].state, rows["resume"].state) == (UNKNOWN, OK, OK)
    assert "pip install" in rows["request"].remedy


def test_a_bare_python_has_what_the_image_has(home: Path) -> None:
    program = bare.python()
    assert bare.python() == program
    assert program.is_relative_to(home)

    def runs(*words: str) -> bool:
        return subprocess.run([program, *words], capture_output=True, cwd=home).returncode == 0

    assert runs("-c", "import numpy, PIL; numpy.ones(3) @ numpy.ones(3)")
    assert runs("-m", "pip", "--version")
    assert not runs("-c", "import pytest")
    assert not runs("-c", "import inflame")
    assert bare.python("python:3.11") != program
    assert subprocess.run([bare.python("python:3.11"), "-c", "import numpy"], capture_output=True).returncode != 0
