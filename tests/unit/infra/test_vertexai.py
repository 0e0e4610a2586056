"""Vertex AI: the real google-auth against a control plane that runs the job."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from promises import Promises, Spot, Timed

from inflame import remote, store
from inflame.errors import NetworkError, SettingError, UserError
from inflame.infra.launcher import NOT_OK, OK, UNKNOWN
from inflame.infra.loopback.server import Server
from inflame.infra.loopback.vertexai import VertexAI as Control
from inflame.infra.places.vertexai import VertexAI
from inflame.records import Job, JobSpec, Package

pytest.importorskip("google.auth")
SETTINGS = {"project": "p", "location": "us-central1"}
Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
Packed = Callable[[str], Package]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "vertex", quota={"NVIDIA_TESLA_A100": 0})


@pytest.fixture
def server(control: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with Server(control) as found:
        yield found


@pytest.fixture
def place(server: Server) -> VertexAI:
    return VertexAI({**SETTINGS, "endpoint": server.url})


@pytest.fixture
def output(tmp_path: Path) -> str:
    return f"file://{tmp_path}/out"


@pytest.fixture
def packed(package: Packed, control: Control) -> Package:
    """The package where Vertex AI's machines see gs://bucket."""
    found = package(str(control.gcs / "bucket"))
    return Package.from_json({**found.to_json(), "archive": f"gs://bucket/code/{Path(found.archive).name}"})


@pytest.mark.parametrize("spot", [False, True], ids=["plain", "spot"])
def test_request(spot: bool, model: Path, golden: Callable[[Path, str], None]) -> None:
    (model.parent / "mnist").mkdir()
    (model.parent / "mnist" / "app.py").touch()
    request = _request(spot)
    assert request == _request(spot) == json.loads(json.dumps(request))
    name = f"vertexai-{'spot' if spot else 'plain'}.json"
    golden(Path(__file__).parents[2] / "golden" / "requests" / name, json.dumps(request, indent=1) + "\n")


def _request(spot: bool) -> dict[str, Any]:
    spec = JobSpec(
        model="mnist",
        arguments=("hyperparam.lr=0.1", "in=60s"),
        environment=("TOKEN",),
        machine="gpu-small" if spot else "cpu-small",
        count=3 if spot else 1,
        inputs=("gs://bucket/photos",),
        output="gs://bucket/inflame",
        spot=spot,
        max_time=3600,
    )
    package = Package(tree="0123456789" * 4, archive="gs://bucket/inflame/code/c0ffee.tar.gz", model="mnist")
    return VertexAI({**SETTINGS, "service_account": "inflame@p.iam.gserviceaccount.com"}).request(spec, package)


def test_what_is_missing_is_named(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT", "CLOUD_ML_REGION", "GOOGLE_CLOUD_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingError, match="needs to know: project"):
        VertexAI().request(spec())
    with pytest.raises(UserError, match=r"is no place that its machines reach"):
        VertexAI(SETTINGS).request(spec(output="s3://b/x"))
    with pytest.raises(SettingError, match=r"us-central1-a.* is no region"):
        VertexAI({**SETTINGS, "location": "us-central1-a"}).request(spec(output="gs://b/x"))


def test_a_job_from_end_to_end(
    place: VertexAI,
    control: Control,
    spec: Spec,
    packed: Package,
    wait: Wait,
    seen: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    store.write(control.gcs / "bucket" / "photos" / "1.txt", "one")
    words = ('look=["$INFLAME_INPUT_0"]', "name=two words and 'quotes' $HOME", "--json")
    request = place.request(spec(*words, environment=("TOKEN",), inputs=("gs://bucket/photos",)), packed)
    assert "hush" not in json.dumps(request)
    job = wait(place, place.send(request))
    assert (job.status, job.code) == ("done", 0)
    assert list(place.logs(job)) == ["Grüße, line one", "line two"]
    found = seen(place.fetch(job))
    assert found["job"]["arguments"] == list(words)
    assert found["environment"]["TOKEN"] == "hush"
    assert list(found["files"].values()) == [["1.txt"]]
    assert place.cancel(job).status == "done"


def test_three_machines_know_of_each_other(
    place: VertexAI, spec: Spec, packed: Package, wait: Wait, tmp_path: Path
) -> None:
    from inflame.infra.cluster import where

    job = wait(place, place.send(place.request(spec("who=HOME", count=3), packed)))
    assert job.status == "done"
    found = [json.loads(path.read_text()) for path in (tmp_path / "out" / "run").glob("seen-*.json")]
    clusters = sorted(where(one["environment"]) for one in found)
    assert [(one.rank, one.machines, one.host, one.platform) for one in clusters] == [
        (rank, 3, "127.0.0.1", "vertexai") for rank in range(3)
    ]


# --- bad days ------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        ["throttled", "broken", "throttled", "throttled", "broken"],
        ["", "cut"],
        ["", "lost"],
        ["", "broken"],
        ["cut"],
    ],
    ids=["throttled", "answer lost", "creation lost", "500 at creation", "look lost"],
)
def faults(request: pytest.FixtureRequest) -> list[str]:
    """What happens to the requests of one launch, one after the other."""
    found: list[str] = request.param
    return found


