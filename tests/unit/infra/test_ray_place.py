"""Ray: the request that would be sent; and a real cluster on this machine, with its token, and bad days before it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promises

import inflame
from inflame import remote, store
from inflame.errors import SettingError, UserError
from inflame.infra import attempts, jobs, launch
from inflame.infra.launcher import NOT_OK, OK
from inflame.infra.loopback import ray as loopback
from inflame.infra.loopback.server import Answer, Asked, Server
from inflame.infra.places.ray import Ray
from inflame.infra.places.rest import Absent
from inflame.records import Job, JobSpec, Package

Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
Packed = Callable[[str], Package]
NAMES = re.compile(r"inflame-[\w-]+")


@pytest.mark.parametrize("many", [False, True], ids=["plain", "many"])
def test_request(many: bool, model: Path, golden: Callable[[Path, str], None]) -> None:
    (model.parent / "mnist").mkdir()
    (model.parent / "mnist" / "app.py").touch()
    spec = JobSpec(
        model="mnist",
        arguments=("hyperparam.lr=0.1", "name=it's"),
        environment=("TOKEN",),
        machine="gpu-4" if many else "cpu-medium",
        count=2 if many else 1,
        output="/shared/jobs/mine",
    )
    place = Ray({"address": "http://head:8265"})
    package = Package(tree="0123456789" * 4, archive="/shared/code/c0ffee.tar.gz", model="mnist")
    request = place.request(spec, package)
    assert request == place.request(spec, package) == json.loads(json.dumps(request))
    job = json.loads(request["body"]["runtime_env"]["env_vars"]["INFLAME_JOB"])
    assert job["count"] == (8 if many else 1)  # a process for each GPU
    file = Path(__file__).parents[2] / "golden" / "requests" / f"ray-{'many' if many else 'plain'}.json"
    golden(file, json.dumps(request, indent=1) + "\n")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"spot": True}, "not its jobs' choice"),
        ({"image": "mine:1"}, "have their image already"),
        ({"count": 2, "output": "s3://bucket/x"}, "share one copy of the code"),
        ({"output": ""}, "needs an output"),
    ],
)
def test_what_a_cluster_has_not_is_refused(more: dict[str, Any], told: str, spec: Spec) -> None:
    with pytest.raises(UserError, match=told) as refused:
        Ray({}).request(spec(**more))
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("https://ray.example.org/", "https://ray.example.org"),
        ("ray://head:10001", "http://head:8265"),
        ("10.0.0.7:6379", "http://10.0.0.7:8265"),
        ("auto", "http://127.0.0.1:8265"),
    ],
)
def test_addresses_of_its_other_services_lead_to_its_dashboard(given: str, told: str, spec: Spec) -> None:
    assert Ray({"address": given}).request(spec())["call"] == f"POST {told}/api/jobs/"


def test_an_address_that_is_none_is_refused(spec: Spec) -> None:
    with pytest.raises(SettingError, match="no address of a Ray cluster"):
        Ray({"address": "head with spaces"}).request(spec())


def test_without_a_cluster_it_is_said(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    (found,) = Ray({"address": "http://127.0.0.1:9"}).check(spec())
    assert (found.what, found.state) == ("login", NOT_OK)
    assert found.text.startswith("No head of a Ray cluster answers at http://127.0.0.1:9")
    assert found.text.endswith("in 6 tries: [Errno 111] Connection refused")
    assert "RAY_ADDRESS" in found.remedy


# --- a real cluster ------------------------------------------------------------------------------


class Front:
    """Before the real head, so that bad days can be made."""

    def __init__(self, head: str) -> None:
        self.head = head
        self.sent: list[str] = []  # the jobs that were made through here

    def answer(self, asked: Asked) -> Answer:
        query = "&".join(f"{name}={value}" for name, value in asked.query.items())
        passed = {name: asked.headers[name] for name in ("authorization", "content-type") if name in asked.headers}
        url = f"{self.head}{asked.path}{f'?{query}' if query else ''}"
        request = urllib.request.Request(url, asked.body or None, passed, method=asked.method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
                status = answer.status
        except urllib.error.HTTPError as error:
            with error:
                return Answer(status=error.code, body=error.read())
        if asked.method == "POST" and asked.path.endswith("/jobs/"):
            self.sent += NAMES.findall(json.loads(body)["submission_id"])
        return Answer(status=status, body=body)

    def refuse(self, fault: str) -> Answer:
        return Answer(status={"throttled": 429, "expired": 401}.get(fault, 503), body=b"not now")

    def forget(self, job: str) -> None:
        """Somebody stops and deletes a job behind our back."""
        place = Ray({"address": self.head})
        place.cancel(Job(id=job, backend="ray", status="running"))
        until = time.monotonic() + 60
        while place.status(Job(id=job, backend="ray", status="running")).status == "running":
            assert time.monotonic() < until
            time.sleep(0.1)
        gone = 0  # times in a row: Ray's own watch over the job, a second long, may write it down once more
        while gone < 30:
            assert time.monotonic() < until
            try:
                place.rest.ask("DELETE", f"{self.head}/api/jobs/{job}")
                gone = 0
            except Absent:
                gone += 1
            time.sleep(0.1)

    def close(self) -> None:
        """The cluster goes on."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, str]]:
    """The dashboard's address and the token of a head with two CPUs."""
    if not loopback.possible():
        pytest.skip("needs Ray with its dashboard: pip install 'ray[default]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # of its machine
        with loopback.head(cpus=2) as found:
            yield found.url, found.token


@pytest.fixture
def control(cluster: tuple[str, str]) -> Front:
    return Front(cluster[0])


@pytest.fixture
def server(control: Front, cluster: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.05)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster[1])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with Server(control) as found:
        yield found


