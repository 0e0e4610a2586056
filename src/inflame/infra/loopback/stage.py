"""A place to rehearse at: the place's own launcher sends its own request, and its control plane here runs the job. Of
Slurm and of Ray that is the real one, begun for the rehearsal, where it is installed.

What the job keeps is kept in a folder, see `kept`. Places that are not in STAGES get a packaged job of this machine.
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
from inflame.infra.loopback.kept import ALONE, google, kept, placed, surroundings
from inflame.infra.loopback.machine import STAGE, Down, passed, where
from inflame.infra.loopback.server import Control, Server
from inflame.infra.pack import package
from inflame.infra.places import Place
from inflame.records import Job, JobSpec, dumps

BEAT = "0.5"  # seconds between two signs of life: a killed machine is missed sooner


class Runs(Control, Protocol):
    """A control plane that runs jobs."""

    def lose(self, name: str) -> None:
        """Ends the machines of a job without a word, as a power cut does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a job is rehearsed. `output`: the folder that its output is here; `lose`: takes its machines away without
    a word; `restarts`: whether its place then begins it again by itself. `taker`: who takes the request that would be
    sent, empty where nobody does; `ran`: in containers or not, where its place would; `remedy`: what would help."""

    launcher: Launcher
    request: dict[str, Any]
    output: Path
    lose: Callable[[Job], None]
    restarts: bool = False
    taker: str = ""
    ran: str = ""
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
        stack.enter_context(surroundings(common))
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
        place, root = placed(plan, spec, "s3", folder, aws.buckets)
        if place == plan.place:
            services |= {**ALONE, "AWS_ENDPOINT_URL": server.url, "AWS_REGION": region}
        elif plugins.need("boto3", "aws", "The place sagemaker").session.Session().get_credentials() is None:
            services |= ALONE  # requests must be signed; that there are no keys is found when the place is looked at
        with surroundings(services):
            control = SageMaker(folder / "machines")
            aws.join(control)
            yield _contained(plan, spec, control, server, place, root)


@contextmanager
def _vertexai(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback.gcs import Gcs
    from inflame.infra.loopback.vertexai import VertexAI

    control = VertexAI(folder / "google")
    buckets = Buckets(control.gcs)
    with Server(Gcs(buckets)) as storage, Server(control) as server:
        place, root = placed(plan, spec, "gs", folder, buckets)
        with surroundings(google(storage) if place == plan.place else {}):
            yield _contained(plan, spec, control, server, place, root)


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
        yield _contained(plan, spec, control, server, root.as_uri(), root)


@contextmanager
def _clearml(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback.clearml import ClearML

    control = ClearML(folder / "clearml", queues=(_own(plan).settings["queue"],))
    keys = {"CLEARML_API_ACCESS_KEY": control.key, "CLEARML_API_SECRET_KEY": control.key}
    with ExitStack() as stack:
        place, root = kept(stack, plan, spec, folder)
        stack.enter_context(surroundings(keys))
        server = stack.enter_context(Server(control))
        yield _sent_by_its_own(plan, spec, control, server, place, root)


@contextmanager
def _kubernetes(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    """An output that is no bucket is a claim that the pods see."""
    from inflame.infra.loopback.kubernetes import Kubernetes, config

    control, own = Kubernetes(folder / "cluster"), _own(plan)
    with ExitStack() as stack:
        place, root = kept(stack, plan, spec, folder)
        if place != plan.place:
            own = type(own)({**own.settings, "claim": f"rehearsal:{root}"})
        server = stack.enter_context(Server(control))
        store.write(folder / "config", dumps(config(server.url, own.settings["context"])))
        services = {"KUBECONFIG": str(folder / "config"), "KUBECACHEDIR": str(folder / "kubectl")}
        stack.enter_context(surroundings(services))
        here = _sent(plan, spec, own, control.lose, place, root, restarts=True)
        yield replace(here, ran=_ran(own, spec))


@contextmanager
def _slurm(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    own = type(_own(plan))({**_own(plan).settings, "logs": str(folder / "logs")})
    with ExitStack() as stack:
        place, root = kept(stack, plan, spec, folder)
        lose, taker = _slurm_of_ours(stack, plan.request["script"], spec.count, folder)
        yield _sent(plan, spec, own, lose, place, root, taker=taker)


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
        stack.enter_context(surroundings({"SLURM_CONF": str(cluster.config)}))
        return cluster.lose, f"a Slurm {cluster.version()} of this machine"
    control = slurm.Slurm(folder / "slurm")
    commands = slurm.commands(folder / "bin", stack.enter_context(Server(control)).url)
    stack.enter_context(surroundings({"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}))
    return control.lose, "what stands in for Slurm here (no queue, no limits)"


def _named(script: str, option: str) -> list[str]:
    """The words in the values of an option of sbatch."""
    values = re.findall(rf"^#SBATCH (?:{option})(\S+)", script, re.MULTILINE)
    return [word for value in values for word in re.findall(r"[\w-]+", value)]


@contextmanager
def _ray(plan: Plan, spec: JobSpec, folder: Path) -> Iterator[Stage]:
    from inflame.infra.loopback import ray

    size = plan.request["machines"]
    with ExitStack() as stack:
        place, root = kept(stack, plan, spec, folder)
        head = stack.enter_context(ray.head(cpus=spec.count * size["cores"], gpus=spec.count * size["gpus"]))
        stack.enter_context(surroundings({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}))
        taker = f"a Ray {metadata.version('ray')} of this machine"
        yield _sent(plan, spec, _own(plan).at(head.url), lambda _: head.lose(), place, root, taker=taker)


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


def _contained(plan: Plan, spec: JobSpec, control: Runs, server: Server, place: str, root: Path) -> Stage:
    """The same, at a place that runs jobs in containers of their image."""
    return replace(_sent_by_its_own(plan, spec, control, server, place, root), ran=_ran(_own(plan), spec))


def _ran(own: Place, spec: JobSpec) -> str:
    return where(spec.image or own.settings["image"])


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
