"""deploy/rollout.py on both roads: programs that stand in for gcloud and kubectl note what they are told and keep the
state of a service; the site that is asked is a real server of a real model, or one that is broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLLOUT = ROOT / "deploy" / "rollout.py"
EXAMPLE = ROOT / "deploy" / "kubernetes" / "example"

# Both begin alike: they note their words, and fail where the state says so.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys, time
words = sys.argv[1:]
place = pathlib.Path(os.environ["STATE"])
state = json.loads(place.read_text())
state["told"].append(words)
def keep():
    place.with_suffix(".new").write_text(json.dumps(state))
    place.with_suffix(".new").replace(place)
keep()
if state["fails"] and state["fails"] in " ".join(words):
    sys.exit("it fails on demand")
"""
GCLOUD = """
if words[:3] == ["run", "services", "describe"]:
    print(json.dumps({"status": {"url": state["url"], "traffic": state["traffic"]}}))
elif words[:2] == ["run", "deploy"]:
    state["traffic"].append({"revisionName": "web-2", "tag": "candidate", "url": state["url"]})
elif words[:3] == ["run", "services", "update-traffic"]:
    name, _, share = words[words.index("--to-revisions") + 1].partition("=")
    state["traffic"] = [{"revisionName": name, "percent": int(share)}]
keep()
"""
KUBECTL = """
if words[0] == "get" and state["revision"]:
    print(json.dumps({"metadata": {"annotations": {"deployment.kubernetes.io/revision": str(state["revision"])}}}))
elif words[0] == "apply":
    state["applied"] = (pathlib.Path(words[-1]) / "kustomization.yaml").read_text()
elif words[0] == "port-forward":
    print("Forwarding from 127.0.0.1:" + state["url"].rpartition(":")[2] + " -> 8000", flush=True)
    time.sleep(60)
keep()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the script runs: a folder with the programs on PATH, and what they keep."""

    folder: Path
    bundle: Path

    def set(self, **values: Any) -> None:
        told = {"told": [], "fails": "", "traffic": [{"revisionName": "web-1", "percent": 100}], "revision": 7}
        (self.folder / "state").write_text(json.dumps({**told, **values}))

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state").read_text())
        return found

    def told(self) -> list[str]:
        return [" ".join(words) for words in self.state()["told"]]

    def start(self, place: str, *more: str) -> subprocess.Popen[str]:
        given = {"STATE": str(self.folder / "state"), "PATH": f"{self.folder}:{os.environ['PATH']}"}
        words = [sys.executable, str(ROLLOUT), place, "registry/web@sha256:1", "--bundle", str(self.bundle)]
        words += ["--patience", "2", *more]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, **given})

    def run(self, place: str, *more: str) -> tuple[int, str]:
        with self.start(place, *more) as process:
            return process.wait(), process.stderr.read() if process.stderr else ""


CLOUD_RUN = ("cloudrun", "--region", "europe-west1", "--watch", "0")
IN_A_CLUSTER = ("kubernetes", "--folder", str(EXAMPLE))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    for name, does in {"gcloud": GCLOUD, "kubectl": KUBECTL}.items():
        (tmp_path / name).write_text(STAND_IN + does)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps({"version": "a" * 64}))
    return Stage(folder=tmp_path, bundle=tmp_path / "bundle")


