"""Alarms arrive once, at a real webhook and a real SMTP server of this machine."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from inflame.errors import NetworkError, UserError
from inflame.monitor import alerts
from inflame.monitor.drift import CHANGED, QUIET, RISK
from inflame.monitor.log import Log

FACTS = {
    "model": "owls",
    "items": 200,
    "accuracy": "about 0.7",
    "advice": "Label 100 of them.",
    "findings": ["more noise"],
}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(str(tmp_path / "log.db"))


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict]]]:
    heard: list[dict] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/secret-path", heard
        server.shutdown()
        thread.join()


@pytest.fixture
def post() -> Iterator[tuple[int, list[str]]]:
    """A server that speaks enough SMTP for one letter, without TLS."""
    letters: list[str] = []

    class Office(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            inside, lines = False, []
            for line in self.rfile:
                if inside and line == b".\r\n":
                    inside = False
                    letters.append(b"".join(lines).decode())
                    self.wfile.write(b"250 ok\r\n")
                elif inside:
                    lines.append(line)
                elif line.upper().startswith(b"DATA"):
                    inside = True
                    self.wfile.write(b"354 go\r\n")
                elif line.upper().startswith(b"QUIT"):
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 ok\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Office) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], letters
        server.shutdown()
        thread.join()


def test_once_when_it_rises_and_once_when_it_is_over(log: Log, hook: tuple[str, list[dict]]) -> None:
    url, heard = hook
    for level in (QUIET, CHANGED, RISK, RISK, CHANGED, QUIET, RISK):
        alerts.tell(log, "m1", level, FACTS, [url])
    assert [one["level"] for one in heard] == [RISK, CHANGED, RISK]
    assert "accuracy at risk for owls" in heard[0]["text"]
    assert "more noise" in heard[0]["text"]
    alerts.tell(log, "m2", RISK, FACTS, [url])  # another model is another matter
    assert len(heard) == 4


def test_what_can_t_be_reached_is_told_the_next_time(log: Log, hook: tuple[str, list[dict]]) -> None:
    url, heard = hook
    with pytest.raises(NetworkError, match="could not be sent"):
        alerts.tell(log, "m", RISK, FACTS, ["http://127.0.0.1:9/away", url])
    assert len(heard) == 1
    with pytest.raises(NetworkError):
        alerts.tell(log, "m", RISK, FACTS, ["http://127.0.0.1:9/away", url])
    assert len(heard) == 1


def test_by_mail(log: Log, post: tuple[int, list[str]]) -> None:
    port, letters = post
    assert alerts.tell(log, "m", RISK, FACTS, [f"smtp://127.0.0.1:{port}/me@example.org"])
    [letter] = letters
    assert "To: me@example.org" in letter
    assert "Label 100 of them" in letter
    with pytest.raises(NetworkError, match="no TLS"):
        alerts.tell(log, "m2", RISK, FACTS, [f"smtp://ann:hush@127.0.0.1:{port}/me@example.org"])
    assert len(letters) == 1


def test_no_place(log: Log) -> None:
    with pytest.raises(UserError, match="no place"):
        alerts.tell(log, "m", RISK, FACTS, ["carrier-pigeon://me"])
