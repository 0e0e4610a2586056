"""Slurm: the script that would be sent; and a real cluster of two nodes on this machine, where Slurm is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from promises import Several

from inflame.errors import NetworkError, UserError
from inflame.infra.launcher import NOT_OK, OK
from inflame.infra.loopback import slurmctld
from inflame.infra.places.slurm import Slurm
from inflame.records import Job, JobSpec, Package

Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
Packed = Callable[[str], Package]


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


@pytest.mark.skipif(shutil.which("sinfo") is None, reason="needs Slurm's commands")
def test_without_a_cluster_it_is_said(spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    (found,) = Slurm({}).check(spec())
    assert (found.what, found.state) == ("login", NOT_OK)
    assert found.text == "Slurm has no cluster here: sinfo: fatal: Unable to process configuration file"
    assert "Log in to a node" in found.remedy


# --- a real cluster ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """The configuration of a cluster of two nodes."""
    if not slurmctld.possible():
        pytest.skip("needs Slurm (apt-get install slurm-wlm munge) and root")
    with slurmctld.cluster(2) as found:
        os.environ["SLURM_CONF"] = str(found.config)
        yield found.config
        del os.environ["SLURM_CONF"]


@pytest.fixture
def place(cluster: Path, tmp_path: Path) -> Slurm:
    return Slurm({"logs": str(tmp_path / "logs")})


@pytest.mark.slow
class TestTwoNodes(Several):
    who, first, platform = "SLURM_NODEID", "127.0.0.1", "slurm"


@pytest.mark.slow
def test_a_power_cut_is_without_a_word(
    place: Slurm,
    cluster: Path,
    spec: Spec,
    packed: Package,
    wait: Wait,
    at_work: Callable[..., None],
    tmp_path: Path,
) -> None:
    job = place.send(place.request(spec("sleep=60"), packed))
    at_work(place, job)
    slurmctld.Cluster(cluster.parent, 2).lose(job.id)
    ended = wait(place, job)
    assert (ended.status, ended.code) == ("failed", 137)
    assert not (tmp_path / "out" / "run" / "saved").exists()


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
def test_what_the_cluster_refuses(
    place: Slurm, cluster: Path, spec: Spec, packed: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {one.what: one.state for one in place.check(spec())} == {"cluster": OK, "output": OK}
    found = {one.what: one for one in place.check(spec(count=3))}
    assert found["cluster"].state == NOT_OK, found
    place.settings["partition"] = "none"
    with pytest.raises(UserError, match="no such partition"):
        place.send(place.request(spec(), packed))
    gone = place.status(Job(id="4711", backend="slurm", status="running", output=spec().output))
    assert (gone.status, gone.code) == ("failed", 137)
    monkeypatch.setattr("inflame.infra.places.slurm._TIMEOUT", 3)
    elsewhere = cluster.with_name("elsewhere.conf")
    elsewhere.write_text(cluster.read_text().replace("SlurmctldPort=", "SlurmctldPort=1#"))
    monkeypatch.setenv("SLURM_CONF", str(elsewhere))
    with pytest.raises(NetworkError):
        place.send(place.request(spec(), packed))
