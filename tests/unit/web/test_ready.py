"""When the site says that requests should come: only while they would be answered, and kept."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inflame.monitor.log import Log
from inflame.web import service
from inflame.web.service import Service

Serve = Callable[..., httpx.Client]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried every quarter of a minute is tried all the time."""
    for name in ("CANARY", "AGAIN"):
        monkeypatch.setattr(service, name, 0.02)


def service_of(client: httpx.Client) -> Service:
    return client.app.state.service  # type: ignore[attr-defined, no-any-return]


def why(client: httpx.Client, status: int, seconds: float = 30) -> str:
    """What /readyz says, as soon as it has that status."""
    end = time.monotonic() + seconds
    while (reply := client.get("/readyz")).status_code != status:
        assert time.monotonic() < end, reply.text
        time.sleep(0.01)
    return str(reply.json()["why"])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def locked(log: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    """Makes the file of the log one that can be read and not written; the connection gives it back when it ends."""
    held: list[sqlite3.Connection] = []

    def hold() -> sqlite3.Connection:
        held.append(sqlite3.connect(log, isolation_level=None, timeout=30))
        held[0].execute("BEGIN IMMEDIATE")
        return held[0]

    yield hold
    for one in held:
        one.close()


def test_a_database_that_takes_no_rows(serve: Serve, log: Path, locked: Callable[[], sqlite3.Connection]) -> None:
    """Although nobody has asked for anything: the site has tried it."""
    client = serve(log=str(log))
    assert why(client, 200) == ""
    end = locked()
    said = why(client, 503)
    assert said.startswith("results can't be kept: ")
    assert str(log) in said
    assert "locked" in said
    end.execute("ROLLBACK")
    assert why(client, 200) == ""


def test_a_database_whose_file_is_for_reading_only(serve: Serve, log: Path, apple: bytes) -> None:
    """By its own header, which holds for root as well: written by a later format than SQLite knows."""
    made = Log(str(log))
    assert made.unwritable() == ""
    made.close()
    with log.open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")
    client = serve(log=str(log))
    assert why(client, 503) == f"results can't be kept: {log} can't be written: attempt to write a readonly database"
    assert client.post("/v1/classify", files={"file": apple}).status_code == 200


def test_a_queue_that_stands_still(serve: Serve, monkeypatch: pytest.MonkeyPatch, apple: bytes) -> None:
    """The process of the model answers, and nobody asks it."""
    monkeypatch.setattr(service, "STALE", 0.5)
    client = serve(workers=1, deadline=0.3)
    assert why(client, 200) == ""
    model: Any = service_of(client).slots["fruit"].current
    gate = threading.Event()
    answer = model.answer

    def stuck(contents: list[bytes]) -> Any:
        gate.wait(60)
        return answer(contents)

    model.answer = stuck
    try:
        assert client.post("/v1/classify", files={"file": apple}).status_code == 504
        assert model.alive()
        assert "no canary was answered" in why(client, 503)
    finally:
        gate.set()
    assert why(client, 200) == ""


def test_a_full_queue_is_no_reason(serve: Serve, apple: bytes) -> None:
    """A site that has much to do isn't taken out of the balance: others would have more."""
    client = serve(room=0)
    site = service_of(client)
    before = site._answered
    end = time.monotonic() + 30
    while site._answered == before:
        assert time.monotonic() < end
        assert client.post("/v1/classify", files={"file": apple}).status_code == 429
    assert why(client, 200) == ""


def test_a_process_that_hangs(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STALE", 0.5)
    client = serve(deadline=0.3)
    assert why(client, 200) == ""
    pid = service_of(client).slots["fruit"].current.worker.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "no canary was answered" in why(client, 503)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert why(client, 200) == ""
