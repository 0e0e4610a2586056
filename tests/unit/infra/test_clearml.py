"""ClearML: our requests against an API server with an agent that runs the task; its real client sees the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promises

from inflame import remote
from inflame.errors import NetworkError, UserError
from inflame.infra.launcher import NOT_OK, OK
from inflame.infra.loopback.clearml import ClearML as Control
from inflame.infra.loopback.server import Server
from inflame.infra.places.clearml import ClearML
from inflame.records import Job, JobSpec, Package

Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
Packed = Callable[[str], Package]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "clearml", queues=("default", "gpu"))


@pytest.fixture
def server(control: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "key")
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "secret")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", "/nowhere")
    with Server(control) as found:
        yield found


@pytest.fixture
def place(server: Server) -> ClearML:
    return ClearML({"endpoint": server.url})


@pytest.fixture
def output(tmp_path: Path) -> str:
    return f"file://{tmp_path}/out"


def test_request(model: Path, golden: Callable[[Path, str], None]) -> None:
    (model.parent / "mnist").mkdir()
    (model.parent / "mnist" / "app.py").touch()
    spec = JobSpec(
        model="mnist", arguments=("in=60s",), environment=("TOKEN",), output="s3://bucket/inflame", image="mine:1"
    )
    package = Package(tree="0123456789" * 4, archive="s3://bucket/inflame/code/c0ffee.tar.gz", model="mnist")
    request = ClearML({}).request(spec, package)
    assert request == ClearML({}).request(spec, package) == json.loads(json.dumps(request))
    compile(request["body"]["script"]["diff"], "script", "exec")
    file = Path(__file__).parents[2] / "golden" / "requests" / "clearml-plain.json"
    golden(file, json.dumps(request, indent=1) + "\n")


def test_what_a_queue_has_not_is_refused(spec: Spec) -> None:
    with pytest.raises(UserError, match="several machines"):
        ClearML({}).request(spec(count=2))
    with pytest.raises(UserError, match="taken away"):
        ClearML({}).request(spec(spot=True))


def test_a_job_from_end_to_end(
    place: ClearML,
    spec: Spec,
    packed: Package,
    wait: Wait,
    seen: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "hush 'n' \"quotes\"")
    words = ("name=two words and 'quotes' $HOME {curly} %s", "--json")
    request = place.request(spec(*words, environment=("TOKEN",)), packed)
    assert "hush" not in json.dumps(request)
    job = wait(place, place.send(request))
    assert (job.status, job.code) == ("done", 0)
    assert list(place.logs(job)) == ["Grüße, line one", "line two"]
    found = seen(place.fetch(job))
    assert found["job"]["arguments"] == list(words)
    assert found["environment"]["TOKEN"] == "hush 'n' \"quotes\""
    assert place.cancel(job).status == "done"


def test_what_waits_in_the_queue_can_be_stopped(
    place: ClearML, spec: Spec, packed: Package, wait: Wait, at_work: Callable[..., None]
) -> None:
    job = place.send(place.request(spec("sleep=60"), packed))
    at_work(place, job)
    waiting = place.send(place.request(spec("a=1"), packed))
    assert place.status(waiting).status == "queued"
    place.cancel(waiting)
    assert wait(place, waiting).status == "stopped"
    place.cancel(job)
    assert wait(place, job).status == "stopped"


# --- bad days ------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        ["throttled", "broken", "", "throttled"],
        [*[""] * 5, "cut"],
        [*[""] * 5, "lost"],
        [*[""] * 5, "broken"],
        [*[""] * 8, "cut"],
        ["", "cut"],
    ],
    ids=["throttled", "answer lost", "creation lost", "500 at creation", "queueing cut", "look lost"],
)
def faults(request: pytest.FixtureRequest) -> list[str]:
    """What happens to the requests of one launch, one after the other."""
    found: list[str] = request.param
    return found


class TestPromises(Promises):
    failed = "exit code 3"

    def names(self, place: ClearML, control: Control) -> list[str]:
        return list(control.tasks)


def test_a_service_that_stays_broken_is_given_up(place: ClearML, server: Server) -> None:
    """Its own SDK waits for ever."""
    server.faults += ["", *["broken"] * 20]
    with pytest.raises(NetworkError, match="in 6 tries"):
        place.status(Job(id="x", backend="clearml", status="running"))


# --- looking before leaping ----------------------------------------------------------------------


def test_an_expired_token_is_renewed_once(place: ClearML, server: Server, spec: Spec) -> None:
    assert place.check(spec())[0].state == OK
    server.faults += ["expired"]
    assert place.check(spec())[0].state == OK
    server.faults += ["expired", "", "expired"]
    with pytest.raises(UserError, match="your token has expired") as refused:
        place.status(Job(id="x", backend="clearml", status="running"))
    assert "clearml-init" in refused.value.remedy


def test_a_queue_that_is_not_there(server: Server, spec: Spec) -> None:
    place = ClearML({"endpoint": server.url, "queue": "gpus"})
    with pytest.raises(UserError, match=r'no queue "gpus". Did you mean "gpu"\?'):
        place.send(place.request(spec()))


def test_keys_come_from_the_file_as_well(
    server: Server, tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="no credentials of yours"):
        ClearML({"endpoint": server.url}).status(Job(id="x", backend="clearml", status="running"))
    conf = tmp_path / "clearml.conf"
    keys = 'credentials { \n "access_key" = "key"\n "secret_key" = "secret"\n }'
    conf.write_text(f"api {{\n  web_server: http://x\n  api_server: {server.url}\n  {keys}\n}}\n")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(conf))
    monkeypatch.delenv("CLEARML_API_HOST", raising=False)
    found = {one.what: one.state for one in ClearML({}).check(spec())}
    assert found == {"credentials": OK, "queue": OK, "output": OK}
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "wrong")
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "wrong")
    assert {one.state for one in ClearML({}).check(spec())[:2]} == {NOT_OK}


@pytest.mark.filterwarnings("ignore")
def test_the_real_client_sees_the_task(place: ClearML, server: Server, spec: Spec, packed: Package, wait: Wait) -> None:
    """ClearML's own client against the same server, about a task that we have sent."""
    pytest.importorskip("clearml")
    from clearml.backend_api.session.client import APIClient, StrictSession

    request = place.request(spec(), packed)
    job = wait(place, place.send(request))
    client = APIClient(session=StrictSession(api_key="key", secret_key="secret", host=server.url))
    task = client.tasks.get_by_id(task=job.id)
    assert (task.data.name, str(task.data.status)) == (request["body"]["name"], "completed")
    assert task.data.script.entry_point == "inflame_job.py"
