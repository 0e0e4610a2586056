"""Kubernetes as a place to train: an Indexed Job, by `kubectl` as you have it set up.

A pod that is taken away, or says so itself (exit code 75), is made anew by Kubernetes; any other failure ends the job.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from inflame import remote
from inflame.errors import NetworkError, UserError
from inflame.infra import machines, places
from inflame.infra.command import PREEMPTED, command, variables
from inflame.infra.launcher import ENDED, NOT_OK, OK, UNKNOWN, Finding, app
from inflame.infra.places import Place, Setting
from inflame.records import Job, JobSpec, Package

NAME = "kubernetes"
SETTINGS = (
    Setting(name="namespace", help="the namespace", variables=("INFLAME_NAMESPACE",), default="default"),
    Setting(name="context", help="the context of your kubeconfig; without, the current one"),
    Setting(name="image", help="the container image", default="pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime"),
    Setting(name="service_account", help="who the pods are"),
    Setting(name="claim", help="a PersistentVolumeClaim that all pods and this machine see, as NAME:/path"),
    Setting(name="nodes", help="labels that a node must have, as: pool=gpu,zone=a"),
    Setting(name="spot_nodes", help="labels of nodes that may be taken away, as: cloud.google.com/gke-spot=true"),
)
PORT = 29500
_GRACE = 120
_KEPT = 7 * 24 * 3600  # seconds that an ended job can be looked at
_TIMEOUT = 60
_REFUSALS = (
    (r"localhost:8080 was refused", "isn't known: there is no kubeconfig",
     "Log in as your cluster's provider says, or set KUBECONFIG."),
    (r"Unauthorized|must be logged in|credentials|exec plugin", "doesn't know you, or your token has expired",
     "Log in again, as your cluster's provider says; kubectl get pods must work."),
    (r"Forbidden|forbidden: User", "refuses you this right",
     "Give yourself the role that inflame doctor --on kubernetes prints."),
    (r"exceeded quota", "doesn't allow you so much: your quota is used up",
     "Take less, or ask its administrators: kubectl describe quota"),
    (r"namespaces \S+ not found", "has no such namespace", "Set namespace below [on.kubernetes]."),
    (r"context .*does not exist|no context exists", "is not in your kubeconfig", "See: kubectl config get-contexts"),
)  # fmt: skip
_FAR = re.compile(
    r"Unable to connect|(?<!localhost:8080 )was refused|connection refused|i/o timeout|TLS handshake|EOF|"
    r"Too Many Requests|throttl|InternalError|ServiceUnavailable|unable to handle the request|Client.Timeout|"
    r"connection reset",
    re.IGNORECASE,
)


class Kubernetes(Place):
    """Indexed Jobs of a Kubernetes cluster."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = places.settings(NAME, SETTINGS, settings)

    def request(self, spec: JobSpec, package: Package | None = None) -> dict[str, Any]:
        """A List for `kubectl create -f`: the Job and, for several machines, the Service by which they find each
        other. Values of your variables are put into a Secret of the job's name."""
        app(spec)
        local = ("", "file") if self.settings["claim"] else ()
        places.demand_output(NAME, spec, ("s3", "gs", "az", "abfs", "abfss", *local), self.settings)
        name = places.name(NAME, spec, package)
        items = [self._job(name, spec, package)]
        if spec.count > 1:
            about = {"clusterIP": "None", "selector": {"job-name": name}, "ports": [{"port": PORT}]}
            items.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": about})
        return {
            "backend": NAME,
            "name": name,
            "namespace": self.settings["namespace"],
            "environment": list(spec.environment),
            "output": spec.output,
            "manifest": {"apiVersion": "v1", "kind": "List", "items": items},
        }

    def send(self, request: dict[str, Any]) -> Job:
        """`kubectl create`, once: the cluster takes a name only once."""
        told = places.filled(places.placeholders(request["environment"]), request["environment"])

        def job(name: str) -> Job:
            return Job(id=name, backend=NAME, status="queued", output=request["output"])

        def look(name: str) -> Job | None:
            found = self._about(name)
            return None if found is None else _now(job(name), found)

        def create(name: str) -> Job | None:
            items = json.loads(json.dumps(request["manifest"]["items"]).replace(request["name"], name))
            if told:
                secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": told}
                items.insert(0, secret)
            for item in sorted(items, key=lambda one: one["kind"] == "Job"):  # the job last: it needs the others
                if not self._made(item):
                    return None
            return job(name)

        return places.send_once(request["name"], look, create)

    def status(self, job: Job) -> Job:
        """As the cluster has it."""
        about = self._about(job.id)
        if about is None:
            return places.vanished(job)
        now = _now(job, about)
        if now.status in ("queued", "starting"):
            return replace(now, reason=_waiting(self._pods(job.id)))
        if now.status == "running" and not any(_phase(pod) == "Running" for pod in self._pods(job.id)):
            return replace(now, status="starting", reason=_waiting(self._pods(job.id)))
        return now

    def logs(self, job: Job) -> Iterator[str]:
        """The lines of all pods that are still there, pod by pod."""
        for pod in self._pods(job.id):
            if _phase(pod) != "Pending":
                with suppress(KeyError):  # gone meanwhile
                    yield from self._ask("logs", pod["metadata"]["name"], "--tail=-1").splitlines()

    def cancel(self, job: Job) -> Job:
        """Suspends the job: its pods get SIGTERM and two minutes to save; the job stays to be looked at."""
        now = self.status(job)
        if now.status not in (*ENDED, "preempted"):
            try:
                self._ask("patch", "job", job.id, "--patch", '{"spec": {"suspend": true}}')
            except KeyError:
                return places.vanished(job)
        return now

    def check(self, spec: JobSpec) -> list[Finding]:
        """Cluster and rights, the job as the cluster would take it, and machines of that size."""
        return places.looked(
            lambda: None,
            lambda: self._ask("version"),
            {"rights": self._allowed, "job": lambda: self._taken(spec), "machine": lambda: self._fits(spec)},
            {"image": "Whether the image exists shows when the job starts: try   docker manifest inspect IMAGE"},
        )

    def rights(self, spec: JobSpec) -> dict[str, Any]:
        """A Role for who sends the job, and the command that gives it."""
        space = self.settings["namespace"]

        def rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
            return {"apiGroups": [group], "resources": resources, "verbs": verbs}

        rules = [
            rule("batch", ["jobs"], ["create", "get", "patch"]),
            rule("", ["pods", "pods/log"], ["get", "list"]),
            rule("", ["secrets", "services"], ["create"]),
        ]
        about = {"name": "inflame-sends", "namespace": space}
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": about, "rules": rules}
        binding = "kubectl create rolebinding inflame-sends --role inflame-sends --user YOU"
        return {"you": role, "commands": ["kubectl apply -f you.json", f"{binding} --namespace {space}"]}

    # --- the request -----------------------------------------------------------------------------

    def _job(self, name: str, spec: JobSpec, package: Package | None) -> dict[str, Any]:
        """Pods of a Job are called NAME-INDEX, and found so below their Service."""
        pod: dict[str, Any] = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": _GRACE,
            "containers": [self._container(name, spec, package)],
        }
        if spec.count > 1:
            pod["subdomain"] = name
        if self.settings["service_account"]:
            pod["serviceAccountName"] = self.settings["service_account"]
        nodes = _labels(self.settings["nodes"]) | (_labels(self.settings["spot_nodes"]) if spec.spot else {})
        if spec.spot and not self.settings["spot_nodes"]:
            raise UserError(
                "Which nodes of the cluster may be taken away isn't known.",
                where="--spot",
                remedy=f'Write   spot_nodes = "label=value"   below [on.{NAME}] in {places.FILE}.',
            )
        if nodes:
            pod["nodeSelector"] = nodes
            pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in nodes]
        if self.settings["claim"]:
            claim = {"claimName": self.settings["claim"].partition(":")[0]}
            pod["volumes"] = [{"name": "shared", "persistentVolumeClaim": claim}]
        again = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        saved = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [PREEMPTED]}}
        failed = {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0, PREEMPTED]}}
        about: dict[str, Any] = {
            "completions": spec.count,
            "parallelism": spec.count,
            "completionMode": "Indexed",
            "backoffLimit": 4,
            "podFailurePolicy": {"rules": [again, saved, failed]},
            "ttlSecondsAfterFinished": _KEPT,
            "template": {"metadata": {"labels": {"app": "inflame"}}, "spec": pod},
        }
        if spec.max_time:
            about["activeDeadlineSeconds"] = int(spec.max_time + places.AFTER)
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": about}

    def _container(self, name: str, spec: JobSpec, package: Package | None) -> dict[str, Any]:
        machine = machines.find(spec.machine, NAME)
        told = variables(spec, package)
        if spec.count > 1:
            told |= {"MASTER_ADDR": f"{name}-0.{name}", "MASTER_PORT": str(PORT)}
        needs = {"cpu": str(machine.cores), "memory": f"{machine.memory}Gi"}
        limits = {"nvidia.com/gpu": str(machine.gpus)} if machine.gpus else {}
        found: dict[str, Any] = {
            "name": "training",
            "image": spec.image or self.settings["image"],
            "command": command(package.archive) if package else ["true"],
            "env": [{"name": key, "value": value} for key, value in told.items()],
            "resources": {"requests": {**needs, **limits}, **({"limits": limits} if limits else {})},
        }
        if spec.environment:
            found["envFrom"] = [{"secretRef": {"name": name}}]
        if self.settings["claim"]:
            found["volumeMounts"] = [{"name": "shared", "mountPath": self.settings["claim"].partition(":")[2]}]
        return found

    # --- kubectl ---------------------------------------------------------------------------------

    def _about(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._ask("get", "job", name, "--output", "json"))
        except KeyError:
            return None
        return found

    def _pods(self, name: str) -> list[dict[str, Any]]:
        found = json.loads(self._ask("get", "pods", "--selector", f"job-name={name}", "--output", "json"))
        return sorted(found["items"], key=lambda pod: str(pod["metadata"]["name"]))

    def _made(self, item: dict[str, Any]) -> bool:
        """Whether it is there now; False where a Job of that name was there before, or nobody knows."""
        try:
            self._ask("create", "--filename", "-", "--validate=false", given=json.dumps(item), once=True)
        except NetworkError:
            return False
        except FileExistsError:
            return bool(item["kind"] != "Job")
        return True

    def _allowed(self) -> Finding:
        lacking = []
        for verb, what in (("create", "jobs.batch"), ("patch", "jobs.batch"), ("list", "pods"), ("create", "secrets")):
            if self._ask("auth", "can-i", verb, what, refused=True).strip() != "yes":
                lacking.append(f"{verb} {what}")
        text = f"In {self.settings['namespace']} you may not {', '.join(lacking)}." if lacking else "All that it takes."
        remedy = _REFUSALS[1][2] if lacking else ""
        return Finding(what="rights", state=NOT_OK if lacking else OK, text=text, remedy=remedy)

    def _taken(self, spec: JobSpec) -> Finding:
        item = json.dumps(self.request(spec)["manifest"]["items"][0])
        self._ask("create", "--filename", "-", "--dry-run=server", "--validate=false", given=item)
        return Finding(what="job", state=OK, text="The cluster would take it.")

    def _fits(self, spec: JobSpec) -> Finding:
        """Whether any node has what a machine needs, were it empty."""
        machine = machines.find(spec.machine, NAME)
        nodes = json.loads(self._ask("get", "nodes", "--output", "json"))["items"]
        room = [node["status"]["allocatable"] for node in nodes]
        if any(
            _cores(one["cpu"]) >= (machine.cores or 0) and int(one.get("nvidia.com/gpu", 0)) >= (machine.gpus or 0)
            for one in room
        ):
            return Finding(what="machine", state=OK, text=f"There are nodes as large as {machine.name}.")
        text = f"None of the {len(nodes)} nodes is as large as {machine.name}."
        return Finding(what="machine", state=UNKNOWN, text=text, remedy="A cluster that grows may make one.")

    def _ask(self, *words: str, given: str = "", once: bool = False, refused: bool = False) -> str:
        """What kubectl prints. Nothing of that name: KeyError; there already: FileExistsError. `refused`: also what it
        prints where it answers with no."""
        where = ["--namespace", self.settings["namespace"], "--request-timeout", f"{_TIMEOUT // 2}s"]
        where += ["--context", self.settings["context"]] if self.settings["context"] else []
        turn = 0
        while True:
            turn += 1
            said = _run(["kubectl", *words, *where], given)
            if said.returncode == 0 or (refused and said.stdout.strip()):
                return said.stdout
            told = said.stderr.strip()
            if "AlreadyExists" in told:
                raise FileExistsError(told)
            if "NotFound" in told and "namespaces" not in told:
                raise KeyError(told)
            if not _FAR.search(told):
                raise _refusal(told)
            if once or turn == remote.TRIES:
                raise NetworkError(f"The cluster could not be asked: {told}", where=NAME, remedy="Try again.")
            time.sleep(remote.PAUSE * 2 ** (turn - 1))


