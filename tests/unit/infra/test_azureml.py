"""Azure ML: our requests against a control plane that runs the job."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promises, Spot, Timed

from inflame import remote, store
from inflame.errors import NetworkError, SettingError, UserError
from inflame.infra.launcher import NOT_OK, OK, UNKNOWN
from inflame.infra.loopback.azureml import AzureML as Control
from inflame.infra.loopback.server import Server
from inflame.infra.places.azureml import AzureML
from inflame.records import Job, JobSpec, Package

SETTINGS = {"subscription": "s", "group": "g", "workspace": "ws", "account": "acc"}
Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
Packed = Callable[[str], Package]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "azure", quota={"StandardNCadsAvFamily": 0})


@pytest.fixture
def server(control: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with Server(control) as found:
        yield found


@pytest.fixture
def place(server: Server) -> AzureML:
    return AzureML({**SETTINGS, "endpoint": server.url})


@pytest.fixture
def output(tmp_path: Path) -> str:
    return f"file://{tmp_path}/out"


@pytest.fixture
def packed(package: Packed, control: Control) -> Package:
    """The package where Azure ML's machines see az://bucket."""
    found = package(str(control.blob / "bucket"))
    return Package.from_json({**found.to_json(), "archive": f"az://bucket/code/{Path(found.archive).name}"})


@pytest.mark.parametrize("spot", [False, True], ids=["plain", "spot"])
def test_request(spot: bool, model: Path, golden: Callable[[Path, str], None]) -> None:
    (model.parent / "mnist").mkdir()
    (model.parent / "mnist" / "app.py").touch()
    request = _request(spot)
    assert request == _request(spot) == json.loads(json.dumps(request))
    name = f"azureml-{'spot' if spot else 'plain'}.json"
    golden(Path(__file__).parents[2] / "golden" / "requests" / name, json.dumps(request, indent=1) + "\n")


def _request(spot: bool) -> dict[str, Any]:
    spec = JobSpec(
        model="mnist",
        arguments=("hyperparam.lr=0.1", "in=60s"),
        environment=("TOKEN",),
        machine="gpu-small" if spot else "cpu-small",
        count=3 if spot else 1,
        inputs=("az://bucket/photos", "https://example.org/x.csv"),
        output="az://bucket/inflame",
        spot=spot,
        max_time=3600,
    )
    package = Package(tree="0123456789" * 4, archive="az://bucket/inflame/code/c0ffee.tar.gz", model="mnist")
    return AzureML({**SETTINGS, "identity": "1234", "identity_id": "/subscriptions/s/id"}).request(spec, package)


def test_what_is_missing_is_named(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    with pytest.raises(SettingError, match="needs to know: subscription"):
        AzureML().request(spec())
    with pytest.raises(UserError, match=r"is no place that its machines reach"):
        AzureML(SETTINGS).request(spec(output="s3://b/x"))


def test_every_input_of_the_command_is_defined(spec: Spec) -> None:
    """Azure's own validation takes a command with an input that nobody gives."""
    inputs = ("az://b/one", "abfs://b@acc.dfs.core.windows.net/two")
    asked = spec(inputs=inputs, output="az://b/x")
    puts = AzureML(SETTINGS).request(asked, Package(tree="t", archive="az://b/c.tar.gz"))["put"]
    about = next(body["properties"] for path, body in puts.items() if path.startswith("jobs/"))
    assert set(re.findall(r"\$\{\{inputs\.(\w+)\}\}", about["command"])) == set(about["inputs"])
    assert about["inputs"]["input1"]["uri"] == "https://acc.blob.core.windows.net/b/two"


def test_a_job_from_end_to_end(
    place: AzureML,
    control: Control,
    spec: Spec,
    packed: Package,
    wait: Wait,
    seen: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    store.write(control.blob / "bucket" / "photos" / "1.txt", "one")
    words = ('look=["$INFLAME_INPUT_0"]', "name=two words and 'quotes' $HOME", "--json")
    request = place.request(spec(*words, environment=("TOKEN",), inputs=("az://bucket/photos",)), packed)
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
    place: AzureML, spec: Spec, packed: Package, wait: Wait, tmp_path: Path
) -> None:
    from inflame.infra.cluster import where

    job = wait(place, place.send(place.request(spec("who=HOME", count=3), packed)))
    assert job.status == "done"
    found = [json.loads(path.read_text()) for path in (tmp_path / "out" / "run").glob("seen-*.json")]
    clusters = sorted(where(one["environment"]) for one in found)
    assert [(one.rank, one.machines, one.host, one.platform) for one in clusters] == [
        (rank, 3, "127.0.0.1", "azureml") for rank in range(3)
    ]


# --- bad days ------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        ["throttled", "broken", "throttled", "throttled", "broken"],
        ["", "", "", "", "", "", "cut"],
        ["", "", "", "", "", "", "lost"],
        ["", "", "", "", "", "broken"],
        ["cut"],
    ],
    ids=["throttled", "answer lost", "creation lost", "500 at creation", "look lost"],
)
def faults(request: pytest.FixtureRequest) -> list[str]:
    """What happens to the requests of one launch, one after the other."""
    found: list[str] = request.param
    return found


