"""A Ray cluster as a place to train: one job of Ray's own, by the REST API of its head.

Ray need not be installed here. All nodes must reach the output: a bucket, or a folder that they share; for several
machines a folder, because there the code is unpacked once for all of them.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from inflame import store
from inflame.errors import NetworkError, SettingError, UserError
from inflame.infra import machines, places
from inflame.infra.command import PREEMPTED, VARIABLE, command, variables
from inflame.infra.launcher import ENDED, OK, Finding, app
from inflame.infra.places import Place, Setting
from inflame.infra.places.rest import Absent, Rest, Unsure
from inflame.infra.ray_train import CPUS, GPUS
from inflame.records import Job, JobSpec, Package

NAME = "ray"
SETTINGS = (
    Setting(
        name="address",
        help="where the dashboard of its head answers",
        variables=("INFLAME_RAY_ADDRESS", "RAY_ADDRESS"),
        default="http://127.0.0.1:8265",
    ),
    Setting(name="patience", help="seconds that a job may wait for a free machine", default="600"),
    Setting(name="grows", help="yes, where the cluster makes machines for what waits"),
)
_PORT = 8265
_GRACE = 120  # seconds to save; Ray's own are three
_STATES = {"PENDING": "queued", "RUNNING": "running", "STOPPED": "stopped", "SUCCEEDED": "done", "FAILED": "failed"}
_REMEDIES = {
    "login": "Set RAY_AUTH_TOKEN to the token of the cluster (ray get-auth-token, where it runs).",
    "rights": "Set RAY_AUTH_TOKEN to the token of the cluster (ray get-auth-token, where it runs).",
    "quota": "Take a smaller --machine.",
    "wrong": "Correct what it names. See: inflame doctor --on ray",
}


class Ray(Place):
    """Jobs of a Ray cluster."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)
        self._rest: Rest | None = None

    def at(self, endpoint: str) -> Self:
        """The same with the dashboard of its head at another address."""
        return type(self)({**self.settings, "address": endpoint})

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The body of `POST /api/jobs/`."""
        app(spec)
        _demand_possible(spec)
        places.demand_output(NAME, spec, ("", "file", "s3", "gs", "az", "abfs", "abfss"), self.settings)
        name = places.name(NAME, spec, package)
        cores, gpus = _size(spec)
        told = {"RAY_JOB_STOP_WAIT_TIME_S": str(_GRACE), **places.placeholders(spec.environment)}
        if spec.count > 1:  # a process for each GPU; each reserves its own
            each = max(1, gpus)
            told |= _shared(spec, package) | {CPUS: str(max(1, cores // each)), GPUS: "1" if gpus else "0"}
            told |= variables(replace(spec, count=spec.count * each), package)
        else:
            told |= variables(spec, package)
        told[VARIABLE] = told[VARIABLE].replace("$", "\\u0024")  # Ray would put other variables there; JSON is the same
        body = {
            "entrypoint": shlex.join(command(package.archive) if package else ["true"]),
            "submission_id": name,
            "runtime_env": {"env_vars": told},
            "metadata": {"inflame": package.tree if package else "none"},
            "entrypoint_num_cpus": cores if spec.count == 1 else 0,
            "entrypoint_num_gpus": gpus if spec.count == 1 else 0,
        }
        return {
            "backend": NAME,
            "call": f"POST {self._url('')}",
            "environment": list(spec.environment),
            "output": spec.output,
            "machines": {"count": spec.count, "cores": cores, "gpus": gpus},
            "body": body,
        }

    def send(self, request: dict[str, Any]) -> Job:
        """Creates the job, once: the cluster takes a name only once. UserError where it could never begin."""
        body = places.filled(request["body"], request["environment"])
        _demand_kept(request["environment"])
        self._demand_room(**request["machines"])

        def job(name: str) -> Job:
            return Job(id=name, backend=NAME, status="queued", output=request["output"])

        def look(name: str) -> Job | None:
            try:
                return _now(job(name), self.rest.get(self._url(name)))
            except Absent:
                return None

        def create(name: str) -> Job | None:
            try:
                self.rest.ask("POST", self._url(""), {**body, "submission_id": name}, once=True)
            except Unsure:
                return None
            return job(name)

        return places.send_once(body["submission_id"], look, create)

    def status(self, job: Job) -> Job:
        """As Ray has it. A job that has waited too long for a machine is taken back: Ray would wait for ever."""
        try:
            about = self.rest.get(self._url(job.id))
        except Absent:
            return places.vanished(job)
        now = _now(job, about)
        patience = float(self.settings["patience"])
        if now.status == "queued" and time.time() - (about.get("start_time") or math.inf) / 1000 > patience:
            self._stop(job)
            reason = f"No machine was free for {patience:.0f} s. {self._there()}"
            return replace(now, status="failed", code=1, reason=reason)
        return now

    def logs(self, job: Job) -> Iterator[str]:
        """The lines that the job has said, after Ray's own."""
        try:
            told = self.rest.get(self._url(f"{job.id}/logs"))
        except Absent:
            return
        yield from str(told.get("logs") or "").splitlines()

    def cancel(self, job: Job) -> Job:
        """SIGTERM to all processes of the job, which have two minutes to save."""
        now = self.status(job)
        if now.status not in (*ENDED, "preempted"):
            self._stop(job)
        return now

    def check(self, spec: JobSpec) -> list[Finding]:
        """The head and its token, then machines and output."""
        return places.looked(
            lambda: self._url(""),
            self._version,
            {
                "machine": lambda: self._fits(spec),
                "output": lambda: places.writable(spec.output, "Give the output a place that all nodes see."),
            },
            {},
        )

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """Ray has no roles: whoever has the token may do all."""
        return {"commands": ["ray get-auth-token   (on the head), then here:   export RAY_AUTH_TOKEN=…"]}

    @property
    def rest(self) -> Rest:
        """The API, with the token of the cluster."""
        if self._rest is None:
            self._rest = Rest(NAME, NAME, _token, _REMEDIES)
        return self._rest

    def _base(self) -> str:
        """The dashboard: also where the address is that of Ray's other services, on its usual port."""
        given = self.settings["address"].rstrip("/")
        if re.match(r"https?://", given):
            return given
        found = re.fullmatch(r"(?:ray://)?([\w.-]+)(?::\d+)?", given)
        if not found:
            raise SettingError(
                f'"{given}" is no address of a Ray cluster.',
                where=f"address below [on.{NAME}], or RAY_ADDRESS",
                remedy="Name its dashboard: http://HEAD:8265",
            )
        return f"http://{'127.0.0.1' if found[1] == 'auto' else found[1]}:{_PORT}"

    def _url(self, job: str) -> str:
        return f"{self._base()}/api/jobs/{job}"

    def _stop(self, job: Job) -> None:
        try:
            self.rest.ask("POST", f"{self._url(job.id)}/stop")
        except Absent:  # gone meanwhile
            return

    def _nodes(self) -> list[dict[str, float]]:
        """What each machine has that lives: `{"CPU": 8.0, "GPU": 1.0, …}`."""
        told = self.rest.get(f"{self._base()}/api/v0/nodes", detail="1", limit="10000")
        listed = told["data"]["result"]["result"]
        return [one.get("resources_total") or {} for one in listed if one.get("state") == "ALIVE"]

    def _demand_room(self, count: int, cores: int, gpus: int) -> None:
        """What no machine has is never free; Ray would wait for it without a word. A head that has just begun knows of
        none yet."""
        nodes = self._nodes()
        room = sum(_times(node, cores, gpus) for node in nodes)
        if nodes and room < count and self.settings["grows"] != "yes":
            wanted = f"{count} x {cores} CPUs" + (f" and {gpus} GPUs" if gpus else "")
            raise UserError(
                f"The cluster has no room for {wanted}. {_listed(nodes)}",
                where=self._base(),
                remedy="Ask for less (--machine, --count), add machines (ray start --address=HEAD:6379), or write   "
                f'grows = "yes"   below [on.{NAME}] in {places.FILE} where the cluster makes them itself.',
            )

    def _there(self) -> str:
        return _listed(self._nodes())

    def _version(self) -> str:
        try:
            found: dict[str, Any] = self.rest.get(f"{self._base()}/api/version")
        except (Absent, NetworkError) as error:
            raise UserError(
                f"No head of a Ray cluster answers at {self._base()}: {error}",
                where=self._base(),
                remedy=f'Say where its head is: address = "http://HEAD:{_PORT}" below [on.{NAME}], or set RAY_ADDRESS.',
            ) from error
        return str(found.get("ray_version", "?"))

    def _fits(self, spec: JobSpec) -> Finding:
        cores, gpus = _size(spec)
        self._demand_room(spec.count, cores, gpus)
        return Finding(what="machine", state=OK, text=f"Ray {self._version()}. {self._there()}")


