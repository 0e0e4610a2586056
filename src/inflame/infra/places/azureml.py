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

from inflame.errors import RunError, UserError
from inflame.infra import machines, places
from inflame.infra.command import PREEMPTED, command, variables
from inflame.infra.launcher import ENDED, Finding, app
from inflame.infra.places import Place, azureml_look
from inflame.infra.places.azureml_api import NAME, REMEDIES, SETTINGS, VERSION, Workspace
from inflame.infra.places.rest import Absent, Taken
from inflame.records import Job, JobSpec, Package

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


class AzureML(Place):
    """Command jobs of Azure Machine Learning."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)
        self.workspace = Workspace(self.settings)

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
            "workspace": self.workspace.path,
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
                return _now(job(name), self.workspace.get(f"jobs/{name}"))
            except Absent:
                return None

        def create(name: str) -> Job | None:
            for path, content in puts.items():
                self._provide(path, content)
            try:
                self.workspace.ask("PUT", f"jobs/{name}", body)  # may be repeated: it has its name
            except Taken:
                return None
            return job(name)

        return places.send_once(request["job"], look, create)

    def status(self, job: Job) -> Job:
        """As Azure has it."""
        try:
            now = _now(job, self.workspace.get(f"jobs/{job.id}"))
        except Absent:
            return places.vanished(job)
        if now.status != "failed":
            return now
        error = self.workspace.details(job.id).get("error", {}).get("error", {})
        reason = error.get("message", "") or now.reason
        found = re.search(r"exit(?:ed)?(?: with)? (?:non-zero )?(?:status |code )+(\d+)", reason)
        code = int(found[1]) if found else 1
        return replace(now, status="preempted" if code == PREEMPTED else "failed", code=code, reason=reason)

    def logs(self, job: Job) -> Iterator[str]:
        """The lines that the machines have said, as far as Azure has copied them."""
        for name, url in sorted(self.workspace.details(job.id).get("logFiles", {}).items()):
            if re.fullmatch(r"user_logs/std_log(_process_\d+)?\.txt", name):
                yield from self.workspace.text(url).splitlines()

    def cancel(self, job: Job) -> Job:
        """SIGTERM to the job, which has a moment to save."""
        now = self.status(job)
        if now.status not in (*ENDED, "preempted"):
            try:
                self.workspace.ask("POST", f"jobs/{job.id}/cancel")
            except Absent:
                return places.vanished(job)
        return now

    def check(self, spec: JobSpec) -> list[Finding]:
        """Settings and credentials, then workspace, quota and storage."""
        return azureml_look.look(self.workspace, spec)

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """A role of your own for who sends the job, and the commands that give it and the storage to both."""
        return azureml_look.rights(self.settings, spec)

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
            "environmentId": f"{self.workspace.path}/{environment}",
            "computeId": f"{self.workspace.path}/{compute}",
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

    def _provide(self, path: str, content: dict[str, Any]) -> None:
        """Makes what isn't there; waits for a cluster. One that is there stays as it is."""
        try:
            found = self.workspace.get(path)
        except Absent:
            place = {"location": self.workspace.get("")["location"]} if path.startswith("computes/") else {}
            found = self.workspace.ask("PUT", path, {**place, **content})
        until = time.monotonic() + _PATIENCE
        while (state := found.get("properties", {}).get("provisioningState", "Succeeded")) != "Succeeded":
            if state in ("Failed", "Canceled"):
                errors = found["properties"].get("provisioningErrors") or [{}]
                said = errors[0].get("error", errors[0]).get("message", state)
                raise UserError(f"Azure could not make {path}: {said}", where=path, remedy=REMEDIES["quota"])
            if time.monotonic() > until:
                raise RunError(f"Azure is still making {path}.", where=path, remedy="Give the same command again.")
            time.sleep(0.2 if places.loopback(self.settings) else 3)
            found = self.workspace.get(path)


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