class TestPromises(Promises, Spot, Timed):
    failed = "workerpool0-0"
    late = ("failed", "timeout")

    def test_sent_by_three_at_once_is_one_job(
        self, place: VertexAI, server: Server, control: Control, spec: Spec, packed: Package, wait: Wait
    ) -> None:
        """Vertex AI takes all of them; one goes on, the others are cancelled."""
        asked = spec("until=over")  # not over before the last of them has looked
        request = place.request(asked, packed)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda one: one.send(request), self.senders(place)))
        job = place.send(request)
        store.write(f"{asked.output}/over", "")
        assert wait(place, job).status == "done"
        ended = [wait(place, Job(id=name, backend="vertexai", status="")).status for name in control.jobs]
        assert sorted(ended) == ["done", *["stopped"] * (len(ended) - 1)]
        again = place.send(request)  # it has ended: this is a new one
        about = place.rest.get(f"{server.url}/v1/{again.id}")
        assert about["displayName"].endswith("-2")


def test_no_quota_is_not_waited_for(place: VertexAI, server: Server, spec: Spec, packed: Package) -> None:
    with pytest.raises(UserError, match="quota doesn't allow") as refused:
        place.send(place.request(spec(machine="gpu-8"), packed))
    assert "Quotas" in refused.value.remedy
    assert len(server.asked) == 2


def test_a_service_that_stays_broken_is_given_up(place: VertexAI, server: Server) -> None:
    server.faults += ["broken"] * 20
    with pytest.raises(NetworkError, match="in 6 tries"):
        place.status(Job(id="projects/p/locations/us-central1/customJobs/1", backend="vertexai", status="running"))
    assert len(server.asked) == 6


# --- credentials ---------------------------------------------------------------------------------


@pytest.fixture
def account(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service account of Google's, whose tokens the control plane gives."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    about = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "me@p.iam.gserviceaccount.com",
        "token_uri": f"{server.url}/token",
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(about))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return path


def test_an_expired_token_is_renewed_once(place: VertexAI, server: Server, account: Path, spec: Spec) -> None:
    server.faults += ["", "expired"]
    assert place.rest.get(place._jobs()) == {}
    assert [path for path in server.asked if path == "POST /token"] == ["POST /token"] * 2
    server.faults += ["expired", "", "expired"]
    with pytest.raises(UserError, match="your token has expired") as refused:
        place.rest.get(place._jobs())
    assert "gcloud auth application-default login" in refused.value.remedy


def test_no_credentials(spec: Spec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    place = VertexAI(SETTINGS)
    with pytest.raises(UserError, match="no credentials of yours"):
        place.send(place.request(spec(output="gs://b/x")))
    assert place.check(spec(output="gs://b/x"))[0].state == NOT_OK


def test_findings(place: VertexAI, control: Control, spec: Spec) -> None:
    (control.gcs / "bucket").mkdir()
    found = {one.what: one for one in place.check(spec(output="gs://bucket/x"))}
    assert {what: one.state for what, one in found.items()} == {
        "location and rights": OK,
        "bucket": OK,
        "quota": UNKNOWN,
        "image": UNKNOWN,
    }
    found = {one.what: one for one in place.check(spec(output="gs://nowhere/x"))}
    assert found["bucket"].remedy == "gcloud storage buckets create gs://nowhere --location us-central1"


def test_the_least_rights_are_about_this_job(place: VertexAI, spec: Spec) -> None:
    rights = place.rights(spec(output="gs://bucket/x"))
    assert all("gs://bucket" in one for one in rights["commands"][-2:])
    assert not re.search(r"owner|editor|admin", json.dumps(rights).lower())
