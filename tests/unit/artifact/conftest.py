"""A web server on this machine that misbehaves on purpose, and a real S3 server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from fsspec import AbstractFileSystem

from inflame.artifact.fetch import Patience

HASTY = Patience(connect=2, silence=0.3, tries=2, pause=0.005)


@pytest.fixture(autouse=True)
def _no_file_system_of_another_test() -> None:
    """fsspec keeps file systems by their arguments; where a server stands comes from the environment."""
    waiting = [AbstractFileSystem]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ != "MemoryFileSystem":
            kind.clear_instance_cache()
        waiting += kind.__subclasses__()


class Web:
    """Files by path, and how to serve them: `?cut=1000` closes after 1,000 bytes, and so on (see `_Handler`)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.tag = '"one"'
        self.asked: list[tuple[str, str | None]] = []  # (path, Range header)
        self.count: dict[str, int] = {}
        self.release = threading.Event()

    def url(self, path: str) -> str:
        return self.address + path

    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web: Web = self.server.web  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        how = {key: values[0] for key, values in parse_qs(parts.query).items()}
        asked = self.headers.get("Range")
        web.asked.append((self.path, asked))
        number = web.count[self.path] = web.count.get(self.path, 0) + 1
        data = web.files.get(unquote(parts.path))
        if data is None or ("status" in how and number <= int(how.get("times", "99"))):
            self.send_error(int(how.get("status", 404)))
            return
        start = 0
        fresh = self.headers.get("If-Range") in (None, web.tag)
        if asked and fresh and "norange" not in how:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            lie = int(how.get("shift", 0))
            self.send_header("Content-Range", f"bytes {start + lie}-{len(data) - 1}/{len(data)}")
        if "chunked" in how:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            half = b"%x\r\n%s\r\n" % (len(data) // 2, data[: len(data) // 2])
            rest = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data) - len(data) // 2, data[len(data) // 2 :])
            self.wfile.write(half if number <= int(how["chunked"]) else half + rest)
            self.close_connection = True
            return
        if "untagged" not in how:
            self.send_header("ETag", web.tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        self._body(web, data[start:], how)

    def _body(self, web: Web, data: bytes, how: dict[str, str]) -> None:
        if "slow" in how:
            for at in range(0, len(data), 1000):
                self.wfile.write(data[at : at + 1000])
                time.sleep(0.005)
            return
        self.wfile.write(data[: int(how["cut"])] if "cut" in how else data)
        self.wfile.flush()
        if "stall" in how:
            web.release.wait(5)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:  # a client that went away in the middle is what some tests do
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.web = Web(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.web  # type: ignore[attr-defined]
    finally:
        server.web.release.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Patience:
    """Patience for tests; also what `download` has when none is given."""
    from inflame.artifact import fetch

    monkeypatch.setitem(fetch.download.__kwdefaults__, "patience", HASTY)
    return HASTY


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a real S3 server on this machine."""
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()
