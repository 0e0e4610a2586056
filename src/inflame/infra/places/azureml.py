"""Azure Machine Learning as a place to train: one command job, by the REST API of Azure's resource manager.

What the job stands on (an environment for its image, a cluster that shrinks to nothing) is put there first; both are
there already the second time. The code is an input, fetched from the storage account.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from inflame import plugins
from inflame.errors import NetworkError, RunError, UserError
from inflame.infra import machines, places
from inflame.infra.command import PREEMPTED, command, variables
from inflame.infra.launcher import ENDED, Finding, Launcher, app
from inflame.infra.places import Setting
from inflame.infra.places.rest import Absent, Rest, Taken
from inflame.records import Job, JobSpec, Package

NAME = "azureml"
SETTINGS = (
    Setting(
        name="subscription",
        help="the subscription that pays",
        variables=("AZUREML_ARM_SUBSCRIPTION", "AZURE_SUBSCRIPTION_ID"),
        example="00000000-0000-0000-0000-000000000000",
        required=True,
    ),
    Setting(
        name="group",
        help="the resource group of the workspace",
        variables=("AZUREML_ARM_RESOURCEGROUP", "AZURE_RESOURCE_GROUP"),
        example="my-group",
        required=True,
    ),
    Setting(
        name="workspace",
        help="the workspace",
        variables=("AZUREML_ARM_WORKSPACE_NAME", "AZUREML_WORKSPACE"),
        example="my-workspace",
        required=True,
    ),
    Setting(
        name="account",
        help="the storage account of the output",
        variables=("AZURE_STORAGE_ACCOUNT_NAME",),
        example="mystorage",
        required=True,
    ),
    Setting(name="compute", help="a cluster of yours; without, one is made that shrinks to nothing"),
    Setting(name="most", help="machines that a cluster of ours may have", default="4"),
    Setting(name="identity", help="client id of the managed identity that the job and a cluster of ours have"),
    Setting(name="identity_id", help="resource id of that identity, for a cluster of ours"),
    Setting(name="image", help="the container image", default="pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime"),
    Setting(name="endpoint", help="another address of the service", variables=("INFLAME_AZUREML_ENDPOINT",)),
)
VERSION = "2024-10-01"
_SCOPE = "https://management.azure.com/.default"
PROVIDER = "Microsoft.MachineLearningServices"
_PATIENCE = 180.0  # seconds for a cluster to be made, which is empty
_STATES = {
    "NotStarted": "queued",
    "Queued": "queued",
    "Provisioning": "starting",
    "Preparing": "starting",
    "Starting": "starting",
    "Running": "running",
    "Finalizing": "running",
    "CancelRequested": "running",
    "NotResponding": "running",
    "Paused": "queued",
    "Completed": "done",
    "Failed": "failed",
    "Canceled": "stopped",
}
REMEDIES = {
    "login": "Type   az login   or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
    "rights": "Give yourself the role that inflame doctor --on azureml prints.",
    "quota": "Ask for more: Azure ML studio > Quota, or take another --machine or region.",
    "wrong": "Correct what it names: workspace, image, machine or storage. See: inflame doctor --on azureml",
}


class AzureML(Launcher):
    """Command jobs of Azure Machine Learning."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)
        self._rest: Rest | None = None
        self._credential: Any = None

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """The bodies of up to three PUTs, in their order: environment, cluster (where you name none), job."""
        app(spec)
        places.demand(NAME, self.settings, SETTINGS)
        places.demand_output(NAME, spec, ("az", "abfs", "abfss"), self.settings)
        machine = machines.find(spec.machine, NAME)
        image = spec.image or self.settings["image"]
        environment = f"environments/inflame/versions/{hashlib.sha256(image.encode()).hexdigest()[:12]}"
        compute = f"computes/{self.settings['compute'] or _cluster(machine.native, spec.spot)}"
        name = places.name(NAME, spec, package)
        puts = {environment: {"properties": {"image": image, "osType": "Linux", "description": "made by inflame"}}}
        if not self.settings["compute"]:
            puts[compute] = self._compute(machine.native, spec)
        puts[f"jobs/{name}"] = {"properties": self._properties(spec, package, environment, compute)}
        return {
            "backend": NAME,
            "workspace": self._workspace(),
            "api": VERSION,
            "environment": list(spec.environment),
            "output": spec.output,
            "job": name,
            "put": puts,
        }

    def send(self, request: dict[str, Any]) -> Job:
        """Puts all that is there not yet; the job, by its name, once."""
        puts = places.filled(request["put"], request["environment"])
        body = puts.pop(f"jobs/{request['job']}")

        def job(name: str) -> Job:
            return Job(id=name, backend=NAME, status="queued", output=request["output"])

        def look(name: str) -> Job | None:
            try:
                return _now(job(name), self.ask_for(f"jobs/{name}"))
            except Absent:
                return None

        def create(name: str) -> Job | None:
            for path, content in puts.items():
                self._provide(path, content)
            try:
                self._ask("PUT", f"jobs/{name}", body)  # may be repeated: it has its name
            except Taken:
                return None
            return job(name)

        return places.send_once(request["job"], look, create)

    def status(self, job: Job) -> Job:
        """As Azure has it."""
        try:
            now = _now(job, self.ask_for(f"jobs/{job.id}"))
        except Absent:
            return places.vanished(job)
        if now.status != "failed":
            return now
        error = self._details(job).get("error", {}).get("error", {})
        reason = error.get("message", "") or now.reason
        found = re.search(r"exit(?:ed)?(?: with)? (?:non-zero )?(?:status |code )+(\d+)", reason)
        code = int(found[1]) if found else 1
        return replace(now, status="preempted" if code == PREEMPTED else "failed", code=code, reason=reason)

    def logs(self, job: Job) -> Iterator[str]:
        """The lines that the machines have said, as far as Azure has copied them."""
        for name, url in sorted(self._details(job).get("logFiles", {}).items()):
            if re.fullmatch(r"user_logs/std_log(_process_\d+)?\.txt", name):
                yield from self._text(url).splitlines()

    def cancel(self, job: Job) -> Job:
        """SIGTERM to the job, which has a moment to save."""
        now = self.status(job)
        if now.status not in (*ENDED, "preempted"):
            try:
                self._ask("POST", f"jobs/{job.id}/cancel")
            except Absent:
                return places.vanished(job)
        return now

    def fetch(self, job: Job) -> Path:
        """The run folder, from the storage account."""
        return places.fetched(job)

    def check(self, spec: JobSpec) -> list[Finding]:
        """Settings and credentials, then workspace, quota and storage."""
        from inflame.infra.places import azureml_look

        return azureml_look.look(self, spec)

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """A role of your own for who sends the job, and the commands that give it and the storage to both."""
        from inflame.infra.places import azureml_look

        return azureml_look.rights(self.settings, spec)

    @property
    def rest(self) -> Rest:
        """The API, with your credentials."""
        if self._rest is None:
            self._rest = Rest(NAME, "azure", self._token, REMEDIES)
        return self._rest

    # --- the request -----------------------------------------------------------------------------

    def _properties(self, spec: JobSpec, package: Package | None, environment: str, compute: str) -> dict[str, Any]:
        told = variables(spec, package, price=machines.price(spec, NAME))
        inputs = {"code": self._input(package.archive, "uri_file", "Download")} if package else {}
        where = {"AZURE_STORAGE_ACCOUNT_NAME": self.settings["account"]}
        for number, uri in enumerate(spec.inputs):
            there = re.match(r"(az|abfss?)://", uri) is not None
            where[f"INFLAME_INPUT_{number}"] = f"${{{{inputs.input{number}}}}}" if there else uri
            if there:
                inputs[f"input{number}"] = self._input(uri, "uri_folder", "ReadOnlyMount")
        # Azure puts paths of inputs into the command only, not into variables.
        export = "".join(
            f"export {name}={shlex.quote(value)}; " for name, value in where.items() if value.startswith("${{")
        )
        told |= {name: value for name, value in where.items() if not value.startswith("${{")}
        if self.settings["identity"]:
            told["AZURE_CLIENT_ID"] = self.settings["identity"]
        words = command("${{inputs.code}}") if package else ["true"]
        seconds = int(spec.max_time + places.AFTER if spec.max_time else 7 * 24 * 3600)
        about: dict[str, Any] = {
            "jobType": "Command",
            "displayName": Path(spec.model).name,
            "experimentName": "inflame",
            "command": export + "exec " + shlex.join(words),
            "environmentId": f"{self._workspace()}/{environment}",
            "computeId": f"{self._workspace()}/{compute}",
            "environmentVariables": {**told, **places.placeholders(spec.environment)},
            "inputs": inputs,
            "limits": {"jobLimitsType": "Command", "timeout": f"PT{seconds}S"},
            "resources": {"instanceCount": spec.count},
            "tags": {"inflame": package.tree if package else "none"},
        }
        if spec.count > 1:  # one process of ours on each machine; Azure says where the first one is
            about["distribution"] = {"distributionType": "PyTorch", "processCountPerInstance": 1}
        if self.settings["identity"]:
            about["identity"] = {"identityType": "Managed", "clientId": self.settings["identity"]}
        return about

    def _compute(self, size: str, spec: JobSpec) -> dict[str, Any]:
        about: dict[str, Any] = {
            "properties": {
                "computeType": "AmlCompute",
                "properties": {
                    "vmSize": size,
                    "vmPriority": "LowPriority" if spec.spot else "Dedicated",
                    "osType": "Linux",
                    "scaleSettings": {
                        "minNodeCount": 0,
                        "maxNodeCount": max(spec.count, int(self.settings["most"])),
                        "nodeIdleTimeBeforeScaleDown": "PT120S",
                    },
                },
            }
        }
        if self.settings["identity_id"]:
            given: dict[str, Any] = {self.settings["identity_id"]: {}}
            about["identity"] = {"type": "UserAssigned", "userAssignedIdentities": given}
        return about

    def _input(self, uri: str, kind: str, mode: str) -> dict[str, str]:
        found = re.fullmatch(r"(?:az|abfss?)://([^/@]+)(?:@[^/]+)?/(.*)", uri)
        address = f"https://{self.settings['account']}.blob.core.windows.net/{found[1]}/{found[2]}" if found else uri
        return {"jobInputType": kind, "uri": address, "mode": mode}

    # --- the calls -------------------------------------------------------------------------------

    def _workspace(self) -> str:
        it = self.settings
        group = f"/subscriptions/{it['subscription']}/resourceGroups/{it['group']}"
        return f"{group}/providers/{PROVIDER}/workspaces/{it['workspace']}"

    def url(self, path: str) -> str:
        """The address of a path below the workspace."""
        base = self.settings["endpoint"].rstrip("/") or "https://management.azure.com"
        return f"{base}{self._workspace()}/{path}".rstrip("/")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return self.rest.ask(method, self.url(path), body, {"api-version": VERSION})

    def ask_for(self, path: str) -> dict[str, Any]:
        """What the workspace has at a path below it. Nothing: Absent."""
        found: dict[str, Any] = self._ask("GET", path)
        return found

    def _provide(self, path: str, content: dict[str, Any]) -> None:
        """Makes what isn't there; waits for a cluster. One that is there stays as it is."""
        try:
            found = self.ask_for(path)
        except Absent:
            place = {"location": self.ask_for("")["location"]} if path.startswith("computes/") else {}
            found = self._ask("PUT", path, {**place, **content})
        until = time.monotonic() + _PATIENCE
        while (state := found.get("properties", {}).get("provisioningState", "Succeeded")) != "Succeeded":
            if state in ("Failed", "Canceled"):
                errors = found["properties"].get("provisioningErrors") or [{}]
                said = errors[0].get("error", errors[0]).get("message", state)
                raise UserError(f"Azure could not make {path}: {said}", where=path, remedy=REMEDIES["quota"])
            if time.monotonic() > until:
                raise RunError(f"Azure is still making {path}.", where=path, remedy="Give the same command again.")
            time.sleep(0.2 if places.loopback(self.settings) else 3)
            found = self.ask_for(path)

    def _details(self, job: Job) -> dict[str, Any]:
        """What the run history says of a job: error and addresses of its logs. It is at another address."""
        try:
            services = self.ask_for(f"jobs/{job.id}")["properties"].get("services") or {}
        except Absent:
            return {}
        tracking = re.match(r"azureml://([^/]+)/", services.get("Tracking", {}).get("endpoint", "") or "")
        base = self.settings["endpoint"].rstrip("/") or (f"https://{tracking[1]}" if tracking else "")
        if not base:
            return {}
        try:
            found: dict[str, Any] = self.rest.get(f"{base}/history/v1.0{self._workspace()}/runs/{job.id}/details")
        except Absent:
            return {}
        return found

    def _text(self, url: str) -> str:
        """What is at a signed address, which must not see our token."""
        import requests

        try:
            answer = requests.get(url, timeout=30)
            answer.raise_for_status()
        except requests.RequestException as error:
            text = f"The log could not be read: {type(error).__name__}"
            raise NetworkError(text, where=url.partition("?")[0], remedy="Give the same command again.") from error
        return str(answer.content.decode(errors="replace"))

    def _token(self, fresh: bool) -> str:
        """From azure-identity, as `az login` or AZURE_* say; the loopback takes any."""
        if places.loopback(self.settings):
            return "loopback-fresh" if fresh else "loopback"
        identity = plugins.need("azure.identity", "azure", "The place azureml")
        wrong = plugins.need("azure.core.exceptions", "azure")
        try:
            if self._credential is None or fresh:
                self._credential = identity.DefaultAzureCredential(exclude_interactive_browser_credential=True)
            return str(self._credential.get_token(_SCOPE).token)
        except wrong.ClientAuthenticationError as error:
            said = str(error).splitlines()[0]
            text = f"Azure has no credentials of yours: {said}"
            raise UserError(text, where=NAME, remedy=REMEDIES["login"]) from error


def _cluster(size: str, spot: bool) -> str:
    """A name for a cluster of such machines: letters, digits and `-`, at most 32."""
    stem = re.sub(r"[^a-z0-9]+", "-", size.lower().removeprefix("standard_")).strip("-")
    return f"inflame-{stem}"[: 28 if spot else 32].strip("-") + ("-low" if spot else "")


def _now(job: Job, about: dict[str, Any]) -> Job:
    """The job as Azure describes it."""
    state = about.get("properties", {}).get("status", "NotStarted")
    status = _STATES.get(state, "running")
    code = {"done": 0, "stopped": places.STOPPED, "failed": 1}.get(status)
    reason = "" if status in _STATES.values() and state != "NotResponding" else "Azure hears nothing of it."
    return replace(job, status=status, code=code, reason=reason)
