"""The images are built and run for real: nobody's root, nothing written, no network, and each does what it is for.

Where a builder is: docker, or buildah with podman. INFLAME_IMAGE_BASE names another base than that of the Dockerfile,
INFLAME_BUILD_FLAGS further words for the builder (a certificate, a mirror of packages), INFLAME_TORCH_INDEX where torch
for `train` comes from, in place of PyTorch's own builds without CUDA. podman-compose, or docker's own, starts what can
be had of deploy/compose.yaml together.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 400 * 2**20  # bytes above the base
TOKEN = "sixteen-letters-and-more"
CPU = "https://download.pytorch.org/whl/cpu"
LOCKED = ["--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # nothing may be done, and nothing written

COMPOSE = ROOT / "deploy" / "compose.yaml"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
Build = Callable[..., str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """The words that speak to the services of deploy/compose.yaml; `ports`: where some of them are here."""

    words: list[str]
    ports: dict[str, int]


@pytest.fixture(scope="module")
def engine() -> str:
    """What runs images: podman (built by buildah) or docker."""
    if shutil.which("buildah") and shutil.which("podman"):
        found = "podman"
    elif shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        found = "docker"
    else:
        pytest.skip("needs docker, or buildah and podman")
    base = _base()
    there = subprocess.run([found, "image", "inspect", base], capture_output=True).returncode == 0
    if not there and subprocess.run([found, "pull", "--quiet", base], capture_output=True).returncode:
        pytest.skip(f"needs the image {base}, or another one with a Python: INFLAME_IMAGE_BASE=NAME")
    return found


def _base() -> str:
    told = re.search(r"^ARG BASE=(\S+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    assert told
    return os.environ.get("INFLAME_IMAGE_BASE", told[1])


@pytest.fixture(scope="module")
def build(engine: str) -> Build:
    """Makes the image of a target. `keep`: its layers too, so that the next time is quick."""

    def now(target: str, *flags: str, keep: bool = True) -> str:
        words = [*building(engine, keep=keep), "--build-arg", f"BASE={_base()}", *flags]
        image = f"localhost/inflame-{target}:test"
        told(*words, "--file", "deploy/Dockerfile", "--target", target, "--tag", image, ".")
        return image

    return now


def building(engine: str, *, keep: bool) -> list[str]:
    """The words that build. Of OCI's own format a health check is no part."""
    words = ["docker", "build"] if engine == "docker" else ["buildah", "build", "--format", "docker"]
    words += ["--layers"] if keep and engine == "podman" else []
    return [*words, *shlex.split(os.environ.get("INFLAME_BUILD_FLAGS", ""))]


@pytest.fixture(scope="module")
def web(build: Build) -> str:
    return build("web")


@pytest.fixture(scope="module")
def builds(engine: str, web: str, build: Build) -> list[list[str]]:
    """The files of the website's image, each with its rights and owners, and with its content: of two builds."""
    there = "find /opt /usr /var/lib /etc/passwd /etc/group /etc/shadow -xdev"
    listed = f"{there} -printf '%p %m %U %G %l\\n'; {there} -type f -print0 | xargs -0 sha256sum"
    run = [engine, "run", *LOCKED, "--user", "0", "--cap-add", "DAC_READ_SEARCH", "--entrypoint", "sh"]
    first = told(*run, web, "-c", listed).splitlines()
    return [first, told(*run, build("web", "--no-cache", keep=False), "-c", listed).splitlines()]


@pytest.fixture(scope="module")
def data(build: Build) -> str:
    return build("data")


@pytest.fixture(scope="module")
def tracker(build: Build) -> str:
    return build("tracker")


@pytest.fixture(scope="module")
def train(engine: str, build: Build) -> Iterator[str]:
    """Gigabytes, which are not kept."""
    image = build("train", "--build-arg", f"TORCH_INDEX={os.environ.get('INFLAME_TORCH_INDEX', CPU)}", keep=False)
    yield image
    subprocess.run([engine, "rmi", "--force", image], capture_output=True, check=False)


def told(*words: str) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.fixture
def site(engine: str, web: str, fruit_bundle: Path) -> Iterator[str]:
    """The address of the website in a container that may do nothing."""
    port = _port()
    words = ["--user", "10001", "--env", f"INFLAME_WEB_TOKEN={TOKEN}"]
    words += ["--volume", f"{fruit_bundle}:/srv/model:ro"]
    if 'netns="host"' in _settings():  # no networks of their own on this machine
        words += ["--entrypoint", "inflame", web, "serve", "--host", "0.0.0.0", "--port", str(port), "/srv/model"]
    else:
        words += ["--publish", f"127.0.0.1:{port}:8000", web]
    with running(engine, *words):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(engine: str, *words: str) -> Iterator[str]:
    """A container as long as the block lasts; what it is called."""
    name = told(engine, "run", "--detach", *LOCKED, *words).strip()
    try:
        yield name
    finally:
        subprocess.run([engine, "rm", "--force", name], capture_output=True, check=False)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


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