def _demand_possible(spec: JobSpec) -> None:
    """UserError for what a Ray cluster doesn't have."""
    for flag, given, why in (
        ("--spot", spec.spot, "Which machines of a Ray cluster may be taken away is not its jobs' choice."),
        ("--image", bool(spec.image), "The machines of a Ray cluster have their image already."),
    ):
        if given:
            raise UserError(why, where=flag, remedy=f"Leave {flag} out.")
    if spec.count > 1 and store.local(spec.output) is None:
        raise UserError(
            "Several machines of a Ray cluster share one copy of the code, which a bucket can't be.",
            where="--output",
            remedy="Name a folder that all nodes see: --output /shared/inflame; or leave --count out.",
        )


def _demand_kept(names: Sequence[str]) -> None:
    """UserError for a value that Ray would change on its way."""
    for name in names:
        if re.search(r"\$(\w|\{)", os.environ[name]):
            raise UserError(
                f"Ray takes a $ in the value of a variable for the name of another one, and {name} has a $ in it.",
                where=f"--env {name}",
                remedy="Set the variable on the machines of the cluster, or use a value without a $.",
            )


def _size(spec: JobSpec) -> tuple[int, int]:
    """Cores and GPUs of each machine; one core where nothing is said."""
    if not spec.machine:
        return 1, 0
    found = machines.find(spec.machine, NAME)
    return found.cores or 1, found.gpus or 0