@pytest.fixture
def place(server: Server) -> Ray:
    return Ray({"address": server.url})


@pytest.fixture
def faults() -> list[str]:
    """The cluster is looked at, the job looked for, made, looked for."""
    return ["throttled", "", "lost", "", "cut", "broken"]


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestPromises(Promises):
    failed = "exit code 3"

    def names(self, place: Any, control: Front) -> list[str]:
        return sorted(set(control.sent))

    def test_one_from_end_to_end(
        self, place: Ray, spec: Spec, packed: Package, wait: Wait, seen: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hush")
        words = ("name=two words and 'quotes' $HOME", "--json")
        request = place.request(spec(*words, environment=("TOKEN",)), packed)
        assert "hush" not in json.dumps(request)
        job = wait(place, place.send(request))
        assert (job.status, job.code) == ("done", 0)
        assert list(place.logs(job))[-2:] == ["Grüße, line one", "line two"]
        found = seen(place.fetch(job))
        assert found["job"]["arguments"] == list(words)
        assert found["environment"]["TOKEN"] == "hush"
        assert place.cancel(job).status == "done"

    def test_rays_own_client_sees_the_same(
        self, place: Ray, cluster: tuple[str, str], spec: Spec, packed: Package, wait: Wait, tmp_path: Path
    ) -> None:
        """In a process of its own: it remembers how it logs in."""
        job = wait(place, place.send(place.request(spec("code=4"), packed)))
        code = (
            "import sys; from ray.job_submission import JobSubmissionClient; "
            "told = JobSubmissionClient(sys.argv[1]).get_job_info(sys.argv[2]); "
            "print(told.status, told.driver_exit_code, told.metadata['inflame'])"
        )
        given = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster[1]}
        words = [sys.executable, "-W", "ignore", "-c", code, cluster[0], job.id]
        told = subprocess.run(words, env=given, capture_output=True, text=True, check=True).stdout.split()
        assert told == ["FAILED", "4", packed.tree]

    def test_what_no_machine_has_is_refused_at_once(self, place: Ray, spec: Spec, packed: Package) -> None:
        with pytest.raises(UserError, match=r"no room for 1 x 8 CPUs. It has 1 machines: 2 CPUs, 0 GPUs") as refused:
            place.send(place.request(spec(machine="cpu-medium"), packed))
        assert "grows" in refused.value.remedy
        rows = {one.what: one for one in place.check(spec(machine="gpu-1"))}
        assert rows["machine"].state == NOT_OK
        assert {one.what: one.state for one in place.check(spec())} == {"machine": OK, "output": OK}

    def test_a_value_that_would_be_changed_is_refused(
        self, place: Ray, spec: Spec, packed: Package, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "pa$HOME")
        with pytest.raises(UserError, match=r"TOKEN has a \$ in it"):
            place.send(place.request(spec(environment=("TOKEN",)), packed))

    def test_nobody_waits_for_ever(self, place: Ray, spec: Spec, packed: Package, wait: Wait) -> None:
        place.settings |= {"grows": "yes", "patience": "2"}
        ended = wait(place, place.send(place.request(spec(machine="cpu-medium"), packed)))
        assert ended.status == "failed"
        assert "No machine was free for 2 s" in ended.reason

    def test_a_wrong_token_is_said(self, place: Ray, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
        for token in ("x" * 64, ""):
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
            with pytest.raises(UserError, match=r"refuses you|doesn't know you") as refused:
                Ray(place.settings).send(place.request(spec()))
            assert "RAY_AUTH_TOKEN" in refused.value.remedy


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_of_a_cluster_train_as_one(
    server: Server, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packaged training of mnist: Ray's own workers, one copy of the code."""
    pytest.importorskip("lightning.fabric")
    monkeypatch.setenv("RAY_ADDRESS", server.url)
    monkeypatch.setattr(attempts, "BEAT", 2.0)
    model = Path(inflame.__file__).parent / "model" / "mnist"
    words = ("io.training_input=digits", "hyperparam.num_epochs=1", "limit=200")
    asked = JobSpec(model=str(model), arguments=words, count=2, output=str(tmp_path / "shared"))
    sent = launch.plan(asked, "ray").send()
    until = time.monotonic() + 240
    while not (sent := jobs.refresh(sent)).ended:
        assert time.monotonic() < until, (sent, jobs.logs(sent))
        time.sleep(0.5)
    assert (sent.state, sent.reason) == ("done", ""), jobs.logs(sent)
    status = json.loads(store.read_text(jobs.fetch(sent) / "status.json"))
    assert (status["state"], status["devices"]) == ("done", 2)
