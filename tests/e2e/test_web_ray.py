"""The website as replicas of Ray Serve: one is killed, the others answer, and another takes its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from inflame import host

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        find_spec("ray") is None or find_spec("grpc_reflection") is None, reason="needs Ray Serve: inflame[ray]"
    ),
]


@pytest.fixture
def site(fruit_bundle: Path, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Address and process of `inflame serve --on ray` with two replicas; nothing of it is left."""
    with (tmp_path / "server.log").open("w") as log:
        command = [sys.executable, "-m", "inflame", "serve", str(fruit_bundle), "--on", "ray", "--port", "0", "--json"]
        environment = {**os.environ, "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (tmp_path / "server.log").read_text()
        yield json.loads(line)["address"], process.pid
        left = host.tree(process.pid)
        process.terminate()
        assert process.wait(60) == 0, (tmp_path / "server.log").read_text()
        process.stdout.close()
    end = time.monotonic() + 30
    while any(_lives(pid) for pid in left) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in left if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _replicas(pid: int) -> list[int]:
    found = []
    for one in host.tree(pid):
        try:
            name = Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::ServeReplica:inflame"):
            found.append(one)
    return found


def _output(pid: int) -> list[str]:
    """What a replica has written, which Ray keeps."""
    return Path(f"/proc/{pid}/fd/2").resolve().read_text(encoding="utf-8").splitlines()


def test_one_of_two_is_killed(site: tuple[str, int], photo_set: Path) -> None:
    address, pid = site
    good = (photo_set / "apple" / "apple_10.jpg").read_bytes()
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
        first = client.post("v1/classify", files={"file": good})
        assert first.json()["results"][0]["label"] == "apple"
        assert first.headers["x-content-type-options"] == "nosniff"  # the guard is there as well
        kept = first.json()["results"][0]["id"]
        while {client.get(f"v1/results/{kept}").status_code for _ in range(10)} != {200}:
            time.sleep(0.1)  # it is written a moment later, and the replica that wrote it may be killed below
        client.post("v1/models/fruit/rollback", headers={"X-Request-ID": "an-act"})
        replicas = _replicas(pid)
        assert len(replicas) == 2
        lines = [line for one in replicas for line in _output(one) if "an-act" in line and line.startswith("{")]
        assert sorted(json.loads(line)["event"] for line in lines) == ["audit", "request"]
        os.kill(replicas[0], signal.SIGKILL)
        codes = [client.post("v1/classify", files={"file": good}).status_code for _ in range(100)]
        assert codes.count(200) >= 98, codes  # what was with it when it died may fail
        end = time.monotonic() + 120
        while len(now := _replicas(pid)) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        assert len(now) == 2
        assert replicas[0] not in now
        assert {client.get(f"v1/results/{kept}").status_code for _ in range(10)} == {200}  # the log is one
