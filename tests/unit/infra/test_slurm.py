"""Slurm: the script that would be sent; and a real cluster of two nodes on this machine, where Slurm is installed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame.errors import NetworkError, UserError
from inflame.infra.launcher import NOT_OK, OK
from inflame.infra.places.slurm import Slurm
from inflame.records import Job, JobSpec, Package

Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
Packed = Callable[[str], Package]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")


@pytest.fixture
def spec(model: Path, tmp_path: Path) -> Spec:
    def make(*words: str, **more: Any) -> JobSpec:
        return JobSpec(**{"model": str(model), "arguments": words, "output": str(tmp_path / "out"), **more})

    return make


@pytest.mark.parametrize("spot", [False, True], ids=["plain", "spot"])
def test_request(spot: bool, model: Path, golden: Callable[[Path, str], None]) -> None:
    (model.parent / "mnist").mkdir()
    (model.parent / "mnist" / "app.py").touch()
    spec = JobSpec(
        model="mnist",
        arguments=("hyperparam.lr=0.1", "name=it's"),
        environment=("TOKEN",),
        machine="gpu-small" if spot else "cpu-small",
        count=2 if spot else 1,
        output="/shared/out",
        spot=spot,
        max_time=3600,
    )
    place = Slurm({"spot_partition": "cheap", "logs": "/shared/logs", "setup": "module load python"})
    package = Package(tree="0123456789" * 4, archive="/shared/code/c0ffee.tar.gz", model="mnist")
    request = place.request(spec, package)
    assert request == place.request(spec, package) == json.loads(json.dumps(request))
    subprocess.run(["sh", "-n"], input=request["script"], text=True, check=True)
    file = Path(__file__).parents[2] / "golden" / "requests" / f"slurm-{'spot' if spot else 'plain'}.sh"
    golden(file, request["script"])


def test_which_machines_may_be_taken_away_must_be_known(spec: Spec) -> None:
    with pytest.raises(UserError, match="isn't known") as refused:
        Slurm({}).request(spec(spot=True))
    assert "spot_partition" in refused.value.remedy


def test_without_slurm_it_is_said(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"no squeue here") as refused:
        Slurm({}).send(Slurm({}).request(spec()))
    assert "Log in to a node" in refused.value.remedy
    assert Slurm({}).check(spec())[0].state == NOT_OK


# --- a real cluster ------------------------------------------------------------------------------


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """slurmctld and two slurmd, with a munge of their own."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in PROGRAMS):
        pytest.skip("needs Slurm (apt-get install slurm-wlm munge) and root")
    folder = tmp_path_factory.mktemp("slurm")
    for up in (folder, *folder.parents[:3]):
        up.chmod(0o755)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    for name in ("state", "n1", "n2", "munge"):
        (folder / name).mkdir(mode=0o755)
    ports = [_free() for _ in range(3)]
    nodes = "".join(
        f"NodeName=n{number} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=8\n"
        for number, port in enumerate(ports[1:], 1)
    )
    (folder / "slurm.conf").write_text(
        "ClusterName=here\nSlurmctldHost=localhost(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n"
        f"SlurmctldPort={ports[0]}\nStateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/%n\n"
        f"SlurmctldPidFile={folder}/ctld.pid\nSlurmdPidFile={folder}/%n.pid\n"
        f"SlurmctldLogFile={folder}/ctld.log\nSlurmdLogFile={folder}/%n.log\n"
        f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge/socket\nCredType=cred/munge\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n"
        "SelectTypeParameters=CR_CPU\nReturnToService=2\nKillWait=20\nMpiDefault=none\nSwitchType=switch/none\n"
        f"SlurmdParameters=config_overrides\n{nodes}PartitionName=all Nodes=n1,n2 Default=YES State=UP\n"
    )
    munge = [f"--{one}={folder}/{two}" for one, two in (("key-file", "key"), ("socket", "munge/socket"))]
    munge += [f"--{one}={folder}/munge/{one}" for one in ("pid-file", "log-file", "seed-file")]
    config = ["-D", "-f", str(folder / "slurm.conf")]
    commands = [["munged", "--foreground", *munge], ["slurmctld", *config]]
    commands += [["slurmd", *config, "-N", name] for name in ("n1", "n2")]
    children = []
    for command in commands:
        children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(1)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["sinfo", "-h", "-o", "%D%t"], capture_output=True, text=True).stdout.strip() != "2idle":
            if time.monotonic() > deadline:
                pytest.skip(f"Slurm doesn't come up here: {(folder / 'ctld.log').read_text()[-800:]}")
            time.sleep(0.5)
        yield folder
    finally:
        del os.environ["SLURM_CONF"]
        for child in reversed(children):
            child.terminate()
            child.wait(20)


