"""A small HTTP server in front of a control plane, which can also answer as networks and providers do on a bad day."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import parse_qsl, urlsplit

# What can go wrong. `cut`: the work is done, but its answer gets lost; `lost`: the request does. The others: refusals.
FAULTS = ("cut", "lost", "throttled", "broken", "expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: `path` without the query, names of `headers` in small letters."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; nothing is an empty object."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said to it; a `body` that is no bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


class Control(Protocol):
    """A control plane."""

    def answer(self, asked: Asked) -> Answer:
        """What the provider would say, and do."""

    def refuse(self, fault: str) -> Answer:
        """How the provider says that it is `throttled`, `broken`, or that the token has `expired`."""

    def close(self) -> None:
        """Ends what still runs."""


class Server:
    """A control plane at `url`, from `with` to its end. `faults`: what goes wrong with the next requests, one each;
    "" stands for nothing. `certificate`: a file with key and certificate, for https."""

    def __init__(self, control: Control, *, port: int = 0, certificate: str = "") -> None:
        self.control = control
        self.faults: deque[str] = deque()
        self.asked: list[str] = []  # `METHOD /path` of each request
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.control.close()  # what still runs may have something to say
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def respond(self, asked: Asked) -> Answer | None:
        """The answer, or None where the connection just ends."""
        self.asked.append(f"{asked.method} {asked.path}")
        fault = self.faults.popleft() if self.faults else ""
        if fault == "lost":
            return None
        if fault and fault != "cut":
            return self.control.refuse(fault)
        answer = self.control.answer(asked)
        return None if fault == "cut" else answer


def ports(count: int) -> list[int]:
    """So many ports of this machine that nobody listens at."""
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def handle(self) -> None:
            with suppress(ConnectionError):  # who asks may be killed meanwhile
                BaseHTTPRequestHandler.handle(self)

        def _any(self) -> None:
            place = urlsplit(self.path)
            answer = server.respond(
                Asked(
                    method=self.command,
                    path=place.path,
                    query=dict(parse_qsl(place.query, keep_blank_values=True)),
                    headers={name.lower(): value for name, value in self.headers.items()},
                    body=self._body(),
                )
            )
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            plain = isinstance(answer.body, bytes)
            content = answer.body if plain else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _any  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: `Server.asked` knows."""

    return Handler
