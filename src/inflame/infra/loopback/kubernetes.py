"""A Kubernetes API server on this machine, as far as `kubectl` and Indexed Jobs need one. Pods are containers where
their image is here, else processes. Where kubernetes-validate is installed, the schemas of Kubernetes judge objects.
"""

from __future__ import annotations

import base64
import itertools
import re
import shutil
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inflame.infra.command import PREEMPTED
from inflame.infra.loopback.machine import Machine
from inflame.infra.loopback.server import Answer, Asked, ports

_PLACE = re.compile(
    r"/(?:api/v1|apis/[\w.]+/v1)/namespaces/([^/]+)/(jobs|pods|secrets|services)(?:/([^/]+))?(?:/(\w+))?"
)
_RESOURCES = {
    "v1": (("pods", "Pod"), ("secrets", "Secret"), ("services", "Service"), ("nodes", "Node")),
    "batch/v1": (("jobs", "Job"),),
    "authorization.k8s.io/v1": (("selfsubjectaccessreviews", "SelfSubjectAccessReview"),),
}
VERSION = "1.32.0"
GRACE = 30.0
_VERBS = ["create", "get", "list", "patch", "delete"]
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # of pods, hosts and labels
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class _Pod:
    def __init__(self, name: str, job: str, index: int) -> None:
        self.name, self.job, self.index = name, job, index
        self.machine: Machine | None = None
        self.lines: list[str] = []
        self.phase, self.waiting = "Pending", ""
        self.lost = False

    def evict(self) -> None:
        """Ends it, with notice; it is made anew elsewhere."""
        self.lost = True
        self.stop()

    def stop(self) -> None:
        if self.machine is not None:
            self.machine.stop(GRACE)

    def kill(self) -> None:
        if self.machine is not None:
            self.machine.kill()

    def about(self) -> dict[str, Any]:
        state = {"waiting": {"reason": self.waiting, "message": "no such image"}} if self.waiting else {"running": {}}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": "default", "labels": {"job-name": self.job}},
            "spec": {"containers": [{"name": "training"}]},
            "status": {"phase": self.phase, "containerStatuses": [{"name": "training", "state": state}]},
        }


