"""A server that is told to stop: whoever was accepted is answered, whoever comes then goes elsewhere."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from inflame import host

COUNT = 24
# As `inflame serve` does, with patience for a machine on which much else runs.
SERVE = """
import dataclasses, sys
from pathlib import Path
from inflame.web import server
from inflame.web.settings import Settings

settings = Settings(port=0, deadline=120.0, read_time=120.0, drain=120.0)
socket = server.listen(settings)
settings = dataclasses.replace(settings, port=socket.getsockname()[1])
made = server.server({"fruit": Path(sys.argv[1])}, settings)
print(settings.port, flush=True)
made.run(sockets=[socket])
"""


@pytest.fixture
def site(fruit_bundle: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", SERVE, str(fruit_bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        if process.poll() is None:
            process.kill()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_request_that_was_accepted_is_answered(site: tuple[subprocess.Popen[str], int], photo_set: Path) -> None:
    process, port = site
    content = (photo_set / "apple" / "apple_01.jpg").read_bytes()
    head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: image/jpeg\r\n"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        (model,) = set(host.tree(process.pid)) - {process.pid}

        def pending() -> float:
            return float(re.findall(r"^inflame_pending (\S+)$", client.get("/metrics").text, re.MULTILINE)[0])

        until(lambda: pending() == 0)  # a canary too
        os.kill(model, signal.SIGSTOP)  # all of them are in work when the server is told to stop
        links = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(COUNT)]
        for link in links:
            link.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        until(lambda: pending() >= COUNT)
    process.send_signal(signal.SIGTERM)
    until(lambda: not _listens(port))
    time.sleep(1.5)  # time enough to end, for a server that doesn't wait
    assert process.poll() is None
    os.kill(model, signal.SIGCONT)
    replies = []
    for link in links:
        with link, link.makefile("rb") as reply:
            replies.append(reply.read())
    assert [reply.split(b"\r\n", 1)[0] for reply in replies] == [b"HTTP/1.1 200 OK"] * COUNT
    assert all(b'"label":"apple"' in reply for reply in replies)
    assert process.wait(60) == 0


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