def test_the_website_answers_from_its_image(site: str, photo_set: Path) -> None:
    assert asked(f"{site}/readyz")
    said = json.loads(asked(f"{site}/v1/classify", (photo_set / "lime" / "lime_03.jpg").read_bytes()))
    assert "lime" in json.dumps(said)


def test_the_health_check_sees_the_website(engine: str, web: str, fruit_bundle: Path) -> None:
    """As its image says it, on the port of its image: red before the model answers, and green then."""
    settings = json.loads(told(engine, "image", "inspect", web))[0]
    check = (settings.get("Healthcheck") or settings["Config"]["Healthcheck"])["Test"]
    assert check[:2] == ["CMD", "python3"], check
    words = ["--network", "none", "--env", f"INFLAME_WEB_TOKEN={TOKEN}", "--volume", f"{fruit_bundle}:/srv/model:ro"]
    with running(engine, *words, web) as container:
        until = time.monotonic() + 60
        while (last := subprocess.run([engine, "exec", container, *check[1:]], capture_output=True)).returncode:
            assert time.monotonic() < until, last.stderr.decode()
            time.sleep(0.2)
    with running(engine, "--network", "none", "--entrypoint", "sleep", web, "60") as other:
        assert subprocess.run([engine, "exec", other, *check[1:]], capture_output=True).returncode != 0


def test_the_image_of_the_website_is_small_and_nobodys(engine: str, web: str) -> None:
    run = [engine, "run", *LOCKED, "--entrypoint"]
    assert told(*run, "id", web, "-u").strip() == "10001"
    there = told(*run, "python3", web, "-c", "import importlib.util as u; print(u.find_spec('torch'))")
    assert there.strip() == "None"
    assert "--help" in told(*run, "inflame", web, "--help")
    refused = subprocess.run([*run, "touch", web, "/opt/inflame/mine"], capture_output=True, text=True)
    assert "Read-only file system" in refused.stderr
    sizes = [json.loads(told(engine, "image", "inspect", name))[0]["Size"] for name in (web, _base())]
    assert sizes[0] - sizes[1] <= MOST, f"{(sizes[0] - sizes[1]) / 2**20:.0f} MB"


def test_a_build_can_be_repeated(builds: list[list[str]]) -> None:
    """Anew, without any layer of before, all files have the content, owner and rights that they had."""
    first, second = builds
    assert len(first) > 10_000
    assert sorted(set(first) ^ set(second)) == []


def test_the_image_of_data_checks_and_shards_a_folder(engine: str, data: str, photo_set: Path, tmp_path: Path) -> None:
    shards = _anybodys(tmp_path / "shards")
    run = [engine, "run", *LOCKED, "--network", "none", "--volume", f"{photo_set}:/in:ro"]
    assert told(*run, "--entrypoint", "id", data, "-u").strip() == "10001"
    found = json.loads(told(*run, "--entrypoint", "inflame", data, "check", "/in", "--json"))
    assert found["items"] == sum(1 for path in photo_set.rglob("*.jpg"))
    told(*run, "--volume", f"{shards}:/out", data, "/in", "/out", "--size", "32")
    assert list(shards.rglob("*.tfrecord*"))


def test_the_image_of_training_trains(engine: str, train: str, tmp_path: Path) -> None:
    """The embedded digits for twenty seconds, without any network; the run comes out by a mount."""
    out = _anybodys(tmp_path / "out")
    run = [engine, "run", *LOCKED, "--network", "none", "--volume", f"{out}:/out"]
    assert told(*run, "--entrypoint", "id", train, "-u").strip() == "10001"
    said = json.loads(told(*run, train, "digits", "--in", "20s", "--json", "output=/out/run"))
    assert said["test"]["accuracy"] > 0.9
    assert json.loads((out / "run" / "status.json").read_text())["state"] == "done"
    assert (out / "run" / "bundle" / "model.onnx").is_file()
    assert (out / "run").stat().st_uid == 10001


def _anybodys(folder: Path) -> Path:
    """A folder that a user without rights may write to, and come to."""
    folder.mkdir()
    folder.chmod(0o777)
    return folder


# --- together ------------------------------------------------------------------------------------

# What stands in for the image of PostgreSQL where no registry is reached: Debian's, begun as that image does it.
POSTGRES = r"""
ARG BASE
FROM ${BASE}
RUN apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends postgresql-15
COPY --chmod=755 begin /begin
ENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data
RUN install -d -o postgres ${PGDATA}
VOLUME ${PGDATA}
STOPSIGNAL SIGINT
ENTRYPOINT ["/begin"]
"""
BEGIN = r"""#!/bin/sh
set -eu
if [ "$(id -u)" = 0 ]; then
    chown postgres "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --clear-groups "$0"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username "$POSTGRES_USER" --pwfile /tmp/password --auth-host scram-sha-256 --auth-local trust -E UTF8
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    pg_ctl --wait --options '-c listen_addresses=' start
    createdb --username "$POSTGRES_USER" "$POSTGRES_USER"
    for file in /docker-entrypoint-initdb.d/*.sql; do psql --username "$POSTGRES_USER" --file "$file"; done
    pg_ctl --wait --mode fast stop
fi
exec postgres -c 'listen_addresses=*'
"""


