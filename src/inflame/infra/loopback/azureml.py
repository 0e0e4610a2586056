"""Azure Machine Learning on this machine: as much of the resource manager as command jobs need, with the run history.

What is in `blob/container/…` in the folder of the control plane is in that container of the storage account.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inflame.infra.loopback.machine import Fleet, Machine
from inflame.infra.loopback.server import Answer, Asked

GRACE = 30.0
_PATH = re.compile(r"(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/[^/]+/workspaces/[^/]+)(?:/(.+))?")
_BLOB = re.compile(r"https://[^/]+\.blob\.core\.windows\.net/(.+)")
_LOG = "user_logs/std_log.txt"


class _Job:
    def __init__(self, name: str, body: dict[str, Any], folder: Path) -> None:
        self.name, self.folder = name, folder
        self.machines: list[Machine] = []
        self.lines: dict[str, list[str]] = {}
        self.stopped = False
        self.error = ""
        services = {"Tracking": {"jobServiceType": "Tracking", "endpoint": "azureml://loopback/mlflow"}}
        self.about: dict[str, Any] = {
            "name": name,
            "properties": {**body["properties"], "status": "Queued", "services": services},
        }

    def turn(self, status: str) -> None:
        self.about["properties"]["status"] = status


class AzureML(Fleet):
    """The control plane of one workspace. `folder` holds the storage account and the machines' disks. `quota`: cores of
    a family, 100 where none is named."""

    def __init__(self, folder: Path, *, workspace: str = "ws", quota: dict[str, int] | None = None) -> None:
        self.folder = folder
        self.blob = folder / "blob"
        self.blob.mkdir(parents=True, exist_ok=True)
        self.jobs = dict[str, _Job]()
        self.kept: dict[str, dict[str, Any]] = {}  # environments and clusters
        self._workspace, self._quota = workspace, quota or {}
        self._url = ""
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Answer:
        """GET, PUT and POST of the resource manager, details of the run history, and logs at signed addresses."""
        self._url = f"http://{asked.headers.get('host', '')}"
        if asked.path.startswith("/log/"):
            return self._log(asked)
        if not asked.headers.get("authorization", "").startswith("Bearer "):
            return _error(401, "AuthenticationFailed", "The 'Authorization' header is missing.")
        located = re.fullmatch(r"/subscriptions/[^/]+/providers/[^/]+/locations/([^/]+)/(vmSizes|usages)", asked.path)
        if located:
            return self._sizes() if located[2] == "vmSizes" else self._usages()
        past = asked.path.startswith("/history/v1.0/")
        found = _PATH.fullmatch(asked.path.removeprefix("/history/v1.0"))
        if not found or found[1].rpartition("/")[2] != self._workspace:
            return _error(404, "ResourceNotFound", f"The resource {asked.path} was not found.")
        path = found[2] or ""
        if past:
            return self._details(path)
        if not path:
            return Answer(body={"location": "eastus", "name": self._workspace})
        if path == "jobs" or path.startswith("jobs/"):
            return self._job(asked, path)
        if asked.method == "PUT":
            self.kept[path] = {**asked.json(), "made": time.monotonic()}
        return self._kept(path)

    def refuse(self, fault: str) -> Answer:
        """In Azure's words."""
        if fault == "throttled":
            return _error(429, "TooManyRequests", "The request is being throttled.")
        if fault == "expired":
            return _error(401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than now.")
        return _error(500, "InternalServerError", "Something went wrong.")

    def take_away(self, name: str) -> None:
        """Takes the machines of a job of low priority away; Azure then begins anew on others."""
        job = self.jobs[name]
        job.turn("Preparing")
        for machine in job.machines:
            machine.stop(GRACE)

    # --- the calls -------------------------------------------------------------------------------

    def _kept(self, path: str) -> Answer:
        if path not in self.kept:
            return _error(404, "ResourceNotFound", f"{path} was not found.")
        found = {key: value for key, value in self.kept[path].items() if key != "made"}
        if path.startswith("computes/"):  # which take a moment
            ready = time.monotonic() - self.kept[path]["made"] > 0.3
            found["properties"] = {**found["properties"], "provisioningState": "Succeeded" if ready else "Creating"}
        return Answer(body=found)

    def _job(self, asked: Asked, path: str) -> Answer:
        _, _, rest = path.partition("/")
        name, _, verb = rest.partition("/")
        if not name:
            return Answer(body={"value": [job.about for job in self.jobs.values()]})
        if asked.method == "PUT":
            return self._create(name, asked.json())
        job = self.jobs.get(name)
        if job is None:
            return _error(404, "UserError", f"Run {name} was not found.")
        if verb == "cancel":
            self._cancel(job)
            return Answer(status=202)
        return Answer(body=job.about)

    def _create(self, name: str, body: dict[str, Any]) -> Answer:
        about = body["properties"]
        wrong = self._wrong(about)
        if wrong:
            return _error(400, "UserError", wrong)
        with self._lock:
            if name in self.jobs:  # the same again is no fault, another one is
                same = self.jobs[name].about["properties"]["command"] == about["command"]
                return Answer(body=self.jobs[name].about) if same else _error(409, "Conflict", f"{name} exists.")
            job = self.jobs[name] = _Job(name, body, self.folder / "machines" / name)
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return Answer(status=201, body=job.about)

    def _wrong(self, about: dict[str, Any]) -> str:
        """What Azure refuses, and what it finds out only when the job starts: names that nobody gave."""
        compute = re.sub(r".*/workspaces/[^/]+/", "", about["computeId"])
        environment = re.sub(r".*/workspaces/[^/]+/", "", about["environmentId"])
        for path in (compute, environment):
            if path not in self.kept:
                return f"{path} does not exist."
        used = set(re.findall(r"\$\{\{inputs\.(\w+)\}\}", about["command"]))
        unknown = sorted(used - set(about.get("inputs", {})))
        if unknown:
            return f"The command uses inputs that are not defined: {unknown}"
        nodes = self.kept[compute]["properties"]["properties"]["scaleSettings"]["maxNodeCount"]
        count = about.get("resources", {}).get("instanceCount", 1)
        return f"The cluster has at most {nodes} nodes, not {count}." if count > nodes else ""

    def _cancel(self, job: _Job) -> None:
        if job.about["properties"]["status"] in ("Queued", "Preparing", "Running"):
            job.stopped = True
            job.turn("CancelRequested")
            for machine in job.machines:
                machine.stop(GRACE)

    def _details(self, path: str) -> Answer:
        found = re.fullmatch(r"runs/([^/]+)/details", path)
        job = self.jobs.get(found[1]) if found else None
        if job is None:
            return _error(404, "UserError", f"{path} was not found.")
        files = {name: f"{self._url}/log/{job.name}/{name}?sig=1" for name in job.lines}
        error = {"error": {"error": {"code": "UserError", "message": job.error}}} if job.error else {}
        return Answer(body={"runId": job.name, "logFiles": files, **error})

    def _log(self, asked: Asked) -> Answer:
        """Signed addresses need no token, and refuse one."""
        if "sig" not in asked.query or "authorization" in asked.headers:
            return _error(403, "AuthorizationFailure", "This request is not authorized.")
        _, _, name, file = asked.path.split("/", 3)
        text = "".join(f"{line}\n" for line in self.jobs[name].lines[file])
        return Answer(body=text.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})

    def _sizes(self) -> Answer:
        """Some machines, and how many cores they have."""
        known = {"Standard_D2s_v5": 2, "Standard_D8s_v5": 8, "Standard_NC4as_T4_v3": 4, "Standard_NC24ads_A100_v4": 24}
        value = [
            {"name": name, "vCPUs": cores, "family": re.sub(r"\d+", "", name).replace("_", "") + "Family"}
            for name, cores in known.items()
        ]
        return Answer(body={"value": value})

    def _usages(self) -> Answer:
        families = {one["family"] for one in self._sizes().body["value"]} | {"lowPriorityCores"}
        value = [
            {"name": {"value": name}, "limit": self._quota.get(name, 100), "currentValue": 0}
            for name in sorted(families)
        ]
        return Answer(body={"value": value})

    # --- the job itself --------------------------------------------------------------------------

    def _run(self, job: _Job) -> None:
        try:
            self._attempts(job)
        except Exception as error:  # whatever it is: a job that nobody ends is asked for for ever
            job.error = f"Internal error: {error}"
            job.turn("Failed")

    def _attempts(self, job: _Job) -> None:
        about = job.about["properties"]
        while True:
            shutil.rmtree(job.folder, ignore_errors=True)
            job.turn("Preparing")
            count = about.get("resources", {}).get("instanceCount", 1)
            job.machines = [self._machine(job, about, rank, count) for rank in range(count)]
            job.turn("CancelRequested" if job.stopped else "Running")
            if job.stopped:
                for machine in job.machines:
                    machine.stop(GRACE)
            late = threading.Timer(_seconds(about), self._late, (job,))
            late.daemon = True
            late.start()
            codes = _wait(job)
            late.cancel()
            if job.stopped or about["status"] != "Preparing":
                break
        wrong = next((code for code in codes if code), 0)
        if job.stopped:
            job.turn("Failed" if job.error else "Canceled")
        elif wrong:
            job.error = (
                f"Execution failed. User process 'sh' exited with status code {wrong}. Please check log file '{_LOG}'."
            )
            job.turn("Failed")
        else:
            job.turn("Completed")

    def _late(self, job: _Job) -> None:
        job.error = "The job has exceeded its timeout."
        self._cancel(job)

    def _machine(self, job: _Job, about: dict[str, Any], rank: int, count: int) -> Machine:
        folder = job.folder / str(rank)
        folder.mkdir(parents=True)
        command = about["command"]
        for name, given in about.get("inputs", {}).items():
            command = command.replace(f"${{{{inputs.{name}}}}}", str(self._input(given, folder / "inputs" / name)))
        variables = {
            "HOME": str(folder),
            "AZUREML_RUN_ID": job.name,
            "AZUREML_NODE_COUNT": str(count),
            **about.get("environmentVariables", {}),
        }
        if about.get("distribution", {}).get("distributionType") == "PyTorch":
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "6105", "NODE_RANK": str(rank)}
            variables |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0"}
        name = _LOG if count == 1 else f"user_logs/std_log_process_{rank}.txt"
        lines = job.lines.setdefault(name, [])
        mounts = {str(self.folder): self.folder}
        image = self._image(about)
        return Machine(["bash", "-c", command], variables, mounts, lines.append, image=image, grace=GRACE)

    def _image(self, about: dict[str, Any]) -> str:
        environment = re.sub(r".*/workspaces/[^/]+/", "", about["environmentId"])
        return str(self.kept[environment]["properties"]["image"])

    def _input(self, given: dict[str, Any], folder: Path) -> Path:
        """Where an input is: copied to the machine, or the container itself where it is mounted."""
        found = _BLOB.fullmatch(given["uri"])
        there = self.blob / found[1] if found else Path(given["uri"].removeprefix("file://"))
        if not there.exists():
            raise FileNotFoundError(f"DataAccessError: {given['uri']} was not found")
        if given["mode"] != "Download":
            return there
        folder.mkdir(parents=True)
        copy: Callable[..., Any] = shutil.copytree if there.is_dir() else shutil.copyfile
        copy(there, folder / there.name)
        return folder / there.name


def _wait(job: _Job) -> list[int]:
    """The codes of all machines. When one fails the others are ended."""
    waiting = list(job.machines)
    while waiting:
        for machine in list(waiting):
            code = machine.wait(0.05)
            if code is not None:
                waiting.remove(machine)
                if code and not job.stopped:
                    for other in waiting:
                        other.stop(GRACE)
    return [machine.code or 0 for machine in job.machines]


def _seconds(about: dict[str, Any]) -> float:
    return float(about.get("limits", {}).get("timeout", "PT604800S").removeprefix("PT").removesuffix("S"))


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status=status, body={"error": {"code": code, "message": message}})
