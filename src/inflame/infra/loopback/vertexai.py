"""Vertex AI's custom jobs on this machine, with the log that Cloud Logging would have.

`/gcs` is the folder `gcs` in the folder of the control plane: what is in `gcs/bucket/…` is in gs://bucket/….
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inflame.infra.loopback.machine import Fleet, Machine
from inflame.infra.loopback.server import Answer, Asked

GRACE = 30.0
_JOBS = re.compile(r"/v1/(projects/[^/]+/locations/[^/]+)/customJobs(?:/(\d+))?(:cancel)?")


class _Job:
    def __init__(self, name: str, body: dict[str, Any], folder: Path) -> None:
        self.folder = folder
        self.machines: list[Machine] = []
        self.lines: list[dict[str, Any]] = []
        self.stopped = False
        self.taken = 0
        self.about: dict[str, Any] = {
            **body,
            "name": name,
            "state": "JOB_STATE_PENDING",
            "createTime": _now(),
            "updateTime": _now(),
        }

    def turn(self, state: str, **more: Any) -> None:
        self.about |= {"state": f"JOB_STATE_{state}", "updateTime": _now(), **more}

    def say(self, line: str) -> None:
        self.lines.append({"textPayload": line, "timestamp": _now()})


class VertexAI(Fleet):
    """The control plane. `folder` holds the bucket mount and the machines' disks. `quota`: how many of an accelerator
    there may be, without end where none is named."""

    def __init__(self, folder: Path, *, quota: dict[str, int] | None = None) -> None:
        self.folder = folder
        self.gcs = folder / "gcs"
        self.gcs.mkdir(parents=True, exist_ok=True)
        self.jobs = dict[str, _Job]()
        self._quota = quota or {}
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Answer:
        """customJobs: create, get, list, cancel; entries:list of the log; the token of a service account."""
        if asked.path == "/token":
            return Answer(body={"access_token": "loopback", "expires_in": 3600, "token_type": "Bearer"})
        if not asked.headers.get("authorization", "").startswith("Bearer "):
            return _error(401, "UNAUTHENTICATED", "Request is missing required authentication credential.")
        if asked.path == "/v2/entries:list":
            return self._log(asked.json())
        if asked.path.startswith("/storage/v1/b/"):
            return self._bucket(asked)
        found = _JOBS.fullmatch(asked.path)
        if not found:
            return _error(404, "NOT_FOUND", f"{asked.path} is not known here.")
        parent, number, cancel = found.groups()
        if not number:
            return self._create(parent, asked.json()) if asked.method == "POST" else self._list(parent, asked.query)
        job = self.jobs.get(f"{parent}/customJobs/{number}")
        if job is None:
            return _error(404, "NOT_FOUND", f"CustomJob {number} not found.")
        if cancel:
            self._cancel(job)
            return Answer(body={})
        return Answer(body=job.about)

    def refuse(self, fault: str) -> Answer:
        """In Google's words."""
        if fault == "throttled":
            return _error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check requests per minute).")
        if fault == "expired":
            return _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        return _error(503, "UNAVAILABLE", "The service is currently unavailable.")

    def take_away(self, name: str) -> None:
        """Takes the spot machines of a job away, with notice; Vertex AI then begins anew."""
        self.jobs[name].taken += 1
        for machine in self.jobs[name].machines:
            machine.stop(GRACE)

    def _create(self, parent: str, body: dict[str, Any]) -> Answer:
        pools = body.get("jobSpec", {}).get("workerPoolSpecs", [])
        if not body.get("displayName") or not pools or int(pools[0].get("replicaCount", 0)) != 1:
            return _error(
                400, "INVALID_ARGUMENT", "displayName and workerPoolSpecs are needed; the first has 1 replica."
            )
        for pool in pools:
            kind = pool["machineSpec"].get("acceleratorType", "")
            wanted = int(pool["machineSpec"].get("acceleratorCount", 0)) * int(pool["replicaCount"])
            if wanted > self._quota.get(kind, wanted):
                metric = f"aiplatform.googleapis.com/custom_model_training_{kind.lower()}_gpus"
                text = f"The following quota metrics exceed quota limits: {metric}"
                return _error(429, "RESOURCE_EXHAUSTED", text)
        with self._lock:
            name = f"{parent}/customJobs/{1000 + len(self.jobs)}"
            job = self.jobs[name] = _Job(name, body, self.folder / "machines" / name.rpartition("/")[2])
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return Answer(body=job.about)

    def _list(self, parent: str, query: dict[str, str]) -> Answer:
        wanted = re.fullmatch(r'labels\.([\w-]+)="([^"]*)"', query.get("filter", ""))
        found = [job.about for name, job in list(self.jobs.items()) if name.startswith(parent + "/")]
        if wanted:
            found = [one for one in found if one.get("labels", {}).get(wanted[1]) == wanted[2]]
        return Answer(body={"customJobs": found} if found else {})

    def _cancel(self, job: _Job) -> None:
        if job.about["state"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
            job.stopped = True
            job.turn("CANCELLING")
            for machine in job.machines:
                machine.stop(GRACE)

    def _log(self, body: dict[str, Any]) -> Answer:
        found = re.search(r'job_id="(\d+)"', body.get("filter", ""))
        lines = [job.lines for name, job in self.jobs.items() if found and name.endswith(f"/{found[1]}")]
        return Answer(body={"entries": lines[0]} if lines and lines[0] else {})

    def _bucket(self, asked: Asked) -> Answer:
        """Every right at a bucket that is there."""
        name = asked.path.split("/")[4]
        if not (self.gcs / name).is_dir():
            return _error(404, "NOT_FOUND", "The specified bucket does not exist.")
        wanted = [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")]
        return Answer(body={"permissions": wanted})

    # --- the job itself --------------------------------------------------------------------------

    def _run(self, job: _Job) -> None:
        try:
            self._attempts(job)
        except Exception as error:  # whatever it is: a job that nobody ends is asked for for ever
            job.turn("FAILED", error={"code": 13, "message": f"Internal error: {error}"})

    def _attempts(self, job: _Job) -> None:
        spec = job.about["jobSpec"]
        again = spec.get("scheduling", {}).get("restartJobOnWorkerRestart", False)
        while True:
            taken = job.taken
            shutil.rmtree(job.folder, ignore_errors=True)
            job.machines = self._start(job)
            job.turn("CANCELLING" if job.stopped else "RUNNING", startTime=_now())
            if job.stopped:
                for machine in job.machines:
                    machine.stop(GRACE)
            timer = threading.Timer(_seconds(spec), self._late, (job,))
            timer.daemon = True
            timer.start()
            codes = _wait(job)
            timer.cancel()
            if job.taken == taken or job.stopped or not again:
                break
            job.turn("PENDING")
        wrong = next((code for code in codes if code), 0)
        if job.stopped and "error" not in job.about:
            job.turn("CANCELLED", endTime=_now())
        elif wrong:
            text = f"The replica workerpool0-0 exited with a non-zero status of {wrong}."
            job.turn("FAILED", endTime=_now(), **({} if job.stopped else {"error": {"code": 3, "message": text}}))
        else:
            job.turn("SUCCEEDED", endTime=_now())

    def _late(self, job: _Job) -> None:
        job.about["error"] = {"code": 4, "message": "CustomJob exceeded its timeout."}
        self._cancel(job)

    def _start(self, job: _Job) -> list[Machine]:
        """One for each replica of each pool."""
        pools = job.about["jobSpec"]["workerPoolSpecs"]
        hosts: dict[str, list[str]] = {}
        for number, pool in enumerate(pools):
            begin = sum(map(len, hosts.values()))
            count = int(pool["replicaCount"])
            hosts[f"workerpool{number}"] = [f"127.0.0.{begin + one + 1}:2222" for one in range(count)]
        return [
            self._machine(job, pool["containerSpec"], hosts, f"workerpool{number}", index)
            for number, pool in enumerate(pools)
            for index in range(int(pool["replicaCount"]))
        ]

    def _machine(
        self, job: _Job, container: dict[str, Any], hosts: dict[str, list[str]], pool: str, index: int
    ) -> Machine:
        folder = job.folder / f"{pool}-{index}"
        folder.mkdir(parents=True)
        number = job.about["name"].rpartition("/")[2]
        prefix = job.about["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix", "")
        task = {"type": pool, "index": index, "trial": ""}
        cluster = {"cluster": hosts, "environment": "cloud", "task": task, "job": json.dumps(job.about["jobSpec"])}
        variables = {
            "HOME": str(folder),
            "CLOUD_ML_JOB_ID": number,
            "CLUSTER_SPEC": json.dumps(cluster),
            "AIP_MODEL_DIR": f"{prefix}/model/",
            "AIP_CHECKPOINT_DIR": f"{prefix}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{prefix}/logs/",
            **{one["name"]: one["value"] for one in container.get("env", ())},
        }
        words = [*container.get("command", ()), *container.get("args", ())]
        image = container["imageUri"]
        return Machine(words, variables, {"/gcs": self.gcs}, job.say, image=image, grace=GRACE)


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


def _seconds(spec: dict[str, Any]) -> float:
    return float(spec.get("scheduling", {}).get("timeout", "604800s").removesuffix("s"))


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _error(status: int, kind: str, message: str) -> Answer:
    return Answer(status=status, body={"error": {"code": status, "message": message, "status": kind}})