class Kubernetes:
    """The control plane and one large node. `images`: those that exist, where not all do."""

    def __init__(self, folder: Path, *, images: tuple[str, ...] = ()) -> None:
        self.folder, self._images = folder, images
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self.pods: dict[str, _Pod] = {}
        self._meet: dict[str, int] = {}  # the port at which the pods of a job find each other
        self._lock, self._closed = threading.RLock(), False

    def answer(self, asked: Asked) -> Answer:
        """Discovery, and the verbs of jobs, pods, secrets and services."""
        told = _discovery(asked.path)
        if told is not None:
            return Answer(body=told)
        if asked.path.endswith("/selfsubjectaccessreviews"):
            review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {}}
            return Answer(status=201, body={**review, "status": {"allowed": True}})  # it is asked in protobuf
        if asked.path == "/api/v1/nodes":
            node = {"metadata": {"name": "here"}, "status": {"allocatable": {"cpu": "64", "memory": "256Gi"}}}
            return Answer(body={"apiVersion": "v1", "kind": "NodeList", "items": [node]})
        found = _PLACE.fullmatch(asked.path)
        if not found:
            return _error(404, "NotFound", f"the server could not find {asked.path}")
        _, kind, name, part = found.groups()
        with self._lock:
            if kind == "pods":
                return self._pod(asked, name, part)
            if asked.method == "POST":
                return self._create(kind, asked)
            kept = self.kept.get((kind, name))
            if kept is None:
                return _error(404, "NotFound", f'{kind}.batch "{name}" not found')
            if asked.method == "DELETE":
                return self._delete(kind, name)
            if asked.method == "PATCH":
                kept["spec"] |= asked.json()["spec"]
                self._suspend(name)
            return Answer(body=kept)

    def refuse(self, fault: str) -> Answer:
        """In Kubernetes' words."""
        if fault == "throttled":
            return _error(429, "TooManyRequests", "Too Many Requests, please try again later")
        if fault == "expired":
            return _error(401, "Unauthorized", "Unauthorized")
        return _error(503, "ServiceUnavailable", "the server is currently unable to handle the request")

    def take_away(self, name: str) -> None:
        """Takes the nodes of a job's pods away, with notice; the pods are made anew."""
        for pod in self._at_work(name):
            pod.evict()

    def lose(self, name: str) -> None:
        """Ends the nodes of a job's pods without a word, as a power cut does; the pods are made anew."""
        for pod in self._at_work(name):
            pod.lost = True
            pod.kill()

    def forget(self, name: str) -> None:
        """Deletes a job behind everybody's back."""
        del self.kept["jobs", name]
        for pod in self._at_work(name):
            pod.kill()

    def close(self) -> None:
        """Ends all pods."""
        with self._lock:  # one that is being begun is there afterwards, or never
            self._closed = True
            self.kept.clear()
        for pod in list(self.pods.values()):
            if pod.machine:
                pod.kill()
                pod.machine.wait(10)

    # --- the calls -------------------------------------------------------------------------------

    def _pod(self, asked: Asked, name: str | None, part: str | None) -> Answer:
        if name is None:
            job = asked.query.get("labelSelector", "").partition("=")[2]
            items = [pod.about() for pod in self.pods.values() if pod.job == job]
            return Answer(body={"apiVersion": "v1", "kind": "PodList", "items": items})
        pod = self.pods.get(name)
        if pod is None:
            return _error(404, "NotFound", f'pods "{name}" not found')
        if asked.method == "DELETE" or part == "eviction":
            pod.evict()
            return Answer(status=201 if part else 200, body={"kind": "Status", "apiVersion": "v1", "status": "Success"})
        if part == "log":
            text = "".join(f"{line}\n" for line in pod.lines)
            return Answer(body=text.encode(), headers={"Content-Type": "text/plain"})
        return Answer(body=pod.about())

    def _create(self, kind: str, asked: Asked) -> Answer:
        about = asked.json()
        name = about["metadata"]["name"]
        if (kind, name) in self.kept:
            return _error(409, "AlreadyExists", f'{kind} "{name}" already exists')
        wrong = _wrong(about)
        if wrong:
            return _error(422, "Invalid", f'{about["kind"]} "{name}" is invalid: {wrong}')
        if asked.query.get("dryRun"):
            return Answer(status=201, body=about)
        if kind == "secrets":  # which keep what is said in plain
            plain = about.pop("stringData", {})
            about["data"] = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        self.kept[kind, name] = about
        if kind == "jobs":
            about["status"] = {}
            (self._meet[name],) = ports(1)
            for index in range(about["spec"]["completions"]):
                threading.Thread(target=self._run, args=(name, index), daemon=True).start()
        return Answer(status=201, body=about)

    def _delete(self, kind: str, name: str) -> Answer:
        """Of a job also its pods."""
        about = self.kept[kind, name]
        if kind == "jobs":
            self.forget(name)
        else:
            del self.kept[kind, name]
        return Answer(body=about)

    def _suspend(self, name: str) -> None:
        if self.kept["jobs", name]["spec"].get("suspend"):
            for pod in self._at_work(name):
                pod.stop()

    def _at_work(self, name: str) -> list[_Pod]:
        return [pod for pod in list(self.pods.values()) if pod.job == name and pod.phase == "Running"]

    # --- the pods --------------------------------------------------------------------------------

    def _run(self, name: str, index: int) -> None:
        """The pod of one index, made anew as often as it is taken away."""
        about = self.kept["jobs", name]
        for turn in itertools.count():
            pod = _Pod(f"{name}-{index}-{turn}", name, index)
            with self._lock:
                self.pods[pod.name] = pod
                about["status"]["active"] = about["status"].get("active", 0) + 1
            code = self._attempt(about, pod)
            with self._lock:
                about["status"]["active"] -= 1
                if ("jobs", name) not in self.kept or about["spec"].get("suspend"):
                    return
                if code == 0:
                    self._succeeded(about)
                    return
                if code != PREEMPTED and not pod.lost:
                    rule = "matching FailJob rule at index 2"
                    text = f"Container training for pod default/{pod.name} failed with exit code {code} {rule}"
                    _conclude(about, "Failed", "PodFailurePolicy", text)
                    return

    def _succeeded(self, about: dict[str, Any]) -> None:
        about["status"]["succeeded"] = about["status"].get("succeeded", 0) + 1
        if about["status"]["succeeded"] == about["spec"]["completions"]:
            _conclude(about, "Complete", "", "")

    def _attempt(self, about: dict[str, Any], pod: _Pod) -> int:
        container = about["spec"]["template"]["spec"]["containers"][0]
        if self._images and container["image"] not in self._images:
            pod.waiting = "ErrImagePull"
            while ("jobs", pod.job) in self.kept and not about["spec"].get("suspend"):
                time.sleep(0.1)
            return 1
        with self._lock:
            if self._closed:
                return 1
            pod.machine = self._begun(container, pod)
        pod.phase = "Running"
        if about["spec"].get("suspend"):
            pod.machine.stop(GRACE)
        code = pod.machine.wait() or 0
        pod.phase = "Failed" if code else "Succeeded"
        return code

    def _begun(self, container: dict[str, Any], pod: _Pod) -> Machine:
        folder = self.folder / pod.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        variables = {"HOME": str(folder), **{one["name"]: one["value"] for one in container.get("env", ())}}
        for source in container.get("envFrom", ()):
            data = self.kept["secrets", source["secretRef"]["name"]]["data"]
            variables |= {key: base64.b64decode(value).decode() for key, value in data.items()}
        variables["JOB_COMPLETION_INDEX"] = str(pod.index)
        if "MASTER_ADDR" in variables:
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._meet[pod.job])}  # all pods are one host
        image = container["image"]
        return Machine(container["command"], variables, {str(folder): folder}, pod.lines.append, image=image)


