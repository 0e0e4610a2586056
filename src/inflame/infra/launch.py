"""From a job that somebody wants to a job that can be sent: its machine, place, code and caps, all looked at before
anything leaves this machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inflame import remote, store
from inflame.errors import UserError
from inflame.infra import jobs, machines
from inflame.infra.launcher import Launcher, app
from inflame.infra.machines import Machine
from inflame.infra.pack import package, requirements
from inflame.infra.pack.package import Luggage
from inflame.records import JobSpec, Package

SHARED = ("slurm", "ray")  # whose machines see the folders of this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job that is ready to be sent. `place`: where jobs and code are kept; `spec.output` is the job's own folder."""

    id: str
    backend: str
    place: str
    spec: JobSpec
    machine: Machine
    luggage: Luggage = field(repr=False)
    package: Package
    request: dict[str, Any] = field(repr=False)

    def send(self) -> jobs.Sent:
        """Uploads what isn't there yet, and sends the job. MissingExtra without the driver of the place."""
        requirements.demand_driver(self.place)
        package.upload(self.luggage, self.place)
        return jobs.submit(self.id, self.backend, self.spec, self.package)


def plan(spec: JobSpec, backend: str, *, limit: int | None = None) -> Plan:
    """Everything about the job; nothing is sent, no SDK is imported. `spec.output` is the place that the user named.

    UserError for what can't be: no `app.py`, a machine, place or cap that doesn't fit, data that are only here.
    """
    found: Launcher = jobs.launcher(backend)
    app(spec)
    machine = machines.find(spec.machine, backend) if spec.machine or backend not in machines.UNSIZED else _any()
    place = spec.output or _default(backend)
    _demand_place(spec, backend, place)
    _demand_reachable(spec, backend)
    demand_affordable(spec, machine)
    spec = replace(spec, arguments=words(spec, machine))
    luggage = package.collect(spec, place, **({} if limit is None else {"limit": limit}))
    called = jobs.name(spec, backend, luggage.name)
    spec = replace(spec, output=store.join(place, "jobs", called) if place else "")
    carried = luggage.package(place)
    request = found.request(spec, carried)
    return Plan(
        id=called,
        backend=backend,
        place=place,
        spec=spec,
        machine=machine,
        luggage=luggage,
        package=carried,
        request=request,
    )


def demand_affordable(spec: JobSpec, machine: Machine, seconds: float | None = None) -> None:
    """A cap on money needs a price, and must be above what is to be expected, where that is known."""
    if spec.max_money is None:
        return
    if machine.price is None:
        raise UserError(
            f"What an hour of {machine.native or machine.name or 'this machine'} costs is unknown, so a cap on money "
            "can't be kept.",
            where="--max-money",
            remedy=f"Give --max-time, or write its price into {store.home() / machines.FILE}.",
        )
    cost = machine.cost(seconds, spec.count) if seconds is not None else None
    if cost is not None and cost > spec.max_money:
        raise UserError(
            f"The job would cost about ${cost:.2g}, more than the cap of ${spec.max_money:g}.",
            where="--max-money",
            remedy="Raise the cap, take a cheaper machine, or train for less time: --in 10m",
        )


def _any() -> Machine:
    return Machine(name="", native="")


def _default(backend: str) -> str:
    return str(store.home() / "jobs") if backend == "local" else ""


def _demand_place(spec: JobSpec, backend: str, place: str) -> None:
    """Checkpoints must outlive a machine that can be taken away."""
    far = remote.SCHEME.match(place) is not None and store.local(place) is None
    if spec.spot and not spec.output:
        raise UserError(
            "A spot machine is taken away at some time, and its work with it.",
            where="--spot",
            remedy="Say where checkpoints are kept: --output s3://my-bucket/inflame",
        )
    if spec.spot and not far and backend not in (*SHARED, "local") and not _loopback(place):
        raise UserError(
            f"Checkpoints of a spot machine don't reach {place}, which is a folder of this machine.",
            where="--output",
            remedy="Name a bucket: --output s3://my-bucket/inflame",
        )


def _loopback(place: str) -> bool:
    return place.startswith("file:")


def _demand_reachable(spec: JobSpec, backend: str) -> None:
    """Data on this machine are on no other one."""
    if backend in ("local", *SHARED):
        return
    for word in spec.arguments:
        key, equals, value = word.partition("=")
        path = store.local(value) if equals and value and key != "output" else None
        if path is not None and path.is_absolute() and path.exists():
            raise UserError(
                f"{value} is on this machine, and the job on {backend} can't see it.",
                where=word,
                remedy=f"Put it into a bucket, for example as shards: inflame shard {value} s3://my-bucket/data, and "
                f"say {key}=s3://my-bucket/data; or name a data set: inflame get",
            )


def words(spec: JobSpec, machine: Machine) -> tuple[str, ...]:
    """The job's arguments there: all GPUs of a machine are used, where nothing else is said."""
    said = any(word.startswith("devices=") for word in spec.arguments)
    more = (f"devices={machine.gpus}",) if not said and (machine.gpus or 0) > 1 else ()
    return (*spec.arguments, *more)


def report(found: Luggage) -> list[str]:
    """What would leave this machine, in lines: how much, the ten biggest files, and what stays."""
    code = found.code
    if code is None:
        return [f"code    the model {found.model.removeprefix(package.BUILTIN)} of inflame itself; no files of yours"]
    about = f", commit {code.commit[:7]}{' and changes' if code.diff else ''}" if code.commit else ""
    lines = [f"code    {len(code.entries)} files, {size(code.size)} of {code.root}{about}, tree {code.tree[:12]}"]
    lines += [f"        {size(entry.size):>9}  {entry.path}" for entry in code.biggest()]
    return [*lines, *(f"note    {note}" for note in code.notes)]


def size(count: float) -> str:
    """`4.2 MB`."""
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:.1f} KB"


def requirements_of(found: Luggage) -> list[str]:
    """The lines of its requirement list."""
    return found.files["requirements.txt"].decode().split()


def folder_of(spec: JobSpec) -> Path:
    """The model's folder."""
    return Path(spec.model).expanduser().resolve()
