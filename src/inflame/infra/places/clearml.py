"""ClearML as a place to train: a task in a queue, which an agent takes. Works with a server of your own.

The task is a short script without a repository, so ClearML has no changes to replay: it sets the variables and becomes
our own command. Tasks have no names of their own, so a task is found again by its tag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import UserError, did_you_mean
from inflame.infra import machines, places
from inflame.infra.command import PREEMPTED, command, variables
from inflame.infra.launcher import ENDED, NOT_OK, OK, UNKNOWN, Finding, app
from inflame.infra.places import Place, Setting
from inflame.infra.places.rest import Absent, Rest, Unsure
from inflame.records import Job, JobSpec, Package

NAME = "clearml"
SETTINGS = (
    Setting(name="queue", help="the queue that an agent listens to", variables=("CLEARML_QUEUE",), default="default"),
    Setting(name="project", help="the project", variables=("CLEARML_PROJECT",), default="inflame"),
    Setting(name="image", help="the container image, for agents that use them"),
    Setting(name="endpoint", help="the address of the API server", variables=("CLEARML_API_HOST",)),
)
_CONF = re.compile(r"^\s*\"?(api_server|access_key|secret_key)\"?\s*[:=]\s*\"?([^\s\"#]+)", re.MULTILINE)
_SERVER = "https://api.clear.ml"
_PAGE = 500
_STATES = {
    "created": "queued",
    "queued": "queued",
    "in_progress": "running",
    "completed": "done",
    "closed": "done",
    "publishing": "done",
    "published": "done",
    "stopped": "stopped",
    "failed": "failed",
}
_REMEDIES = {
    "login": "Type   clearml-init   or set CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY.",
    "rights": "Ask whoever runs the server for the rights of a user of the workspace.",
    "quota": "Ask whoever runs the server for more.",
    "wrong": "Correct what it names. See: inflame doctor --on clearml",
}
_SCRIPT = """\
# A job of inflame: sets what it is told, and becomes the command that unpacks the code and runs it.
import os

