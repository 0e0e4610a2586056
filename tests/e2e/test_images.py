"""The image of the website is built and run for real: nobody's root, nothing written, no torch, right answers.

Where a builder is: docker, or buildah with podman. INFLAME_IMAGE_BASE names another base than that of the Dockerfile,
INFLAME_BUILD_FLAGS further words for the builder (a certificate, a mirror of packages).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/inflame-web:test"
MOST = 400 * 2**20  # bytes above the base
TOKEN = "sixteen-letters-and-more"


def builder() -> tuple[list[str], list[str]]:
    """The words that build and those that run."""
    if shutil.which("buildah") and shutil.which("podman"):
        return ["buildah", "build", "--layers"], ["podman"]
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return ["docker", "build"], ["docker"]
    pytest.skip("needs docker, or buildah and podman")


def told(*words: str) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.fixture(scope="module")
def engine() -> list[str]:
    """What runs the image, which is built."""
    build, run = builder()
    flags = shlex.split(os.environ.get("INFLAME_BUILD_FLAGS", ""))
    if base := os.environ.get("INFLAME_IMAGE_BASE"):
        flags += ["--build-arg", f"BASE={base}"]
    told(*build, *flags, "--file", "deploy/Dockerfile", "--target", "web", "--tag", IMAGE, ".")
    return run


@pytest.fixture
def site(engine: list[str], fruit_bundle: Path) -> Iterator[str]:
    """The address of the website in a container that may do nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["run", "--detach", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", "10001"]
    words += ["--env", f"INFLAME_WEB_TOKEN={TOKEN}", "--volume", f"{fruit_bundle}:/srv/model:ro"]
    if 'netns="host"' in _settings():  # no networks of their own on this machine
        words += ["--entrypoint", "inflame", IMAGE, "serve", "--host", "0.0.0.0", "--port", str(port), "/srv/model"]
    else:
        words += ["--publish", f"127.0.0.1:{port}:8000", IMAGE]
    container = told(*engine, *words).strip()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*engine, "rm", "--force", container], capture_output=True, check=False)


def _settings() -> str:
    path = os.environ.get("CONTAINERS_CONF", "")
    return Path(path).read_text() if path and Path(path).is_file() else ""


def asked(address: str, data: bytes | None = None, patience: float = 60.0) -> str:
    """The answer, as soon as there is one."""
    until = time.monotonic() + patience
    while True:
        try:
            request = urllib.request.Request(address, data, {"Content-Type": "image/jpeg"} if data else {})
            with urllib.request.urlopen(request, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_website_answers_from_its_image(site: str, photo_set: Path) -> None:
    assert asked(f"{site}/readyz")
    said = json.loads(asked(f"{site}/v1/classify", (photo_set / "lime" / "lime_03.jpg").read_bytes()))
    assert "lime" in json.dumps(said)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_is_small_and_nobodys(engine: list[str]) -> None:
    run = [*engine, "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--entrypoint"]
    assert told(*run, "id", IMAGE, "-u").strip() == "10001"
    there = told(*run, "python3", IMAGE, "-c", "import importlib.util as u; print(u.find_spec('torch'))")
    assert there.strip() == "None"
    assert "--help" in told(*run, "inflame", IMAGE, "--help")
    size = int(told(*run, "du", IMAGE, "--summarize", "--bytes", "/opt/inflame").split()[0])
    assert size <= MOST, f"{size / 2**20:.0f} MB"