@pytest.fixture(scope="module")
def postgres(engine: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image that the file names, or what stands in for it."""
    named = str(re.findall(r"image: (postgres:\S+)", COMPOSE.read_text())[0])
    asked = (["image", "inspect"], ["pull", "--quiet"])
    if any(subprocess.run([engine, *words, named], capture_output=True).returncode == 0 for words in asked):
        return named
    folder, image = tmp_path_factory.mktemp("postgres"), "localhost/inflame-postgres:test"
    (folder / "Dockerfile").write_text(POSTGRES)
    (folder / "begin").write_text(BEGIN)
    words = [*building(engine, keep=True), "--build-arg", f"BASE={_base()}", "--tag", image, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the image {named}, or Debian's packages for one: {done.stderr[-300:]}")
    return image


@pytest.fixture
def compose(
    engine: str, web: str, tracker: str, postgres: str, fruit_bundle: Path, tmp_path: Path
) -> Iterator[Compose]:
    """Its words, with images that are here, ports that are free, and services in a project of their own."""
    if shutil.which("podman-compose"):
        words = ["podman-compose"]
    elif engine == "docker" and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        words = ["docker", "compose"]
    else:
        pytest.skip("needs podman-compose (pip install podman-compose) or docker's compose")
    ports = {name: _port() for name in ("web", "mlflow")}
    services = "".join(
        f'  {name}: {{ image: "{image}", ports: !override ["127.0.0.1:{ports[name]}:{inside}"] }}\n'
        for name, image, inside in (("web", web, 8000), ("mlflow", tracker, 5000))
    )
    services += f'  postgres: {{ image: "{postgres}" }}\n'
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "here.yaml").write_text(
        f"services:\n{services}secrets:\n  web_token: {{ file: {tmp_path / 'token'} }}\n"
    )
    told = {"POSTGRES_PASSWORD": "letters4and5digits", "GRAFANA_PASSWORD": "others", "INFLAME_BUNDLE": fruit_bundle}
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in told.items()))
    words += ["-p", f"inflame-{os.getpid()}", "-f", str(COMPOSE), "-f", str(tmp_path / "here.yaml")]
    words += ["--env-file", str(tmp_path / "env")]
    try:
        yield Compose(words=words, ports=ports)
    finally:
        subprocess.run([*words, "down", "--volumes"], capture_output=True, check=False)


def test_the_services_work_together(compose: Compose, engine: str, photo_set: Path) -> None:
    """The website writes what it predicts into PostgreSQL, and goes on where it was when it is begun anew; MLflow keeps
    its runs there too."""
    told(*compose.words, "config")
    told(*compose.words, "up", "--detach", "--no-build", "postgres")
    _until(
        lambda: "accepting" in _in(compose, "postgres", "pg_isready", "--username", "inflame", "--host", "127.0.0.1")
    )
    told(*compose.words, "up", "--detach", "--no-build", "web", "mlflow")
    site, tracker = (f"http://127.0.0.1:{compose.ports[name]}" for name in ("web", "mlflow"))
    photo = (photo_set / "plum" / "plum_04.jpg").read_bytes()
    assert "plum" in json.dumps(json.loads(asked(f"{site}/v1/classify", photo)))
    _until(lambda: _rows(compose, "inflame", "predictions") == 1)
    assert asked(f"{tracker}/health", patience=180) == "OK"
    request = urllib.request.Request(
        f"{tracker}/api/2.0/mlflow/experiments/create",
        json.dumps({"name": "birds"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.loads(answer.read())["experiment_id"]
    assert _rows(compose, "mlflow", "experiments") == 2  # and the one that is always there
    refused = _in(compose, "web", "touch", "/opt/inflame/mine")
    assert "Read-only file system" in refused
    told(*compose.words, "restart", "web")
    assert "plum" in asked(f"{site}/v1/classify", photo)
    _until(lambda: _rows(compose, "inflame", "predictions") == 2)


def _in(compose: Compose, service: str, *words: str) -> str:
    """What a command in a service says."""
    done = subprocess.run([*compose.words, "exec", "-T", service, *words], capture_output=True, text=True)
    return done.stdout + done.stderr


def _rows(compose: Compose, database: str, table: str) -> int:
    query = ["psql", "--username", "inflame", "--tuples-only", "--command", f"SELECT count(*) FROM {table}", database]
    said = _in(compose, "postgres", *query)
    found = re.search(r"^\s+(\d+)$", said, re.MULTILINE)
    assert found, said
    return int(found[1])


def _until(there: Callable[[], bool], patience: float = 60.0) -> None:
    until = time.monotonic() + patience
    while not there():
        assert time.monotonic() < until
        time.sleep(0.2)
