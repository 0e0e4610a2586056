"""Google Vertex AI as a place to train: one `CustomJob`, by its REST API.

The bucket with the code is mounted below `/gcs`, as Vertex AI does by itself. Jobs have numbers there and no names of
ours, so a job is found again by its label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from inflame import plugins, store
from inflame.errors import SettingError, UserError
from inflame.infra import machines, places
from inflame.infra.command import PREEMPTED, command, variables
from inflame.infra.launcher import ENDED, NOT_OK, OK, Finding, app
from inflame.infra.places import Place, Setting
from inflame.infra.places.rest import Absent, Rest, Unsure
from inflame.records import Job, JobSpec, Package

NAME = "vertexai"
SETTINGS = (
    Setting(
        name="project",
        help="the project that pays",
        variables=("INFLAME_VERTEXAI_PROJECT", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"),
        example="my-project",
        required=True,
    ),
    Setting(
        name="location",
        help="the region where the job runs",
        variables=("INFLAME_VERTEXAI_LOCATION", "CLOUD_ML_REGION", "GOOGLE_CLOUD_REGION"),
        example="us-central1",
        required=True,
    ),
    Setting(
        name="service_account",
        help="who the job is",
        variables=("INFLAME_VERTEXAI_SERVICE_ACCOUNT",),
        example="inflame@my-project.iam.gserviceaccount.com",
    ),
    Setting(name="image", help="the container image", default="pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime"),
    Setting(name="disk", help="disk of each machine, in GB", default="100"),
    Setting(name="network", help="a network of yours, projects/NUMBER/global/networks/NAME"),
    Setting(name="endpoint", help="another address of all services", variables=("INFLAME_VERTEXAI_ENDPOINT",)),
)
LABEL = "inflame"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_DAY = 24 * 3600.0
_STATES = {
    "QUEUED": "queued",
    "PENDING": "starting",
    "RUNNING": "running",
    "UPDATING": "running",
    "PAUSED": "queued",
    "CANCELLING": "running",
    "SUCCEEDED": "done",
    "PARTIALLY_SUCCEEDED": "done",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "CANCELLED": "stopped",
}
_REMEDIES = {
    "login": "Type   gcloud auth application-default login   or set GOOGLE_APPLICATION_CREDENTIALS.",
    "rights": "Give yourself the rights that inflame doctor --on vertexai prints.",
    "quota": "Ask for more under IAM & Admin > Quotas (custom model training), or take another --machine or location.",
    "wrong": "Correct what it names: location, image, machine or bucket. See: inflame doctor --on vertexai",
}


class VertexAI(Place):
    """Custom jobs of Vertex AI."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)
        self._rest: Rest | None = None
        self._credentials: Any = None

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The body of `customJobs.create`; its `jobSpec` is what `gcloud ai custom-jobs create --config` takes."""
        app(spec)
        places.demand(NAME, self.settings, SETTINGS)
        places.demand_output(NAME, spec, ("gs",), self.settings)
        machine = machines.find(spec.machine, NAME)
        words = command(_mounted(package.archive)) if package else ["true"]
        told = variables(spec, package, price=machines.price(spec, NAME))
        inputs = {f"INFLAME_INPUT_{number}": _mounted(uri) for number, uri in enumerate(spec.inputs)}
        environment = {**told, **inputs, **places.placeholders(spec.environment)}
        pool = {
            "machineSpec": _machine(machine.native),
            "replicaCount": 1,
            "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": int(self.settings["disk"])},
            "containerSpec": {
                "imageUri": spec.image or self.settings["image"],
                "command": words[:1],
                "args": words[1:],
                "env": [{"name": name, "value": value} for name, value in environment.items()],
            },
        }
        # The first pool is one machine, all further ones are the second.
        pools = [pool] + ([{**pool, "replicaCount": spec.count - 1}] if spec.count > 1 else [])
        seconds = int(spec.max_time + places.AFTER if spec.max_time else 7 * _DAY)
        about: dict[str, Any] = {
            "workerPoolSpecs": pools,
            "scheduling": {
                "timeout": f"{seconds}s",
                "restartJobOnWorkerRestart": spec.spot,
                "strategy": "SPOT" if spec.spot else "STANDARD",
            },
            "baseOutputDirectory": {"outputUriPrefix": store.join(spec.output, "vertexai")},
        }
        about |= {key: self.settings[key] for key in ("network",) if self.settings[key]}
        if self.settings["service_account"]:
            about["serviceAccount"] = self.settings["service_account"]
        name = places.name(NAME, spec, package)
        return {
            "backend": NAME,
            "call": f"POST {self._jobs()}",
            "environment": list(spec.environment),
            "output": spec.output,
            "body": {"displayName": name, "labels": {LABEL: name}, "jobSpec": about},
        }

    def send(self, request: dict[str, Any]) -> Job:
        """Creates the job, once: of several with the same label the oldest stays."""
        body = places.filled(request["body"], request["environment"])

        def look(name: str) -> Job | None:
            found = self._labelled(name)
            return None if not found else self._job(found[0], request["output"])

        def create(name: str) -> Job | None:
            try:
                made = self.rest.ask(
                    "POST", self._jobs(), {**body, "displayName": name, "labels": {LABEL: name}}, once=True
                )
            except Unsure:
                return None
            first = self._labelled(name)[:1] or [made]
            if first[0]["name"] != made["name"]:  # a second sender was quicker
                self.rest.ask("POST", f"{self._at(made['name'])}:cancel", {})
            return self._job(first[0], request["output"])

        return places.send_once(body["displayName"], look, create)

    def status(self, job: Job) -> Job:
        """As Vertex AI has it."""
        try:
            return _now(job, self.rest.get(self._at(job.id)))
        except Absent:
            return places.vanished(job)

    def logs(self, job: Job) -> Iterator[str]:
        """The lines in Cloud Logging, which has them some seconds later."""
        number = job.id.rpartition("/")[2]
        body: dict[str, Any] = {
            "resourceNames": [f"projects/{self.settings['project']}"],
            "filter": f'resource.type="ml_job" AND resource.labels.job_id="{number}"',
            "orderBy": "timestamp asc",
            "pageSize": 1000,
        }
        while True:
            page = self.rest.ask("POST", f"{self._service('logging')}/v2/entries:list", body)
            for entry in page.get("entries", ()):
                told = entry.get("textPayload") or entry.get("jsonPayload", {}).get("message", "")
                yield from str(told).splitlines()
            if not page.get("nextPageToken"):
                return
            body["pageToken"] = page["nextPageToken"]

    def cancel(self, job: Job) -> Job:
        """SIGTERM to the job, which has a moment to save."""
        now = self.status(job)
        if now.status not in (*ENDED, "preempted"):
            self.rest.ask("POST", f"{self._at(job.id)}:cancel", {})
        return now

    def check(self, spec: JobSpec) -> list[Finding]:
        """Settings and credentials, then region, quota and bucket."""
        return places.looked(
            lambda: places.demand(NAME, self.settings, SETTINGS),
            lambda: self.rest.login(),  # noqa: PLW0108 - late: its package may be missing
            {"location and rights": lambda: self._seen(spec), "bucket": lambda: self._writable(spec)},
            {
                "quota": "Google doesn't say for Vertex AI what is left: IAM & Admin > Quotas, custom model training.",
                "image": "Whether the image exists shows when the job starts: try   docker manifest inspect IMAGE",
            },
        )

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """A role of your own for who sends the job, one for the job's account, and the commands that give them."""
        project, account = self.settings["project"] or "PROJECT", self.settings["service_account"] or "ACCOUNT"
        found = re.match(r"gs://([^/]+)", spec.output)
        bucket = found[1] if found else "BUCKET"
        sends, runs = (f"projects/{project}/roles/inflame{what}" for what in ("Sends", "Runs"))
        jobs = [f"aiplatform.customJobs.{verb}" for verb in ("create", "get", "list", "cancel")]
        return {
            "you": {
                "title": "inflame: sends jobs",
                "stage": "GA",
                "includedPermissions": [*jobs, "logging.logEntries.list", "iam.serviceAccounts.actAs"],
            },
            "job": {
                "title": "inflame: runs",
                "stage": "GA",
                "includedPermissions": [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")],
            },
            "commands": [
                f"gcloud iam roles create inflameSends --project {project} --file you.json",
                f"gcloud iam roles create inflameRuns --project {project} --file job.json",
                f"gcloud projects add-iam-policy-binding {project} --member user:YOU --role {sends}",
                *(
                    f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member {who} --role {runs}"
                    for who in ("user:YOU", f"serviceAccount:{account}")
                ),
            ],
        }

    @property
    def rest(self) -> Rest:
        """The API, with your credentials."""
        if self._rest is None:
            self._rest = Rest(NAME, "gcp", self._token, _REMEDIES)
        return self._rest

    def _token(self, fresh: bool) -> str:
        """From google-auth, as gcloud or GOOGLE_APPLICATION_CREDENTIALS say; the loopback takes any."""
        import os

        if places.loopback(self.settings) and "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ:
            return "loopback"
        auth = plugins.need("google.auth", "gcp", "The place vertexai")
        ask = plugins.need("google.auth.transport.requests", "gcp", "The place vertexai").Request()
        wrong = plugins.need("google.auth.exceptions", "gcp")
        try:
            if self._credentials is None:
                self._credentials, _ = auth.default(scopes=[_SCOPE])
            if fresh or not self._credentials.valid:
                self._credentials.refresh(ask)
        except wrong.GoogleAuthError as error:
            what = "has no credentials of yours" if self._credentials is None else "doesn't take your credentials"
            raise UserError(f"Google {what}: {error}", where=NAME, remedy=_REMEDIES["login"]) from error
        return str(self._credentials.token)

    def _service(self, name: str) -> str:
        return self.settings["endpoint"].rstrip("/") or f"https://{name}.googleapis.com"

    def _at(self, resource: str) -> str:
        return f"{self._service(self.settings['location'] + '-aiplatform')}/v1/{resource}"

    def _jobs(self) -> str:
        project, location = self.settings["project"], self.settings["location"]
        if not re.fullmatch(r"[a-z]+-[a-z]+\d+", location):
            raise SettingError(
                f'"{location}" is no region of Google\'s.',
                where=f"location below [on.{NAME}]",
                remedy="Name one, as us-central1 or europe-west4; a zone (us-central1-a) is none.",
            )
        return self._at(f"projects/{project}/locations/{location}/customJobs")

    def _labelled(self, name: str) -> list[dict[str, Any]]:
        """The jobs with that label, the oldest first; those that were sent twice and cancelled aside."""
        query, found = {"filter": f'labels.{LABEL}="{name}"'}, []
        while True:
            page = self.rest.get(self._jobs(), **query)
            found += page.get("customJobs", [])
            if not page.get("nextPageToken"):
                break
            query["pageToken"] = page["nextPageToken"]
        kept = [one for one in found if _state(one) not in ("CANCELLED", "CANCELLING")] or found
        return sorted(kept, key=lambda one: (one.get("createTime", ""), one["name"]))

    def _job(self, about: dict[str, Any], output: str) -> Job:
        return _now(Job(id=about["name"], backend=NAME, status="queued", output=output), about)

    def _seen(self, spec: JobSpec) -> Finding:
        self.rest.get(self._jobs(), pageSize="1")
        text = f"Jobs of {self.settings['project']} in {self.settings['location']} can be seen."
        return Finding(what="location and rights", state=OK, text=text)

    def _writable(self, spec: JobSpec) -> Finding:
        """By what Google says of your rights: nothing is written."""
        found = re.match(r"gs://([^/]+)", spec.output)
        if not found:
            text = f"{store.shown(spec.output) or 'No output'} is not in a bucket of Google's."
            return Finding(what="bucket", state=NOT_OK, text=text, remedy="Name one: --output gs://my-bucket/inflame")
        wanted = [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")]
        query = "&".join(f"permissions={one}" for one in wanted)
        try:
            url = f"{self._service('storage')}/storage/v1/b/{found[1]}/iam/testPermissions?{query}"
            given = self.rest.get(url).get("permissions", [])
        except Absent:
            remedy = f"gcloud storage buckets create gs://{found[1]} --location {self.settings['location']}"
            return Finding(what="bucket", state=NOT_OK, text=f"There is no bucket {found[1]}.", remedy=remedy)
        lacking = sorted(set(wanted) - set(given))
        if lacking:
            text = f"At gs://{found[1]} you lack {', '.join(lacking)}."
            return Finding(what="bucket", state=NOT_OK, text=text, remedy=_REMEDIES["rights"])
        return Finding(what="bucket", state=OK, text=f"gs://{found[1]} can be written.")


def _machine(native: str) -> dict[str, Any]:
    """`TYPE+ACCELERATOR:COUNT` in Google's words."""
    kind, _, accelerator = native.partition("+")
    if not accelerator:
        return {"machineType": kind}
    name, _, count = accelerator.partition(":")
    return {"machineType": kind, "acceleratorType": name, "acceleratorCount": int(count or 1)}


def _mounted(uri: str) -> str:
    return f"/gcs/{uri[5:]}" if uri.startswith("gs://") else uri


def _state(about: dict[str, Any]) -> str:
    return str(about.get("state", "JOB_STATE_PENDING")).removeprefix("JOB_STATE_")


def _now(job: Job, about: dict[str, Any]) -> Job:
    """The job as Vertex AI describes it."""
    status = _STATES.get(_state(about), "running")
    reason = about.get("error", {}).get("message", "")
    if status not in ENDED:
        return replace(job, status=status, reason=reason)
    found = re.search(r"non-zero (?:exit )?status of (\d+)", reason)
    code = {"done": 0, "stopped": places.STOPPED}.get(status, int(found[1]) if found else 1)
    if code == PREEMPTED:
        status = "preempted"
    return replace(job, status=status, code=code, reason=reason or ("It took too long." if code == 1 else ""))