class _Broken(BaseHTTPRequestHandler):
    """Ready, and with the right model, but it can't classify."""

    def do_GET(self) -> None:
        self._say(200, {"models": [{"name": "m", "version": "a" * 12, "kind": "image", "classes": ["x"]}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(500, {"detail": "out of order"})

    def _say(self, status: int, told: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: object) -> None:
        pass


class _Other(_Broken):
    """A site that isn't one of inflame's."""

    def do_GET(self) -> None:
        self._say(200, {"hello": "world"})


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def broken() -> Iterator[str]:
    with serving(_Broken) as address:
        yield address


@pytest.fixture(scope="module")
def site(fruit_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server of the fruit, as long as this module lasts."""
    with _served(fruit_bundle, tmp_path_factory.mktemp("site")) as address:
        yield address


@contextmanager
def _served(bundle: Path, home: Path) -> Iterator[str]:
    words = [sys.executable, "-m", "inflame", "serve", str(bundle), "--port", "0", "--json"]
    given = {**os.environ, "INFLAME_HOME": str(home)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=given) as process:
        try:
            assert process.stdout
            address = str(json.loads(process.stdout.readline())["address"]).rstrip("/")
            asked = [sys.executable, str(ROLLOUT), "ask", address, "--bundle", str(bundle)]
            assert "answers: " in subprocess.run(asked, stderr=subprocess.PIPE, text=True, check=True).stderr
            yield address
        finally:
            process.terminate()


def test_on_cloud_run_visitors_come_when_it_has_classified(stage: Stage, site: str, fruit_bundle: Path) -> None:
    stage = Stage(folder=stage.folder, bundle=fruit_bundle)
    stage.set(url=site)
    code, said = stage.run(*CLOUD_RUN)
    assert code == 0, said
    assert stage.state()["traffic"] == [{"revisionName": "web-2", "percent": 100}]
    verbs = [words[4:].split()[0:2] for words in stage.told()]
    assert verbs == [
        ["services", "describe"], ["deploy", "inflame"], ["services", "describe"], ["services", "update-traffic"],
        ["services", "describe"],
    ]  # fmt: skip
    (deployed,) = [words for words in stage.told() if words.startswith("run deploy")]
    assert "--image registry/web@sha256:1 --no-traffic --tag candidate" in deployed
    assert said.count(f"{site} answers: ") == 2  # without visitors, and with all of them
    assert all("--region europe-west1" in words for words in stage.told())


def test_on_kubernetes_it_is_the_image_that_was_named(stage: Stage, site: str, fruit_bundle: Path) -> None:
    stage = Stage(folder=stage.folder, bundle=fruit_bundle)
    stage.set(url=site, revision=0)
    code, said = stage.run(*IN_A_CLUSTER)
    assert code == 0, said
    applied = yaml.safe_load(stage.state()["applied"])
    assert applied["resources"] == ["../example"]
    (container,) = yaml.safe_load(applied["patches"][0]["patch"])["spec"]["template"]["spec"]["containers"]
    assert container == {"name": "web", "image": "registry/web@sha256:1"}
    assert [words.split()[0] for words in stage.told()] == ["get", "apply", "rollout", "port-forward"]
    assert "rollout status deployment/inflame --timeout=2s" in stage.told()
    assert not list(EXAMPLE.parent.glob(".rollout-*"))


def test_a_smoke_that_fails_brings_the_revision_of_before_back(stage: Stage, broken: str) -> None:
    stage.set(url=broken, traffic=[{"revisionName": "web-1", "percent": 100}, {"revisionName": "web-0", "tag": "old"}])
    code, said = stage.run(*CLOUD_RUN)
    assert code == 1
    assert "says 500" in said
    assert "out of order" in said
    assert stage.state()["traffic"] == [{"revisionName": "web-1", "percent": 100}]
    sent = [words for words in stage.told() if "--to-revisions" in words]
    assert [words.partition("--to-revisions ")[2].split()[0] for words in sent] == ["web-1=100"]  # never to the new one


def test_in_a_cluster_a_smoke_that_fails_does_too(stage: Stage, broken: str) -> None:
    stage.set(url=broken)
    code, said = stage.run(*IN_A_CLUSTER)
    assert code == 1
    assert "says 500" in said
    assert stage.told()[-2:] == [
        "rollout undo deployment/inflame --to-revision=7", "rollout status deployment/inflame --timeout=2s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("road", "fails", "last"),
    [
        (CLOUD_RUN, "run deploy", "run services update-traffic inflame --to-revisions web-1=100"),
        (IN_A_CLUSTER, "apply", "rollout status"),
        (IN_A_CLUSTER, "port-forward", "rollout status"),
    ],
    ids=["no revision", "nothing applied", "no way to it"],
)
def test_whatever_fails_leads_back(stage: Stage, broken: str, road: Sequence[str], fails: str, last: str) -> None:
    stage.set(url=broken, fails=fails)
    code, said = stage.run(*road)
    assert code == 1, said
    assert stage.told()[-1].startswith(last)
    assert "Traceback" not in said


def test_pods_that_never_come_up_are_undone(stage: Stage, broken: str) -> None:
    stage.set(url=broken, fails="rollout status")  # then the one before doesn't either, which is said
    code, said = stage.run(*IN_A_CLUSTER)
    assert code == 1
    assert "rollout undo deployment/inflame --to-revision=7" in stage.told()
    assert not [words for words in stage.told() if words.startswith("port-forward")]
    assert "kubectl rollout status ended with 1" in said


def test_another_model_that_answers_is_none(stage: Stage, site: str) -> None:
    stage.set(url=site)
    code, said = stage.run(*CLOUD_RUN)
    assert code == 1
    assert "has no model of version aaaaaaaaaaaa" in said
    assert stage.state()["traffic"] == [{"revisionName": "web-1", "percent": 100}]


def test_what_answers_otherwise_is_not_it(stage: Stage) -> None:
    with serving(_Other) as address:
        stage.set(url=address)
        code, said = stage.run(*CLOUD_RUN)
    assert code == 1
    assert "doesn't answer as inflame does" in said
    assert "Traceback" not in said
    assert stage.state()["traffic"] == [{"revisionName": "web-1", "percent": 100}]


@pytest.mark.slow
def test_a_model_of_texts_is_asked_about_a_text(letters_bundle: Path, tmp_path: Path) -> None:
    with _served(letters_bundle, tmp_path) as address:
        words = [sys.executable, str(ROLLOUT), "ask", address, "--bundle", str(letters_bundle)]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"answers: (money|sport) \(0\.\d\d\)", done.stderr)


def test_the_first_of_its_kind_has_none_to_go_back_to(stage: Stage, broken: str) -> None:
    stage.set(url=broken, revision=0)
    code, said = stage.run(*IN_A_CLUSTER)
    assert code == 1
    assert "there is none to go back to" in said
    assert not [words for words in stage.told() if "undo" in words]


def test_a_workflow_that_is_cancelled_leads_back(stage: Stage) -> None:
    stage.set(url="http://127.0.0.1:9")  # never ready
    with stage.start(*CLOUD_RUN, "--patience", "300") as process:
        until = time.monotonic() + 60
        while len(stage.told()) < 3:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 1
    assert stage.told()[-1].startswith("run services update-traffic inflame --to-revisions web-1=100")


def test_the_picture_is_one() -> None:
    import io
    import runpy

    from PIL import Image

    with Image.open(io.BytesIO(runpy.run_path(str(ROLLOUT))["picture"]())) as picture:
        assert picture.format == "PNG"
        assert picture.size == (64, 64)
        assert picture.getextrema() == (40, 220)


def test_kustomize_takes_the_folder_that_is_applied() -> None:
    import argparse
    import runpy

    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl")
    words = argparse.Namespace(folder=str(EXAMPLE), image="registry/web@sha256:1", service="inflame")
    with runpy.run_path(str(ROLLOUT))["_overlay"](words) as folder:
        done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=True)
    made = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/web@sha256:1"
    assert container["readinessProbe"]  # the rest is as it was
    assert set(made) == {"Deployment", "Service", "PodDisruptionBudget", "Ingress"}