def _run(words: list[str], given: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(words[0]) is None:
        raise UserError("There is no kubectl here.", where=NAME, remedy="Install it, and log in to your cluster.")
    try:
        return subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=os.environ
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", "i/o timeout")


def _refusal(told: str) -> UserError:
    for pattern, what, remedy in _REFUSALS:
        if re.search(pattern, told):
            return UserError(f"The cluster {what}: {told}", where=NAME, remedy=remedy)
    return UserError(f"The cluster can't do this: {told}", where=NAME, remedy="Correct what it names.")


def _now(job: Job, about: dict[str, Any]) -> Job:
    """The job as the cluster describes it."""
    status = about.get("status", {})
    said = {one["type"]: one for one in status.get("conditions", ()) if one["status"] == "True"}
    if "Complete" in said:
        return replace(job, status="done", code=0, reason="")
    if "Failed" in said:
        reason = said["Failed"].get("message", "")
        found = re.search(r"exit code (\d+)", reason)
        return replace(job, status="failed", code=int(found[1]) if found else 1, reason=reason)
    if about["spec"].get("suspend"):
        active = bool(status.get("active"))
        return replace(job, status="running" if active else "stopped", code=None if active else places.STOPPED)
    return replace(job, status="running" if status.get("active") else "queued")


def _waiting(pods: list[dict[str, Any]]) -> str:
    """Why a pod doesn't start: no room for it, no such image."""
    for pod in pods:
        for one in pod["status"].get("containerStatuses", ()):
            waiting = one["state"].get("waiting", {})
            if waiting.get("reason", "ContainerCreating") not in ("ContainerCreating", "PodInitializing"):
                return f"{waiting['reason']}: {waiting.get('message', '')}".strip(": ")
        for one in pod["status"].get("conditions", ()):
            if one["type"] == "PodScheduled" and one["status"] == "False":
                return str(one.get("message", ""))
    return ""


def _phase(pod: dict[str, Any]) -> str:
    return str(pod["status"].get("phase", "Pending"))


def _cores(text: str) -> float:
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def _labels(text: str) -> dict[str, str]:
    return dict(part.strip().split("=", 1) for part in text.split(",") if "=" in part)
