"""A real PostgreSQL server, for the tests that are the same for both databases."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a server of this test run's own; skips where PostgreSQL isn't installed."""
    with _started() as (url, _):
        yield url


@pytest.fixture
def own_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of a server of this test alone, and what stops it."""
    with _started() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a log of this test alone can be: in a file, and on a server."""
    if request.param == "sqlite":
        return str(tmp_path / "log.db")
    url: str = request.getfixturevalue("url")
    return url


@pytest.fixture
def url(server: str) -> str:
    """A database of this test alone, on the server."""
    return _database(server)


@pytest.fixture
def another_url(server: str) -> str:
    """A second one."""
    return _database(server)


def _database(server: str) -> str:
    import psycopg

    name = f"test_{os.urandom(6).hex()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres", f"/{name}")


@contextmanager
def _started() -> Iterator[tuple[str, Callable[[], None]]]:
    binaries = _binaries()
    if binaries is None:
        pytest.skip("needs PostgreSQL's programs (initdb, postgres)")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    who = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        who = {"user": "postgres", "group": "postgres"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(
        [binaries / "initdb", "-D", folder / "data", "-U", "inflame", "-A", "trust", "--no-sync"],
        check=True, **quiet, **who,
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", "", "-c", "fsync=off"], **quiet, **who
    )

    def stop() -> None:
        process.send_signal(signal.SIGINT)  # the polite signal waits for all clients
        process.wait()

    url = f"postgresql://inflame@127.0.0.1:{port}/postgres"
    try:
        _wait(url)
        yield url, stop
    finally:
        stop()
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    return found[0].parent if found else Path(on_path).parent if on_path else None


def _wait(url: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    for _ in range(100):
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("the server didn't start")