@pytest.fixture
def place(cluster: Path, tmp_path: Path) -> Slurm:
    return Slurm({"logs": str(tmp_path / "logs"), "options": "--cpus-per-task=1 --mem=0"})


@pytest.fixture
def packed(package: Packed, tmp_path: Path) -> Package:
    return package(str(tmp_path / "shared"))


@pytest.mark.slow
def test_a_job_on_two_nodes(
    place: Slurm, spec: Spec, packed: Package, wait: Wait, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from inflame.infra.bootstrap import where

    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.setenv("OTHER", "stays here")
    words = ("who=SLURM_NODEID", "name=two words and 'quotes' $HOME", "--json")
    request = place.request(spec(*words, count=2, environment=("TOKEN",)), packed)
    assert "hush" not in json.dumps(request)
    job = wait(place, place.send(request))
    assert (job.status, job.code) == ("done", 0), list(place.logs(job))
    folder = place.fetch(job)
    found = [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0]["job"]["arguments"] == list(words)
    assert [one["environment"]["TOKEN"] for one in found] == ["hush", "hush"]
    assert "OTHER" not in found[0]["environment"]
    clusters = [where(one["environment"]) for one in found]
    assert [(one.rank, one.machines, one.host, one.platform) for one in clusters] == [
        (0, 2, "n1", "slurm"),
        (1, 2, "n1", "slurm"),
    ]
    assert len({one.port for one in clusters}) == 1
    assert sorted(place.logs(job)) == ["Grüße, line one"] * 2 + ["line two"] * 2


@pytest.mark.slow
def test_failure_stop_and_sending_twice(
    place: Slurm, spec: Spec, packed: Package, wait: Wait, at_work: Callable[..., None], tmp_path: Path
) -> None:
    failed = wait(place, place.send(place.request(spec("code=3"), packed)))
    assert (failed.status, failed.code) == ("failed", 3)
    request = place.request(spec("sleep=60"), packed)
    jobs: list[Job] = []
    threads = [threading.Thread(target=lambda: jobs.append(place.send(request))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job in jobs}) == 1
    job = place.send(request)
    assert job.id == jobs[0].id
    at_work(place, job)
    place.cancel(job)
    ended = wait(place, job)
    assert ended.status == "stopped"
    assert (tmp_path / "out" / "run" / "saved").exists()
    again = place.send(request)
    assert again.id != job.id
    place.cancel(again)


@pytest.mark.slow
def test_what_the_cluster_refuses(place: Slurm, spec: Spec, packed: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {one.what: one.state for one in place.check(spec())} == {"cluster": OK, "output": OK}
    found = {one.what: one for one in place.check(spec(count=3))}
    assert found["cluster"].state == NOT_OK, found
    place.settings["partition"] = "none"
    with pytest.raises(UserError, match="no such partition"):
        place.send(place.request(spec(), packed))
    gone = place.status(Job(id="4711", backend="slurm", status="running", output=spec().output))
    assert (gone.status, gone.code) == ("failed", 137)
    monkeypatch.setattr("inflame.infra.places.slurm._TIMEOUT", 3)
    config = Path(os.environ["SLURM_CONF"])
    elsewhere = config.with_name("elsewhere.conf")
    elsewhere.write_text(config.read_text().replace("SlurmctldPort=", "SlurmctldPort=1#"))
    monkeypatch.setenv("SLURM_CONF", str(elsewhere))
    with pytest.raises(NetworkError):
        place.send(place.request(spec(), packed))