def config(url: str, context: str = "") -> dict[str, Any]:
    """A kubeconfig that leads to the control plane at `url`, whatever its context is called."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "loopback"}}],
        "contexts": [{"name": context or "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": context or "here",
    }


def _wrong(about: dict[str, Any]) -> str:
    """What the API server would refuse of an object; empty where nothing is wrong."""
    if not _NAME.fullmatch(about["metadata"]["name"]):
        return f"metadata.name: {about['metadata']['name']} is no name of letters, digits and '-', of at most 63"
    if find_spec("kubernetes_validate") is not None:
        import kubernetes_validate

        try:
            kubernetes_validate.validate(about, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return str(error.message)
    return _wrong_pod(about["spec"]["template"]["spec"]) if about["kind"] == "Job" else ""


def _wrong_pod(pod: dict[str, Any]) -> str:
    """What no schema says: names that must fit each other."""
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for number, container in enumerate(pod["containers"]):
        where = f"spec.template.spec.containers[{number}]"
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                return f'{where}.volumeMounts.name: Not found: "{mount["name"]}"'
            if not mount["mountPath"].startswith("/") or ":" in mount["mountPath"]:
                return f"{where}.volumeMounts.mountPath: {mount['mountPath']!r} is no absolute path"
        for one in container.get("env", ()):
            if not _VARIABLE.fullmatch(one["name"]):
                return f"{where}.env.name: {one['name']!r} is no name of a variable"
    return ""


def _conclude(about: dict[str, Any], kind: str, reason: str, message: str) -> None:
    condition = {"type": kind, "status": "True", "reason": reason, "message": message}
    about["status"].setdefault("conditions", []).append(condition)


def _discovery(path: str) -> dict[str, Any] | None:
    """What there is, as `kubectl` asks before anything else."""
    if path == "/version":
        major, minor, _ = VERSION.split(".")
        return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [name.partition("/")[0] for name in _RESOURCES if "/" in name]
        versions = {group: {"groupVersion": f"{group}/v1", "version": "v1"} for group in groups}
        found = [{"name": group, "versions": [one], "preferredVersion": one} for group, one in versions.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
    name = path.removeprefix("/apis/").removeprefix("/api/")
    if name not in _RESOURCES:
        return None
    listed = [
        {"name": plural, "singularName": kind.lower(), "namespaced": kind != "Node", "kind": kind, "verbs": _VERBS}
        for plural, kind in _RESOURCES[name]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _error(code: int, reason: str, message: str) -> Answer:
    about = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message}
    return Answer(status=code, body={**about, "reason": reason, "code": code})
