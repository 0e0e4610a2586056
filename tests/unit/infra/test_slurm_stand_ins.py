"""What stands in for Slurm where it is not installed: commands that keep a place's promises, and refuse as sbatch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promises, Several, Spot

from inflame import remote
from inflame.errors import NetworkError, UserError
from inflame.infra.launcher import OK
from inflame.infra.loopback.server import Server
from inflame.infra.loopback.slurm import Slurm as Control
from inflame.infra.loopback.slurm import commands
from inflame.infra.places.slurm import Slurm
from inflame.records import Job, JobSpec, Package

Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "slurm")


@pytest.fixture
def server(control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with Server(control) as found:
        monkeypatch.setenv("PATH", f"{commands(tmp_path / 'bin', found.url)}{os.pathsep}{os.environ['PATH']}")
        yield found


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Slurm:
    return Slurm({"logs": str(tmp_path / "logs"), "spot_partition": "cheap"})


@pytest.fixture
def faults() -> list[str]:
    """Looked for; made, and the answer got lost."""
    return ["", "cut"]


class TestPromises(Promises, Spot, Several):
    failed = "FAILED"
    who, first, platform = "SLURM_NODEID", "localhost", "slurm"

    def names(self, place: Any, control: Control) -> list[str]:
        return [number for number, job in control.jobs.items() if job.ending != "CANCELLED"]


def test_what_sbatch_would_refuse(place: Slurm, server: Server, spec: Spec, packed: Package) -> None:
    assert {one.what: one.state for one in place.check(spec())} == {"cluster": OK, "output": OK}
    place.settings["options"] = "--qos=high --partitoin=gpu"
    with pytest.raises(UserError, match="unrecognized option '--partitoin'"):
        place.send(place.request(spec(), packed))
    server.faults += ["broken"]
    with pytest.raises(NetworkError, match="controller could not be asked"):
        place.status(Job(id="4711", backend="slurm", status="running", output=spec().output))
