"""Kubernetes: the real kubectl against an API server that runs the pods; the schemas of Kubernetes itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promises

from inflame import remote
from inflame.errors import UserError
from inflame.infra.launcher import NOT_OK, OK
from inflame.infra.loopback.kubernetes import Kubernetes as Control
from inflame.infra.loopback.server import Server
from inflame.infra.places.kubernetes import Kubernetes
from inflame.records import Job, JobSpec, Package

Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
Packed = Callable[[str], Package]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "cluster")


@pytest.fixture
def server(control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with Server(control) as found:
        about = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": found.url}}],
            "users": [{"name": "me", "user": {"token": "x"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "current-context": "here",
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(about))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it has discovered
        yield found


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Kubernetes:
    return Kubernetes({"claim": f"shared:{tmp_path}"})


@pytest.fixture
def spec(model: Path, tmp_path: Path) -> Spec:
    def make(*words: str, **more: Any) -> JobSpec:
        return JobSpec(**{"model": str(model), "arguments": words, "output": str(tmp_path / "out"), **more})

    return make


@pytest.fixture
def packed(package: Packed, tmp_path: Path) -> Package:
    return package(str(tmp_path / "shared"))


def _request(spot: bool) -> dict[str, Any]:
    spec = JobSpec(
        model="mnist",
        arguments=("hyperparam.lr=0.1",),
        environment=("TOKEN",),
        machine="gpu-small" if spot else "cpu-small",
        count=2 if spot else 1,
        output="gs://bucket/inflame",
        spot=spot,
        max_time=3600,
    )
    package = Package(tree="0123456789" * 4, archive="gs://bucket/inflame/code/c0ffee.tar.gz", model="mnist")
    return Kubernetes({"spot_nodes": "spot=true", "service_account": "inflame"}).request(spec, package)


@pytest.mark.parametrize("spot", [False, True], ids=["plain", "spot"])
def test_request(spot: bool, model: Path, golden: Callable[[Path, str], None], tmp_path: Path) -> None:
    (model.parent / "mnist").mkdir()
    (model.parent / "mnist" / "app.py").touch()
    request = _request(spot)
    assert request == _request(spot) == json.loads(json.dumps(request))
    file = Path(__file__).parents[2] / "golden" / "requests" / f"kubernetes-{'spot' if spot else 'plain'}.json"
    golden(file, json.dumps(request, indent=1) + "\n")
    validator = shutil.which("kubernetes-validate")
    if validator is None:
        pytest.skip("the schemas of Kubernetes: pip install kubernetes-validate")
    for number, item in enumerate(request["manifest"]["items"]):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(item))
        done = subprocess.run([validator, "--strict", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_two_machines_from_end_to_end(
    place: Kubernetes, spec: Spec, packed: Package, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inflame.infra.bootstrap import where

    monkeypatch.setenv("TOKEN", "hush")
    words = ("who=JOB_COMPLETION_INDEX", "name=two words and 'quotes' $HOME", "--json")
    request = place.request(spec(*words, count=2, environment=("TOKEN",)), packed)
    assert "hush" not in json.dumps(request)
    job = wait(place, place.send(request))
    assert (job.status, job.code) == ("done", 0)
    folder = place.fetch(job)
    found = [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0]["job"]["arguments"] == list(words)
    assert [one["environment"]["TOKEN"] for one in found] == ["hush", "hush"]
    assert [where(one["environment"], one["job"]["count"])[:2] for one in found] == [(0, 2), (1, 2)]
    assert sorted(place.logs(job)) == ["Grüße, line one"] * 2 + ["line two"] * 2
    assert place.cancel(job).status == "done"


def test_a_pod_that_is_taken_away_is_made_anew(
    place: Kubernetes,
    control: Control,
    spec: Spec,
    packed: Package,
    wait: Wait,
    at_work: Callable[..., None],
    seen: Callable[..., dict[str, Any]],
) -> None:
    job = place.send(place.request(spec("sleep=60", "stop=75"), packed))
    at_work(place, job)
    control.take_away(job.id)
    assert wait(place, job).status == "done"
    assert seen(place.fetch(job))["resumed"]


def test_deleted_behind_our_back_and_no_such_image(
    place: Kubernetes, control: Control, tmp_path: Path, spec: Spec, packed: Package, wait: Wait
) -> None:
    control._images = ("good",)
    job = place.send(place.request(spec(image="bad"), packed))
    assert "ErrImagePull: no such image" in wait(place, job, "starting").reason
    control.forget(job.id)
    gone = place.status(job)
    assert (gone.status, gone.code) == ("failed", 137)
    assert place.cancel(job).status == "failed"


def test_refusals(
    place: Kubernetes, server: Server, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {one.what: one for one in place.check(spec())}
    assert [found[what].state for what in ("rights", "job", "machine")] == [OK] * 3, found
    server.faults += ["expired"] * 6
    with pytest.raises(UserError, match="token has expired"):
        place.status(Job(id="x", backend="kubernetes", status="running"))
    with pytest.raises(UserError, match="not in your kubeconfig"):
        Kubernetes({"context": "nowhere"}).status(Job(id="x", backend="kubernetes", status="running"))
    with pytest.raises(UserError, match="isn't known"):
        place.request(spec(spot=True))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    found = place.check(spec())
    assert [(one.what, one.state, "no kubeconfig" in one.text) for one in found] == [("login", NOT_OK, True)]
    with pytest.raises(UserError, match="none is given"):
        place.request(spec(output=""))


class TestPromises(Promises):
    failed = "FailJob"

    def names(self, place: Kubernetes, control: Control) -> list[str]:
        return [name for kind, name in control.kept if kind == "jobs"]

    @pytest.mark.parametrize("fault", ["throttled", "broken", "cut", "lost"])
    def test_on_a_bad_day_there_is_one_job_in_the_end(
        self, fault: str, place: Kubernetes, server: Server, control: Control, spec: Spec, packed: Package, wait: Wait
    ) -> None:
        """At each of the requests that kubectl makes."""
        place._ask("version")
        request = place.request(spec(), packed)
        for number in range(4):
            server.faults.clear()
            server.faults += [*[""] * number, fault]
            job = place.send(request)
            jobs = self.names(place, control)
            assert jobs.count(job.id) == 1
            assert len(jobs) == number + 1
            server.faults.clear()
            assert wait(place, job).status == "done"
