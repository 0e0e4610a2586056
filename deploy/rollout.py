"""Puts an image with a bundle to work, asks it something real, and goes back to what was before where that fails.

    python3 deploy/rollout.py cloudrun IMAGE --bundle bundle --region europe-west1
    python3 deploy/rollout.py kubernetes IMAGE --bundle bundle --folder deploy/kubernetes/example
    python3 deploy/rollout.py ask http://127.0.0.1:8000 --bundle bundle

It needs gcloud or kubectl, logged in, and nothing of inflame. On Cloud Run a revision gets visitors when it has
answered without them; on Kubernetes a pod gets them when it is ready, and the one before stays until then. Exit codes:
0 done, 1 back to the one before.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAG = "candidate"
_FORWARDED = re.compile(r"Forwarding from (127\.0\.0\.1:\d+)")


class Failed(Exception):
    """What was rolled out doesn't do, or can't be rolled out."""


# --- asking --------------------------------------------------------------------------------------


def ask(url: str, version: str, patience: float) -> None:
    """Waits until the site is ready, then has it classify something. Failed where it can't, or where it is not the
    model of that version that answers."""
    _until(lambda: _get(f"{url}/readyz"), patience, f"{url} isn't ready")
    try:
        best = _classified(url, version)
    except (KeyError, IndexError, TypeError) as error:
        raise Failed(f"{url} doesn't answer as inflame does: {error!r}") from error
    say(f"{url} answers: {best['label']} ({best['probability']:.2f})")


def _classified(url: str, version: str) -> Any:
    found = [one for one in _get(f"{url}/v1/models")["models"] if version.startswith(one["version"])]
    if not found:
        raise Failed(f"{url} has no model of version {version[:12]}")
    if found[0]["kind"] == "text":
        body, kind = b"The match ended in a draw.", "text/plain"
    else:
        body, kind = picture(), "image/png"
    best = _get(f"{url}/v1/classify", body, kind)["results"][0]
    if not version.startswith(best["version"]) or best["label"] not in found[0]["classes"]:
        raise Failed(f"{url} answers as another model would: {best['label']}, version {best['version']}")
    return best


def picture(side: int = 64) -> bytes:
    """A PNG with a light disc on dark ground."""
    centre = side / 2
    rows = (
        bytes(220 if (row - centre) ** 2 + (column - centre) ** 2 < (side / 3) ** 2 else 40 for column in range(side))
        for row in range(side)
    )
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _get(url: str, body: bytes | None = None, kind: str = "") -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": kind} if kind else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise Failed(f"{url} says {error.code}: {error.read(300).decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise Failed(f"{url} doesn't answer: {error}") from error


def _until(look: Callable[[], Any], patience: float, wrong: str) -> Any:
    """What `look` gives as soon as it doesn't fail."""
    until = time.monotonic() + patience
    while True:
        try:
            return look()
        except Failed as error:
            if time.monotonic() > until:
                raise Failed(f"{wrong}: {error}") from error
        time.sleep(1)


# --- rolling out ---------------------------------------------------------------------------------


@contextmanager
def _or_back(back: Callable[[], None]) -> Iterator[None]:
    """Whatever ends the block before its end, a signal too, brings the one before back."""
    try:
        yield
    except BaseException as error:
        say(f"it failed: {error}" if isinstance(error, Failed) else f"it was ended: {error!r}")
        back()
        raise


def cloudrun(words: argparse.Namespace, version: str) -> None:
    """A revision without visitors, a question, all visitors, and the question again for a while."""

    def run(*more: str) -> str:
        return _told("gcloud", "run", *more, "--quiet", "--region", words.region)

    def now() -> Any:
        return json.loads(run("services", "describe", words.service, "--format=json"))["status"]

    def send(shares: dict[str, int]) -> None:
        said = ",".join(f"{name}={percent}" for name, percent in shares.items())
        run("services", "update-traffic", words.service, "--to-revisions", said)
        say(f"visitors: {said}")

    before = {one["revisionName"]: one["percent"] for one in now()["traffic"] if one.get("percent")}
    with _or_back(lambda: send(before)):
        run("deploy", words.service, "--image", words.image, "--no-traffic", "--tag", TAG)
        candidate = next(one for one in now()["traffic"] if one.get("tag") == TAG)
        ask(candidate["url"], version, words.patience)
        send({candidate["revisionName"]: 100})
        url, until = now()["url"], time.monotonic() + words.watch
        ask(url, version, words.patience)
        while time.monotonic() < until:
            time.sleep(min(10, words.watch))
            ask(url, version, 0)