def _shared(spec: JobSpec, package: Package | None) -> dict[str, str]:
    """Where all machines find code and packages: folders, whose names the shell takes."""
    place = package.archive.rpartition("/code/")[0] if package else spec.output
    found = {"INFLAME_WORK": store.join(spec.output, "work"), "INFLAME_PARTS": store.join(place, "parts")}
    return {name: uri.removeprefix("file://") for name, uri in found.items()}


def _times(node: dict[str, float], cores: int, gpus: int) -> int:
    """How many such machines a node has room for."""
    return int(min(node.get("CPU", 0) // cores, node.get("GPU", 0) // gpus if gpus else math.inf))


def _listed(nodes: list[dict[str, float]]) -> str:
    shown = [f"{node.get('CPU', 0):.0f} CPUs, {node.get('GPU', 0):.0f} GPUs" for node in nodes[:8]]
    return f"It has {len(nodes)} machines: {'; '.join(shown)}{' …' if len(nodes) > 8 else ''}."


def _token(fresh: bool) -> str:
    """As Ray itself finds it: in the environment, in a file that it names, or where `ray get-auth-token` puts it."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return ""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()
    return store.read_text(path).strip() if path.is_file() else ""


def _now(job: Job, about: dict[str, Any]) -> Job:
    """The job as Ray describes it."""
    status = _STATES.get(about["status"], "running")
    reason = str(about.get("message") or "").partition(", last available logs")[0].partition("\n")[0]
    if status not in ENDED:
        return replace(job, status=status, reason=reason if status == "queued" else "")
    code = {"done": 0, "stopped": places.STOPPED}.get(status, about.get("driver_exit_code") or 1)
    if code == PREEMPTED:
        return replace(job, status="preempted", code=code, reason=reason)
    return replace(job, status=status, code=code, reason="" if status == "done" else reason)
