"""SageMaker: real boto3 against a control plane that runs the job; S3, CloudWatch, IAM and quotas are moto's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from promises import Promises, Spot, Timed

from inflame import store
from inflame.errors import DataError, NetworkError, SettingError, UserError
from inflame.infra.launcher import NOT_OK, OK, UNKNOWN
from inflame.infra.loopback.sagemaker import SageMaker as Control
from inflame.infra.loopback.server import Server
from inflame.infra.places.sagemaker import SageMaker
from inflame.records import Job, JobSpec, Package

pytest.importorskip("boto3")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")

OUTPUT = "s3://bucket/inflame"
ROLE = "arn:aws:iam::123456789012:role/inflame"
Wait = Callable[..., Job]


@pytest.fixture
def control(aws: str, tmp_path: Path) -> Control:
    return Control(tmp_path / "machines", quota={"ml.p4d.24xlarge": 0})


@pytest.fixture
def server(control: Control) -> Iterator[Server]:
    with Server(control) as found:
        yield found


@pytest.fixture
def packed(package: Callable[[str], Package], aws: str) -> Package:
    return package(OUTPUT)


@pytest.fixture
def place(server: Server) -> SageMaker:
    return SageMaker({"role": ROLE, "region": "us-east-1", "endpoint": server.url})


@pytest.fixture
def output(request: pytest.FixtureRequest) -> str:
    return f"{OUTPUT}/{request.node.name}"


Spec = Callable[..., JobSpec]


def plain(spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
    return SageMaker({"role": ROLE, "region": "eu-west-1"}).request(spec, package)


# --- the request ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spot", [False, True], ids=["on-demand", "spot"])
def test_request(spot: bool, model: Path, golden: Callable[[Path, str], None]) -> None:
    spec = JobSpec(
        model="mnist",
        arguments=("hyperparam.lr=0.1", "in=60s"),
        environment=("TOKEN",),
        machine="gpu-small",
        count=2,
        inputs=("s3://bucket/photos", "https://example.org/x.csv"),
        output=OUTPUT,
        spot=spot,
        max_time=3600,
    )
    (model.parent / "mnist").mkdir()
    (model.parent / "mnist" / "app.py").touch()
    package = Package(tree="0123456789" * 4, archive=f"{OUTPUT}/code/{'c0ffee' * 10}.tar.gz", model="mnist")
    request = plain(spec, package)
    assert request == plain(spec, package) == json.loads(json.dumps(request))
    name = f"sagemaker-{'spot' if spot else 'plain'}.json"
    golden(Path(__file__).parents[2] / "golden" / "requests" / name, json.dumps(request, indent=1) + "\n")


def test_botocore_accepts_every_request(spec: Spec, packed: Package, aws: str) -> None:
    """botocore's own schema, with its longest and shortest values, which the client itself doesn't all check."""
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob")
    for one in (spec(), spec("a=" + "ü" * 400, spot=True, count=3, inputs=("s3://bucket/x",), max_time=10**9)):
        body = plain(one, packed)["body"]
        assert not ParamValidator().validate(body, shape.input_shape).generate_report()
        assert _too_long(body, shape.input_shape) == []


def _too_long(value: Any, shape: Any, where: str = "") -> list[str]:
    if shape.type_name == "structure":
        return [bad for key, one in value.items() for bad in _too_long(one, shape.members[key], f"{where}.{key}")]
    found = []
    if len(value if hasattr(value, "__len__") else ()) > shape.metadata.get("max", 10**9):
        found.append(where)
    if shape.type_name == "list":
        found += [bad for one in value for bad in _too_long(one, shape.member, f"{where}[]")]
    if shape.type_name == "map":
        found += [bad for key, one in value.items() for bad in _too_long(one, shape.value, f"{where}.{key}")]
    return found


def test_what_is_missing_is_named(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingError, match=r"needs to know: role") as refused:
        SageMaker().request(spec())
    assert 'role = "arn:' in refused.value.remedy
    assert "INFLAME_SAGEMAKER_ROLE" in refused.value.remedy
    with pytest.raises(SettingError, match="region"):
        SageMaker({"role": ROLE}).request(spec())
    with pytest.raises(UserError, match=r"none is given"):
        plain(spec(output=""))
    with pytest.raises(UserError, match=r"gs://x is no place"):
        plain(spec(output="gs://x"))
    with pytest.raises(UserError, match="arguments"):
        plain(spec("a=" + "x" * 5000), Package(tree="t", archive="s3://b/c.tar.gz"))


def test_settings_come_from_the_file_and_secrets_do_not(spec: Spec, tmp_path: Path) -> None:
    file = tmp_path / "inflame.toml"
    file.write_text(f'[on.sagemaker]\nrole = "{ROLE}"\nregion = "eu-north-1"\nvolume = 200\n')
    body = SageMaker().request(spec())["body"]
    assert (body["RoleArn"], body["ResourceConfig"]["VolumeSizeInGB"]) == (ROLE, 200)
    assert "eu-north-1" in body["AlgorithmSpecification"]["TrainingImage"]
    file.write_text("[on.sagemaker]\nrule = 3\n")
    with pytest.raises(SettingError, match=r'Did you mean "role"\?'):
        SageMaker()
    file.write_text("[on.sagemaker]\nsecret_key = 3\n")
    with pytest.raises(SettingError, match="looks like a secret"):
        SageMaker()
    file.write_text("[on.sagemaker\n")
    with pytest.raises(DataError, match="not valid TOML"):
        SageMaker()


# --- the job -------------------------------------------------------------------------------------


def test_a_job_from_end_to_end(
    place: SageMaker,
    spec: Spec,
    packed: Package,
    wait: Wait,
    seen: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    store.write("s3://bucket/photos/a/1.txt", "one")
    look = ["$SAGEMAKER_BASE_DIR/input/config/resourceconfig.json", "$INFLAME_INPUT_0"]
    words = ("model=1", f"look={json.dumps(look)}", "name=two words and 'quotes' $HOME", "--json")
    asked = spec(*words, environment=("TOKEN",), inputs=("s3://bucket/photos",))
    request = place.request(asked, packed)
    assert "hush" not in json.dumps(request)
    job = wait(place, place.send(request))
    assert (job.status, job.code) == ("done", 0)
    assert list(place.logs(job)) == ["Grüße, line one", "line two"]
    found = seen(place.fetch(job))
    assert found["job"]["arguments"] == list(words)
    assert found["environment"]["TOKEN"] == "hush"
    config = next(text for name, text in found["files"].items() if name.endswith("resourceconfig.json"))
    assert json.loads(config)["hosts"] == ["127.0.0.1"]
    assert ["a", "a/1.txt"] in found["files"].values()
    about = place.account.client().describe_training_job(TrainingJobName=job.id)
    artifact = about["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifact == f"{asked.output}/sagemaker/{job.id}/output/model.tar.gz"
    assert store.exists(artifact)
    assert place.cancel(job).status == "done"


def test_two_machines_know_of_each_other(
    place: SageMaker, spec: Spec, packed: Package, wait: Wait, seen: Callable[..., dict[str, Any]]
) -> None:
    look = json.dumps(["$SAGEMAKER_BASE_DIR/input/config/resourceconfig.json"])
    asked = spec(f"look={look}", "who=SAGEMAKER_BASE_DIR", count=2)
    job = wait(place, place.send(place.request(asked, packed)))
    assert job.status == "done"
    folder = place.fetch(job)
    configs = [next(iter(json.loads(path.read_text())["files"].values())) for path in folder.glob("seen-*.json")]
    assert sorted(json.loads(text)["current_host"] for text in configs) == ["127.0.0.1", "127.0.0.2"]


# --- bad days ------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        ["throttled", "broken", "", "throttled", "broken"],
        ["", "cut"],
        ["", "lost"],
    ],
    ids=["throttled", "answer lost", "creation lost"],
)
def faults(request: pytest.FixtureRequest) -> list[str]:
    """What happens to the requests of one launch, one after the other."""
    found: list[str] = request.param
    return found


class TestPromises(Promises, Spot, Timed):
    failed = "AlgorithmError"
    late = ("stopped", "MaxRuntimeExceeded")

    def names(self, place: SageMaker, control: Control) -> list[str]:
        return [one["TrainingJobName"] for one in _listed(place)]

    def senders(self, place: SageMaker) -> list[SageMaker]:
        place.account.client()
        return [place] * 3  # boto3's session is made once


def test_an_expired_token_is_said(place: SageMaker, server: Server, spec: Spec, packed: Package) -> None:
    server.faults += ["expired"]
    with pytest.raises(UserError, match="token has expired") as refused:
        place.send(place.request(spec(), packed))
    assert "aws sso login" in refused.value.remedy


def test_a_service_that_stays_broken_is_given_up(
    place: SageMaker, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    server.faults += ["broken"] * 20
    with pytest.raises(NetworkError, match="can't be reached: it was asked to describe x"):
        place.status(Job(id="x", backend="sagemaker", status="running"))
    assert len(server.asked) == 6


def test_no_quota(place: SageMaker, spec: Spec, packed: Package) -> None:
    with pytest.raises(UserError, match="quota doesn't allow") as refused:
        place.send(place.request(spec(machine="gpu-8"), packed))
    assert "Service Quotas" in refused.value.remedy


def test_an_image_that_does_not_exist(aws: str, tmp_path: Path, spec: Spec, packed: Package) -> None:
    with Server(Control(tmp_path / "machines", images=("good",))) as server:
        place = SageMaker({"role": ROLE, "region": "us-east-1", "endpoint": server.url})
        with pytest.raises(UserError, match="Cannot find image bad"):
            place.send(place.request(spec(image="bad"), packed))


def test_a_channel_without_objects_fails_with_the_reason(place: SageMaker, spec: Spec, wait: Wait) -> None:
    package = Package(tree="t", archive="s3://bucket/nowhere.tar.gz")
    job = wait(place, place.send(place.request(spec(), package)))
    assert job.status == "failed"
    assert "s3://bucket/nowhere.tar.gz" in job.reason


def test_no_credentials(spec: Spec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    place = SageMaker({"role": ROLE, "region": "eu-west-1"})
    with pytest.raises(UserError, match="no credentials of yours"):
        place.send(place.request(spec(), Package(tree="t", archive="s3://b/c.tar.gz")))
    assert [(one.what, one.state) for one in place.check(spec())] == [("credentials", NOT_OK)]


def test_a_wrong_region(spec: Spec, aws: str) -> None:
    place = SageMaker({"role": ROLE, "region": "eu-wets-1"})
    with pytest.raises(UserError, match=r'no region "eu-wets-1". Did you mean "eu-west-1"'):
        place.status(Job(id="x", backend="sagemaker", status="running"))


def test_a_variable_that_is_not_set_is_named(place: SageMaker, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(UserError, match="lacks TOKEN"):
        place.send(place.request(spec(environment=("TOKEN",))))
    monkeypatch.setenv("TOKEN", "x" * 513)
    with pytest.raises(UserError, match="512 letters in a variable, and TOKEN has 513"):
        place.send(place.request(spec(environment=("TOKEN",))))


# --- looking before leaping ----------------------------------------------------------------------


def test_findings(place: SageMaker, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)

    found = {one.what: one for one in place.check(spec(machine="gpu-small"))}
    assert (found["credentials"].state, found["bucket"].state) == (OK, OK)
    assert found["role"].state == NOT_OK
    assert found["quota"].state == UNKNOWN  # moto knows none of SageMaker's
    assert all(one.remedy for one in found.values() if one.state != OK)
    rights = place.rights(spec())
    iam = boto3.client("iam")
    role = iam.create_role(RoleName="inflame", AssumeRolePolicyDocument=json.dumps(rights["trust"]))["Role"]["Arn"]
    for who in ("you", "job"):
        iam.create_policy(PolicyName=f"inflame-{who}", PolicyDocument=json.dumps(rights[who]))  # moto checks its form
    place.settings["role"] = role
    found = {one.what: one for one in place.check(spec(output="s3://nowhere/x"))}
    assert found["role"].state == OK
    assert (found["bucket"].state, found["bucket"].remedy) == (NOT_OK, "aws s3 mb s3://nowhere --region us-east-1")
    found = {one.what: one for one in place.check(spec(image="ubuntu:22.04"))}
    assert found["image"].state == NOT_OK


def test_the_least_rights_are_about_this_job(place: SageMaker, spec: Spec) -> None:
    rights = json.dumps(place.rights(spec()))
    assert "arn:aws:s3:::bucket/inflame/" in rights
    assert "s3:*" not in rights
    assert "AmazonSageMakerFullAccess" not in rights


def _listed(place: SageMaker) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.account.client().list_training_jobs()["TrainingJobSummaries"]
    return found