def kubernetes(words: argparse.Namespace, version: str) -> None:
    """Applies the folder with the image in place of its own, waits for all pods, and asks one of them."""
    name = f"deployment/{words.service}"
    about = json.loads(_told("kubectl", "get", name, "--ignore-not-found", "--output=json") or "{}")
    before = about.get("metadata", {}).get("annotations", {}).get("deployment.kubernetes.io/revision", "")
    patience = f"--timeout={words.patience:.0f}s"

    def back() -> None:
        if not before:
            say("it is the first of its kind: there is none to go back to")
            return
        _told("kubectl", "rollout", "undo", name, f"--to-revision={before}")
        _told("kubectl", "rollout", "status", name, patience)
        say(f"back to revision {before}")

    with _or_back(back):
        with _overlay(words) as folder:
            _told("kubectl", "apply", "-k", folder)
        _told("kubectl", "rollout", "status", name, patience)
        with _forwarded(f"service/{words.service}") as url:
            ask(url, version, words.patience)


@contextmanager
def _overlay(words: argparse.Namespace) -> Iterator[str]:
    """A folder for Kustomize that lies beside the named one, whose image it changes: nobody's files are written to."""
    base = Path(words.folder).resolve()
    image = {"containers": [{"name": "web", "image": words.image}]}
    what = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": words.service}}
    patch = json.dumps({**what, "spec": {"template": {"spec": image}}})
    with tempfile.TemporaryDirectory(dir=base.parent, prefix=".rollout-") as folder:
        made = {"resources": [f"../{base.name}"], "patches": [{"patch": patch}]}
        Path(folder, "kustomization.yaml").write_text(json.dumps(made), encoding="utf-8")  # YAML takes JSON
        yield folder


@contextmanager
def _forwarded(what: str) -> Iterator[str]:
    """An address on this machine that leads to the service, on any free port."""
    with subprocess.Popen(["kubectl", "port-forward", what, ":80"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = _FORWARDED.search(process.stdout.readline())
            if not found:
                raise Failed(f"kubectl port-forward {what} has no address")
            yield f"http://{found[1]}"
        finally:
            process.terminate()


def _told(*words: str) -> str:
    """What a program says. Its complaints stay on stderr, and its failure is ours."""
    say(f"$ {' '.join(words)}")
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise Failed(f"{words[0]} can't be run: {error}") from error
    if done.returncode:
        raise Failed(f"{' '.join(words[:3])} ended with {done.returncode}")
    return done.stdout


def say(text: str) -> None:
    """For people who read the log."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(given: list[str] | None = None) -> int:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    places = parser.add_subparsers(dest="place", required=True)
    for place, what in (("cloudrun", "image"), ("kubernetes", "image"), ("ask", "url")):
        add = places.add_parser(place).add_argument
        add(what)
        add("--bundle", required=True, type=Path, help="the folder of the bundle that is in the image")
        add("--patience", type=float, default=180.0, help="seconds until it must be ready (default: 180)")
        add("--service", default="inflame", help="what it is called there (default: inflame)")
        if place == "cloudrun":
            add("--region", required=True)
            add("--watch", type=float, default=60.0, help="seconds of questions with all visitors (default: 60)")
        if place == "kubernetes":
            add("--folder", default="deploy/kubernetes/example", help="what kubectl is to apply")
    words = parser.parse_args(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a workflow that is cancelled
    version = str(json.loads((words.bundle / "bundle.json").read_text(encoding="utf-8"))["version"])
    try:
        if words.place == "ask":
            ask(words.url.rstrip("/"), version, words.patience)
        else:
            {"cloudrun": cloudrun, "kubernetes": kubernetes}[words.place](words, version)
    except Failed as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