class TestPromises(Promises, Spot, Timed):
    failed = "status code 3"
    late = ("failed", "timeout")


def test_a_service_that_stays_broken_is_given_up(place: AzureML, server: Server) -> None:
    server.faults += ["broken"] * 20
    with pytest.raises(NetworkError, match="in 6 tries"):
        place.status(Job(id="x", backend="azureml", status="running"))
    assert len(server.asked) == 6


# --- looking before leaping ----------------------------------------------------------------------


def test_an_expired_token_is_renewed_once(place: AzureML, server: Server) -> None:
    server.faults += ["expired"]
    assert place.workspace.get("")["location"] == "eastus"
    server.faults += ["expired", "expired"]
    with pytest.raises(UserError, match="your token has expired") as refused:
        place.workspace.get("")
    assert "az login" in refused.value.remedy


def test_an_undefined_cluster_and_image_are_made_first(
    place: AzureML, control: Control, spec: Spec, packed: Package, wait: Wait
) -> None:
    wait(place, place.send(place.request(spec(spot=True), packed)))
    wait(place, place.send(place.request(spec("a=1", spot=True), packed)))
    assert [path.partition("/")[0] for path in control.kept] == ["environments", "computes"]
    made = control.kept["computes/inflame-d2s-v5-low"]
    assert made["location"] == "eastus"
    assert made["properties"]["properties"]["vmPriority"] == "LowPriority"
    assert made["properties"]["properties"]["scaleSettings"]["minNodeCount"] == 0


def test_no_credentials(spec: Spec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("azure.identity")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = AzureML(SETTINGS)
    with pytest.raises(UserError, match="no credentials of yours"):
        place.send(place.request(spec(output="az://b/x")))


def test_findings(place: AzureML, server: Server, tmp_path: Path, spec: Spec) -> None:
    found = {one.what: one for one in place.check(spec())}
    assert {what: one.state for what, one in found.items()} == {
        "workspace and rights": OK,
        "quota": OK,
        "output": OK,
        "image": UNKNOWN,
    }
    found = {one.what: one for one in place.check(spec(machine="gpu-1"))}
    assert (found["quota"].state, "24" in found["quota"].text) == (NOT_OK, True)
    found = {one.what: one for one in place.check(spec(machine="Standard_X1"))}
    assert "doesn't exist in eastus" in found["quota"].text
    place.settings["workspace"] = "nowhere"
    found = {one.what: one for one in place.check(spec())}
    assert "az ml workspace create --name nowhere" in found["workspace and rights"].remedy


def test_the_least_rights_are_about_this_job(place: AzureML, spec: Spec) -> None:
    rights = place.rights(spec(output="az://bucket/x"))
    assert all("containers/bucket" in one for one in rights["commands"][-2:])
    assert not re.search(r"owner|\*", json.dumps(rights["you"]).lower())
