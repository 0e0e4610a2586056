"""Runs the site: uvicorn with an end to its patience, one line of JSON a request on stderr, a graceful stop."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from inflame.errors import StorageError
from inflame.web.app import make
from inflame.web.served import Served
from inflame.web.settings import Settings
from inflame.web.slots import Where
from inflame.web.trials import Plan

_MOMENT = 0.3  # seconds
_PARTS = ("other", "/examples/{model}/{number}")  # routes of which a page asks many
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _told(record: logging.LogRecord) -> dict[str, Any]:
    """What was given beside the message; others, Ray for one, mark every record of a process with their own."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and not key.startswith("_")}


class _Json(logging.Formatter):
    """One line a record; nothing of a body, a name or a header is ever in it."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname.lower()}
        told |= {"event": record.getMessage(), **_told(record)}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class _Short(logging.Formatter):
    """The same for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        told = _told(record)
        words = (
            record.getMessage() if record.levelno < logging.WARNING else f"{record.levelname}: {record.getMessage()}"
        )
        if words == "request":
            words = "{method} {route} {status}  {ms:.0f} ms".format(**told)
        else:
            plain = {key: value for key, value in told.items() if isinstance(value, str | int | float)}
            words += "".join(f"  {value}" if key == words else f"  {key} {value}" for key, value in plain.items())
        end = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{self.formatTime(record, '%H:%M:%S')}  {words}{end}"


def _impatient(protocol: type[asyncio.Protocol], seconds: float) -> type[asyncio.Protocol]:
    """The protocol, closing connections whose first head does not come in time: uvicorn itself waits for ever. What is
    done for a client that has gone ends, where uvicorn itself would bring it to its end."""

    class Impatient(protocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._patience = self.loop.call_later(seconds, self._lost_patience)

        def connection_lost(self, exc: Exception | None) -> None:
            self._patience.cancel()
            super().connection_lost(exc)
            if self.cycle is not None and not self.cycle.response_complete:
                _leave(self.cycle.scope.get("state", {}))

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:  # a head is complete
                self._patience.cancel()
            elif self._patience.cancelled() and (self.cycle is None or self.cycle.response_complete):
                # a further head has begun
                self._patience = self.loop.call_later(seconds, self._lost_patience)

        def on_response_complete(self) -> None:
            _forget(self.cycle)
            super().on_response_complete()

        def _lost_patience(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Impatient


def _forget(cycle: Any) -> None:
    """What came of a body that was refused unread isn't kept until the next request comes."""
    if cycle.response_complete:
        cycle.body = bytearray()


def _leave(state: dict[str, Any]) -> None:
    """Ends the request of that state; see Guard."""
    state["gone"] = True
    if (task := state.get("task")) is not None:
        task.cancel()


def protocol(seconds: float) -> type[asyncio.Protocol]:
    """The quickest that is installed, with its patience."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return _impatient(H11Protocol, seconds)
    return _impatient(HttpToolsProtocol, seconds)


def listen(settings: Settings) -> socket.socket:
    """The socket (port 0: any that is free), at which who comes waits from now on until it is served. A port that is
    taken: StorageError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host.strip("[]"), settings.port))
        made.listen()
    except OSError as error:
        made.close()
        raise StorageError(
            f"Port {settings.port} can't be used: {error.strerror}.",
            where=f"{settings.host}:{settings.port}",
            remedy="Give another: --port 8123",
        ) from error
    return made


def server(
    folders: Mapping[str, Where],
    settings: Settings,
    begun: Mapping[str, Served] = MappingProxyType({}),
    plan: Plan | None = None,
) -> uvicorn.Server:
    """What serves these bundles, not yet running: `run(sockets=[…])`. `begun`: models that are being loaded already;
    `plan`: what is tried beside the first. Raises BundleError."""
    app = make(folders, settings, begun, plan)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings.head_time),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.drain) + 1,
        h11_max_incomplete_event_size=64 * 1024,
        lifespan="on",
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Says first that it stops, so that balancers look elsewhere and streams end; closes connections a moment later."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end it well: uvicorn itself would raise them once more when all is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {which: signal.signal(which, self.handle_exit) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Nothing new is accepted; what was sent already is still read and answered."""
        self.config.app.state.service.draining = True  # type: ignore[union-attr]
        for one in self.servers:
            one.close()
        await asyncio.sleep(_MOMENT)
        await super().shutdown(sockets)


def log_to_stderr() -> None:
    """Structured lines of the site, and only its own; in a terminal short ones, and none of the pages' parts."""
    handler, seen = logging.StreamHandler(sys.stderr), sys.stderr.isatty()
    handler.setFormatter(_Short() if seen else _Json())
    if seen:
        handler.addFilter(lambda record: not (_told(record).get("route") in _PARTS and _told(record)["status"] < 400))
    levels = {"inflame.web": logging.INFO, "inflame.audit": logging.INFO}
    levels |= {"uvicorn.error": logging.WARNING, "opentelemetry": logging.WARNING}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
