"""Kubernetes: the real kubectl against an API server that runs the pods; the schemas of Kubernetes itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promises, Several

from inflame import remote, store
from inflame.errors import UserError
from inflame.infra.launcher import NOT_OK, OK
from inflame.infra.loopback.kubernetes import Kubernetes as Control
from inflame.infra.loopback.kubernetes import config
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
        (tmp_path / "kubeconfig").write_text(json.dumps(config(found.url)))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("KUBECACHEDIR", str(tmp_path))  # kubectl keeps what it has discovered
        yield found


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Kubernetes:
    return Kubernetes({"claim": f"shared:{tmp_path}"})


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


def test_a_node_that_is_lost_takes_no_job_with_it(
    place: Kubernetes,
    control: Control,
    spec: Spec,
    packed: Package,
    wait: Wait,
    at_work: Callable[..., None],
) -> None:
    """It had no time to save: the pod that is made anew begins where the output stands."""
    asked = spec("sleep=60")
    job = place.send(place.request(asked, packed))
    at_work(place, job)
    assert not store.exists(f"{asked.output}/run/saved")
    store.write(f"{asked.output}/run/saved", "")  # the next one goes on from here
    control.lose(job.id)
    assert wait(place, job).status == "done"
    assert [(pod.lost, pod.phase) for pod in control.pods.values()] == [(True, "Failed"), (False, "Succeeded")]


def test_kubectl_evicts_pods_and_deletes_jobs(
    place: Kubernetes, control: Control, spec: Spec, packed: Package, wait: Wait, at_work: Callable[..., None]
) -> None:
    def kubectl(*words: str, given: str = "") -> None:
        subprocess.run(["kubectl", *words], input=given, text=True, check=True, capture_output=True, timeout=30)

    job = place.send(place.request(spec("sleep=60"), packed))
    at_work(place, job)
    (first,) = control.pods
    kubectl("create", "--raw", f"/api/v1/namespaces/default/pods/{first}/eviction", "--filename", "-", given="{}")
    assert wait(place, job).status == "done"
    assert [pod.lost for pod in control.pods.values()] == [True, False]
    kubectl("delete", "job", job.id)
    assert "deleted" in place.status(job).reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metadata": {"name": "My_Job"}}, "is no name"),
        ({"volumes": [{"name": "other", "emptyDir": {}}]}, 'Not found: "shared"'),
        ({"volumes": [{"name": "shared", "emptyDir": {}, "sort": "of"}]}, "sort"),
    ],
)
def test_what_an_api_server_refuses(
    change: dict[str, Any], told: str, place: Kubernetes, control: Control, spec: Spec, packed: Package
) -> None:
    if told == "sort":
        pytest.importorskip("kubernetes_validate")
    request = place.request(spec(), packed)
    job = request["manifest"]["items"][0]
    job["metadata"] |= change.get("metadata", {})
    job["spec"]["template"]["spec"] |= {key: value for key, value in change.items() if key == "volumes"}
    with pytest.raises(UserError, match=told):
        place.send({**request, "name": job["metadata"]["name"]})
    assert not control.kept


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


class TestPromises(Promises, Several):
    failed = "FailJob"
    who, first, platform = "JOB_COMPLETION_INDEX", "127.0.0.1", "kubernetes"

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