os.environ.update({variables!r})
os.execvp({first!r}, {words!r})
"""


class ClearML(Place):
    """Tasks of ClearML."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)
        self._rest: Rest | None = None
        self._kept = ""  # the token

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The body of `tasks.create`, the queue, and the variables that are put into its script."""
        app(spec)
        places.demand_output(NAME, spec, ("s3", "gs", "az", "abfs", "abfss", "file", ""), self.settings)
        machines.find(spec.machine, NAME)
        if spec.count != 1 or spec.spot:
            what = "several machines for a job" if spec.count != 1 else "machines that are taken away"
            raise UserError(
                f"ClearML's queues have no {what}.",
                where="--count" if spec.count != 1 else "--spot",
                remedy="Leave it out; which machine it is depends on the agent of the queue.",
            )
        words = command(package.archive) if package else ["true"]
        told = {**variables(spec, package), **places.placeholders(spec.environment)}
        name = places.name(NAME, spec, package)
        image = spec.image or self.settings["image"]
        body: dict[str, Any] = {
            "name": name,
            "type": "training",
            "tags": ["inflame", name],
            "script": {
                "entry_point": "inflame_job.py",
                "working_dir": ".",
                "requirements": {"pip": ""},
                "diff": _script(words, told),
            },
            "hyperparams": {"inflame": _shown(spec)},
        }
        if image:
            body["container"] = {"image": image, "arguments": "--ipc=host"}
        return {
            "backend": NAME,
            "project": self.settings["project"],
            "queue": self.settings["queue"],
            "environment": list(spec.environment),
            "output": spec.output,
            "command": words,
            "variables": told,
            "body": body,
        }

    def send(self, request: dict[str, Any]) -> Job:
        """Makes the task and queues it, once: of several with the same tag the oldest is queued, the others deleted."""
        told = places.filled(request["variables"], request["environment"])
        body = {**request["body"], "script": {**request["body"]["script"], "diff": _script(request["command"], told)}}
        queue = self._queue(request["queue"])

        def look(name: str) -> Job | None:
            found = self._tagged(name)
            if not found:
                return None
            if found[0]["status"] == "created":  # made, and not queued: the sender was cut off
                self._enqueue(found[0]["id"], queue)
            return _now(Job(id=found[0]["id"], backend=NAME, status="queued", output=request["output"]), found[0])

        def create(name: str) -> Job | None:
            task = {**body, "name": name, "tags": ["inflame", name], "project": self._project(request["project"])}
            try:
                made = self._ask("tasks.create", task, once=True)["id"]
            except Unsure:
                return None
            for other in self._tagged(name)[1:]:
                if other["id"] == made:  # a second sender was quicker
                    self._ask("tasks.delete", {"task": made, "force": True})
            return look(name)

        return places.send_once(body["name"], look, create)

    def status(self, job: Job) -> Job:
        """As the server has it."""
        try:
            return _now(job, self._ask("tasks.get_by_id", {"task": job.id})["task"])
        except Absent:
            return places.vanished(job)

    def logs(self, job: Job) -> Iterator[str]:
        """The lines that the agent has sent to the server."""
        after = 0
        while True:
            asked = {"task": job.id, "batch_size": _PAGE, "navigate_earlier": False, "from_timestamp": after}
            try:
                events = self._ask("events.get_task_log", asked).get("events", [])
            except Absent:
                return
            for event in events:
                yield from str(event.get("msg", "")).splitlines()
            if len(events) < _PAGE:
                return
            after = events[-1]["timestamp"]

    def cancel(self, job: Job) -> Job:
        """The agent ends the job; one that still waits is taken from the queue."""
        now = self.status(job)
        if now.status in ENDED:
            return now
        try:
            if now.status == "queued":
                self._ask("tasks.dequeue", {"task": job.id})
            self._ask("tasks.stop", {"task": job.id, "force": now.status == "queued"})
        except Absent:
            return places.vanished(job)
        return now

    def check(self, spec: JobSpec) -> list[Finding]:
        """Server and credentials, then queue, agents and output."""
        return places.looked(
            lambda: None,
            lambda: self.rest.login(),  # noqa: PLW0108 - late: its package may be missing
            {
                "credentials": self._known,
                "queue": self._listened,
                "output": lambda: places.writable(spec.output, _REMEDIES["wrong"]),
            },
            {},
        )

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """ClearML's open server has no roles: whoever has credentials may do all."""
        return {"commands": ["Settings > Workspace > Create new credentials, then:   clearml-init"]}

    @property
    def rest(self) -> Rest:
        """The API, with your credentials."""
        if self._rest is None:
            self._rest = Rest(NAME, NAME, self._token, _REMEDIES, absent=r"Invalid task id|task not found")
        return self._rest

    def _ask(self, verb: str, body: dict[str, Any], *, once: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = self.rest.ask("POST", f"{self._server()}/{verb}", body, once=once).get("data", {})
        return found

    def _server(self) -> str:
        return (self.settings["endpoint"] or _conf().get("api_server") or _SERVER).rstrip("/")

    def _token(self, fresh: bool) -> str:
        """By the keys in the environment or in clearml.conf."""
        if self._kept and not fresh:
            return self._kept
        conf = _conf()
        key = os.environ.get("CLEARML_API_ACCESS_KEY") or conf.get("access_key", "")
        secret = os.environ.get("CLEARML_API_SECRET_KEY") or conf.get("secret_key", "")
        if not key or not secret:
            raise UserError("ClearML has no credentials of yours.", where=NAME, remedy=_REMEDIES["login"])
        login = Rest(NAME, NAME, lambda _: "", _REMEDIES, auth=(key, secret))
        self._kept = str(login.ask("POST", f"{self._server()}/auth.login", {})["data"]["token"])
        return self._kept

    def _tagged(self, name: str) -> list[dict[str, Any]]:
        """The tasks with that tag, the oldest first."""
        fields = ["id", "status", "status_reason", "status_message", "created"]
        asked = {"tags": [name], "only_fields": fields, "order_by": ["created"]}
        found = self._ask("tasks.get_all", asked).get("tasks", [])
        return sorted(found, key=lambda task: (str(task.get("created", "")), task["id"]))

    def _enqueue(self, task: str, queue: str) -> None:
        try:
            self._ask("tasks.enqueue", {"task": task, "queue": queue})
        except UserError as error:
            if "status" not in error.message:  # it is queued already, by a second sender
                raise

    def _queue(self, name: str) -> str:
        known = {queue["name"]: queue["id"] for queue in self._ask("queues.get_all", {}).get("queues", [])}
        if name not in known:
            raise UserError(
                f'ClearML has no queue "{name}".{did_you_mean(name, known)}',
                where=f"queue below [on.{NAME}]",
                remedy=f"Use one of: {', '.join(sorted(known)) or '(none yet)'}; or make it in the web page.",
            )
        return str(known[name])

    def _project(self, name: str) -> str:
        found = self._ask("projects.get_all", {"name": f"^{re.escape(name)}$"}).get("projects", [])
        if found:
            return str(found[0]["id"])
        return str(self._ask("projects.create", {"name": name, "description": ""})["id"])

    def _known(self) -> Finding:
        self._ask("queues.get_all", {})
        return Finding(what="credentials", state=OK, text=f"{self._server()} knows you.")

    def _listened(self) -> Finding:
        queue = self._queue(self.settings["queue"])
        workers = self._ask("workers.get_all", {}).get("workers", [])
        mine = [one for one in workers if any(other.get("id") == queue for other in one.get("queues", []))]
        if mine:
            text = f"{len(mine)} agents listen to {self.settings['queue']}."
            return Finding(what="queue", state=OK, text=text)
        state = NOT_OK if not workers else UNKNOWN
        remedy = f"clearml-agent daemon --queue {self.settings['queue']}"
        return Finding(what="queue", state=state, text=f"No agent listens to {self.settings['queue']}.", remedy=remedy)


def _conf() -> dict[str, str]:
    """The server and the keys in clearml.conf, as `clearml-init` writes it."""
    path = Path(os.environ.get("CLEARML_CONFIG_FILE") or Path.home() / "clearml.conf").expanduser()
    return dict(_CONF.findall(store.read_text(path))) if path.is_file() else {}


def _script(words: list[str], told: dict[str, str]) -> str:
    return _SCRIPT.format(variables=told, first=words[0], words=words)


def _shown(spec: JobSpec) -> dict[str, Any]:
    """For people who look at the task; the job itself is told by its script."""
    said = {"model": Path(spec.model).name, "arguments": " ".join(spec.arguments), "output": spec.output}
    return {name: {"section": "inflame", "name": name, "value": value, "type": "str"} for name, value in said.items()}


def _now(job: Job, about: dict[str, Any]) -> Job:
    """The job as the server describes it."""
    status = _STATES.get(about["status"], "running")
    said = [about.get("status_reason") or "", about.get("status_message") or ""]
    reason = ". ".join(dict.fromkeys(one.rstrip(".") for one in said if one))
    if status not in ENDED:
        return replace(job, status=status, reason="Waits for an agent." if status == "queued" else "")
    found = re.search(r"exit code:? (\d+)", reason)
    code = {"done": 0, "stopped": places.STOPPED}.get(status, int(found[1]) if found else 1)
    return replace(job, status="preempted" if code == PREEMPTED else status, code=code, reason=reason)
