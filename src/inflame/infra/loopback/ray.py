"""A Ray cluster of our own on this machine, for a while: a head, as `ray start --head` makes it, with a token."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from inflame import host
from inflame.infra.command import VARIABLE
from inflame.infra.loopback.machine import Down, cut, passed, told
from inflame.infra.loopback.server import ports

PATIENCE = 90.0  # seconds for the head to know of its machine
_STORE = 80_000_000  # bytes of its object store, which jobs of ours have no use for


class Head:
    """What runs: its dashboard's address, and its token."""

    def __init__(self, url: str, token: str, process: subprocess.Popen[bytes]) -> None:
        self.url, self.token, self._process = url, token, process

    def up(self) -> bool:
        """Whether it knows of its machine."""
        shown = {"Authorization": f"Bearer {self.token}"}
        asked = urllib.request.Request(f"{self.url}/api/v0/nodes?detail=1", headers=shown)
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return b"ALIVE" in answer.read()
        except OSError:
            return False

    def lose(self) -> None:
        """Ends all processes of jobs without a word, as a power cut does."""
        cut(pid for pid in host.tree(self._process.pid) if told(pid, f"{VARIABLE}="))

    def close(self) -> None:
        """Ends the cluster, whatever still runs."""
        groups = host.groups(self._process.pid)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._process.wait()


def possible() -> bool:
    """Whether Ray is here, with its dashboard, which takes the jobs."""
    return find_spec("ray") is not None and find_spec("aiohttp_cors") is not None


@contextmanager
def head(*, cpus: int = 2, gpus: int = 0) -> Iterator[Head]:
    """The cluster, as long as the block lasts, with so many cores and GPUs, whatever this machine has. Down where
    it doesn't come up.
    """
    if not possible():
        raise Down("Ray with its dashboard is not installed here.", remedy="pip install 'ray[default]'")
    # Its sockets have short names only in a folder that has one.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        dashboard, *others = ports(5)
        names = ("port", "ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
        words += [f"--{name}={port}" for name, port in zip(names, others, strict=True)]
        words += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={_STORE}"]
        token, log = secrets.token_hex(32), Path(folder) / "head.txt"
        given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PYTHONWARNINGS": "ignore", "HOME": folder}
        with log.open("wb") as out:
            process = subprocess.Popen(
                words,
                env={**passed(), **given},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        found = Head(f"http://127.0.0.1:{dashboard}", token, process)
        try:
            _until_up(found, process, log)
            yield found
        finally:
            found.close()


def _until_up(found: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found.up():
        if process.poll() is not None or time.monotonic() > deadline:
            said = " ".join(log.read_text(errors="replace")[-500:].split())
            raise Down(f"No head of Ray's comes up here: {said}", remedy="Try it alone: ray start --head --block")
        time.sleep(0.2)
