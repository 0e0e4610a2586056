"""A place to rehearse at: the place's own launcher sends its own request, and its control plane here runs the job. Of
Slurm and of Ray that is the real one, begun for the rehearsal, where it is installed.

What the job keeps is kept in a folder. Buckets of S3 and of Google keep their names, and are served from there; the
outputs of the others give way to a folder. Places that are not in STAGES get a packaged job of this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from inflame import plugins, store
from inflame.infra import jobs
from inflame.infra.launch import Plan
from inflame.infra.launcher import Launcher
from inflame.infra.local import Local
from inflame.infra.loopback.buckets import Buckets
from inflame.infra.loopback.machine import STAGE, Down, passed
from inflame.infra.loopback.server import Control, Server
from inflame.infra.pack import package
from inflame.infra.places import Place
from inflame.records import Job, JobSpec, dumps

BEAT = "0.5"  # seconds between two signs of life: a killed machine is missed sooner
_ALONE = {  # nothing that a machine elsewhere wouldn't have, and no keys that could reach anything
    "AWS_ACCESS_KEY_ID": "rehearsal",
    "AWS_SECRET_ACCESS_KEY": "rehearsal",
    "AWS_SESSION_TOKEN": None,
    "AWS_PROFILE": None,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ENDPOINT_URL_S3": None,
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}


class Runs(Control, Protocol):
    """A control plane that runs jobs."""

    def lose(self, name: str) -> None:
        """Ends the machines of a job without a word, as a power cut does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a job is rehearsed. `output`: the folder that its output is here; `lose`: takes its machines away without
    a word; `restarts`: whether its place then begins it again by itself. `taker`: who takes the request that would be
    sent, empty where nobody does; `remedy`: what would help."""

    launcher: Launcher
    request: dict[str, Any]
    output: Path
    lose: Callable[[Job], None]
    restarts: bool = False
    taker: str = ""
    remedy: str = ""


@contextmanager
def stage(plan: Plan, spec: JobSpec, folder: Path, python: Path) -> Iterator[Stage]:
    """The stage for a job, as long as the block lasts; `python` is what its machines find. `folder` is ours."""
    (folder / "tmp").mkdir()
    tempfile.gettempdir()  # remembered: ours must not become this process's own
    near = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    common = {
        "INFLAME_BEAT": BEAT,
        "INFLAME_PARTS": str(store.make_folder(store.home() / "cache" / "parts")),
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
        "TMPDIR": str(folder / "tmp"),
        STAGE: str(folder),
        "no_proxy": near,
        "NO_PROXY": near,
    }
    # The data of a job are read where they are: on the sample, nothing is mounted.
    spec = replace(spec, inputs=())
    begin = STAGES.get(plan.backend)
    with ExitStack() as stack:
        stack.enter_context(_surroundings(common))
        try:
            found = stack.enter_context(begin(plan, spec, folder)) if begin else None
        except Down as error:  # its place may be well all the same
            found = stack.enter_context(_here(plan, spec, folder, python, f"{error.message} {error.remedy}"))
        yield found or stack.enter_context(_here(plan, spec, folder, python))


@contextmanager
def _here(plan: Plan, spec: JobSpec, folder: Path, python: Path, remedy: str = "") -> Iterator[Stage]:
    """A packaged job of this machine."""
    local, place = Local(python), str(folder / "place")
    spec = replace(spec, output=store.join(place, "jobs", plan.id), count=1, machine="")
    request = local.request(spec, package.upload(plan.luggage, place))

    def lose(job: Job) -> None:
        for group in local.processes(job):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    try:
        yield Stage(launcher=local, request=request, output=Path(spec.output), lose=lose, remedy=remedy)
    finally:
        for job in local.sent():  # they are of no use to anybody
            shutil.rmtree(store.home() / "jobs" / job, ignore_errors=True)


@contextmanager
def _sagemaker(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback.aws import Aws
    from inflame.infra.loopback.sagemaker import SageMaker

    aws, region = Aws(folder / "buckets"), _own(plan).settings["region"]
    with Server(aws) as server:
        services: dict[str, str | None] = {"AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": server.url, "AWS_DEFAULT_REGION": region}
        place, root = _place(plan, spec, "s3", folder, aws.buckets)
        if place == plan.place:
            services |= {**_ALONE, "AWS_ENDPOINT_URL": server.url, "AWS_REGION": region}
        elif plugins.need("boto3", "aws", "The place sagemaker").session.Session().get_credentials() is None:
            services |= _ALONE  # requests must be signed; that there are no keys is found when the place is looked at
        with _surroundings(services):
            control = SageMaker(folder / "machines")
            aws.join(control)
            yield _sent_by_its_own(plan, spec, control, server, place, root)


@contextmanager
def _vertexai(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback.gcs import Gcs
    from inflame.infra.loopback.vertexai import VertexAI

    control = VertexAI(folder / "google")
    buckets = Buckets(control.gcs)
    with Server(Gcs(buckets)) as storage, Server(control) as server:
        place, root = _place(plan, spec, "gs", folder, buckets)
        services = {
            "GOOGLE_APPLICATION_CREDENTIALS": None,
            "STORAGE_EMULATOR_HOST": storage.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks Google what kind of bucket it is
            "NO_GCE_CHECK": "true",  # and whether this machine is Google's
        }
        with _surroundings(services if place == plan.place else {}):
            yield _sent_by_its_own(plan, spec, control, server, place, root)


@contextmanager
def _azureml(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback.azureml import AzureML

    told = _own(plan).settings
    control = AzureML(folder / "azure", workspace=told["workspace"])
    if told["compute"]:  # a cluster of the user's is there already
        nodes = {"properties": {"scaleSettings": {"maxNodeCount": spec.count}}}
        control.kept[f"computes/{told['compute']}"] = {"properties": nodes, "made": 0.0}
    with Server(control) as server:
        root = folder / "place"
        yield _sent_by_its_own(plan, spec, control, server, root.as_uri(), root)


@contextmanager
def _clearml(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback.clearml import ClearML

    control = ClearML(folder / "clearml", queues=(_own(plan).settings["queue"],))
    keys = {"CLEARML_API_ACCESS_KEY": control.key, "CLEARML_API_SECRET_KEY": control.key}
    with _surroundings(keys), Server(control) as server:
        root = folder / "place"
        yield _sent_by_its_own(plan, spec, control, server, root.as_uri(), root)


@contextmanager
def _kubernetes(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    """Buckets of S3 keep their names; any other output is a claim that the pods see."""
    from inflame.infra.loopback.aws import Aws
    from inflame.infra.loopback.kubernetes import Kubernetes, config

    aws, control, own = Aws(folder / "buckets"), Kubernetes(folder / "cluster"), _own(plan)
    with Server(aws) as storage, Server(control) as server:
        place, root = folder.as_uri() + "/place", folder / "place"
        if plan.place.startswith("s3://"):
            place, root = _place(plan, spec, "s3", folder, aws.buckets)
        services: dict[str, str | None] = {
            "KUBECONFIG": str(folder / "config"),
            "KUBECACHEDIR": str(folder / "kubectl"),
        }
        store.write(folder / "config", dumps(config(server.url, own.settings["context"])))
        if place == plan.place:
            services |= {**_ALONE, "AWS_ENDPOINT_URL": storage.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        else:
            own = type(own)({**own.settings, "claim": f"rehearsal:{root}"})
        with _surroundings(services):
            yield _sent(plan, spec, own, control.lose, place, root, restarts=True)


@contextmanager
def _slurm(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    own, root = _own(plan), folder / "place"
    own = type(own)({**own.settings, "logs": str(folder / "logs")})
    with ExitStack() as stack:
        lose, taker = _slurm_of_ours(stack, plan.request["script"], spec.count, folder)
        yield _sent(plan, spec, own, lose, str(root), root, taker=taker)


def _slurm_of_ours(stack: ExitStack, script: str, nodes: int, folder: Path) -> tuple[Callable[[str], None], str]:
    """A Slurm with the partitions and features that the script names, or what stands in for one: what takes a job's
    nodes away, and who takes the job."""
    from inflame.infra.loopback import slurm, slurmctld

    told = {name: value for name, value in passed().items() if name != "PATH"}
    partitions, features = _named(script, "--partition=|-p ?"), _named(script, "--constraint=|-C ?")
    with suppress(Down):  # the next best is taken
        cluster = stack.enter_context(
            slurmctld.cluster(nodes, partitions=partitions, features=features, variables=told)
        )
        stack.enter_context(_surroundings({"SLURM_CONF": str(cluster.config)}))
        return cluster.lose, f"a Slurm {cluster.version()} of this machine"
    control = slurm.Slurm(folder / "slurm")
    commands = slurm.commands(folder / "bin", stack.enter_context(Server(control)).url)
    stack.enter_context(_surroundings({"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}))
    return control.lose, "what stands in for Slurm here (no queue, no limits)"


def _named(script: str, option: str) -> list[str]:
    """The words in the values of an option of sbatch."""
    values = re.findall(rf"^#SBATCH (?:{option})(\S+)", script, re.MULTILINE)
    return [word for value in values for word in re.findall(r"[\w-]+", value)]


@contextmanager
def _ray(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback import ray

    root, size = folder / "place", plan.request["machines"]
    with ExitStack() as stack:
        head = stack.enter_context(ray.head(cpus=spec.count * size["cores"], gpus=spec.count * size["gpus"]))
        stack.enter_context(_surroundings({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}))
        taker = f"a Ray {metadata.version('ray')} of this machine"
        yield _sent(plan, spec, _own(plan).at(head.url), lambda _: head.lose(), str(root), root, taker=taker)


def _place(plan: Plan, spec: JobSpec, scheme: str, folder: Path, buckets: Buckets) -> tuple[str, Path]:
    """Where the job's things are kept, and where that is here. A bucket keeps its name; where the data are in buckets
    too, which are not here, the services stay those of the user and the output gives way to a folder."""
    if any(f"{scheme}://" in word for word in spec.arguments):
        return (folder / "place").as_uri(), folder / "place"
    bucket, _, prefix = plan.place.partition("://")[2].partition("/")
    return plan.place, buckets.make(bucket) / prefix


STAGES: Mapping[str, Callable[[Plan, JobSpec, Path], AbstractContextManager[Stage]]] = {
    "sagemaker": _sagemaker,
    "vertexai": _vertexai,
    "azureml": _azureml,
    "clearml": _clearml,
    "kubernetes": _kubernetes,
    "slurm": _slurm,
    "ray": _ray,
}


def _sent_by_its_own(plan: Plan, spec: JobSpec, control: Runs, server: Server, place: str, root: Path) -> Stage:
    """The place's own launcher with the user's settings, at the address of the control plane."""
    return _sent(plan, spec, _own(plan).at(server.url), control.lose, place, root)


def _sent(
    plan: Plan,
    spec: JobSpec,
    launcher: Place,
    lose: Callable[[str], None],
    place: str,
    root: Path,
    *,
    taker: str = "",
    restarts: bool = False,
) -> Stage:
    """The stage of a launcher whose place is here. The job's place is at `root`; `lose` takes the name of a job."""
    package.upload(plan.luggage, str(root))
    spec = replace(spec, output=store.join(place, "jobs", plan.id))
    return Stage(
        launcher=launcher,
        request=launcher.request(spec, plan.luggage.package(place)),
        output=root / "jobs" / plan.id,
        lose=lambda job: lose(job.id),
        restarts=restarts,
        taker=taker or f"{plan.backend}'s control plane here",
    )


def _own(plan: Plan) -> Place:
    found = jobs.launcher(plan.backend)
    assert isinstance(found, Place)
    return found


@contextmanager
def _surroundings(values: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables that hold for the block; None takes one away."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
