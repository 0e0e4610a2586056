"""Each request as a span of OpenTelemetry, with spans below it: read, queue, decode, model, explain.

Only where the standard variables name a collector that speaks OTLP/HTTP; without them nothing of OpenTelemetry is
imported. The SDK reads the variables itself. A span says what HTTP's conventions ask for as far as the site may: the
route stands for the path, which can be a link that is a secret, and nothing that a visitor sent is told. FastAPI's own
telemetry, and other packages that instrument its applications, tell all of that, so they aren't used.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final
from urllib.parse import urlsplit

import inflame
from inflame import plugins
from inflame.errors import UserError
from inflame.web.batching import Refused

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_LAST = 2.0  # seconds for what is left when the site stops: a collector that hangs may not keep it

Seconds = tuple[float, float]  # of reading, and of the net


def wanted() -> bool:
    """Whether the variables name a collector. Raises UserError where they ask for what can't be done, MissingExtra
    where the packages aren't there."""
    name = next((name for name in _ENDPOINTS if os.environ.get(name)), "")
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not name or off or os.environ.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return False
    if urlsplit(os.environ[name]).scheme not in ("http", "https"):
        raise UserError(
            f'"{os.environ[name]}" is no address of a collector.',
            where=name,
            remedy=f"export {name}=http://127.0.0.1:4318",
        )
    protocol = next((name for name in _PROTOCOLS if os.environ.get(name)), "")
    if protocol and os.environ[protocol] != "http/protobuf":
        raise UserError(
            f'Spans are sent by http/protobuf, not by "{os.environ[protocol]}".',
            where=protocol,
            remedy=f"export {protocol}=http/protobuf, with the collector's port for HTTP, often 4318.",
        )
    plugins.need(_EXPORTER, "otel", name)
    return True


@dataclass(slots=True)
class Carried:
    """A content that waits in a queue for a request that is traced. Times in nanoseconds; `begun` is 0 while it
    waits."""

    content: bytes
    begun: int = 0
    ended: int = 0
    seconds: Seconds = (0.0, 0.0)


@final
class Spans:
    """Makes spans, and sends them from a thread of its own: a collector that is away or hangs costs spans, and nobody
    an answer. Raises UserError for variables that the SDK refuses."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        own = {"service.name": "inflame", "service.version": inflame.__version__}
        try:
            resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._exporter = OTLPSpanExporter()
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        except ValueError as error:
            raise UserError(
                f"OpenTelemetry can't be set up: {error}", where="OTEL_…", remedy="Correct the variable, or unset it."
            ) from error
        self._tracer = self._provider.get_tracer("inflame.web", inflame.__version__)
        self._parent = TraceContextTextMapPropagator()
        logging.getLogger(_EXPORTER).setLevel(logging.ERROR)  # what is tried again needs no line

    def begin(self, scope: Mapping[str, Any], heads: Mapping[str, str]) -> Request:
        """The span of a request, a part of the trace that its heads name, or of a new one."""
        from opentelemetry.trace import SpanKind

        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        about = {"http.request.method": method, "url.scheme": scope.get("scheme", "http")}
        about["network.protocol.version"] = scope.get("http_version", "1.1")
        context = self._parent.extract(heads)
        span = self._tracer.start_span(_name(method), context, SpanKind.SERVER, about, record_exception=False)
        return Request(self._tracer, span, method)

    def close(self) -> None:
        """Sends what is left, as far as there is time; what is left then is lost, and said to be."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(_LAST)
        if thread.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call] # tries nothing again


@final
class Request:
    """The span of one request, and those below it."""

    def __init__(self, tracer: Tracer, span: Span, method: str) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span, self._method = tracer, span, method
        self._context = set_span_in_context(span)
        self._token = _now.set(self if span.is_recording() else None)

    @property
    def trace(self) -> str:
        """The trace's id."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def below(self, name: str, began: int, ended: int, error: str = "", **about: int) -> None:
        """A stage, from and to a time in nanoseconds."""
        told = {f"inflame.{key}": value for key, value in about.items()}
        span = self._tracer.start_span(name, self._context, attributes=told, start_time=began)
        if error:
            _failed(span, error)
        span.end(ended)

    def end(self, route: str, status: int, reason: str) -> None:
        """With what came of it. `route`: "other" for none of the site's; `status`: 0 where nobody was there for it;
        `reason`: of the problem that it was, if it was one."""
        _now.reset(self._token)
        if route != "other":
            self._span.update_name(_name(self._method, route))
            self._span.set_attributes({"http.route": route, "url.path": route})
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if reason:
            self._span.set_attribute("inflame.problem", reason)
        if status >= 500 or not status:
            _failed(self._span, reason or (str(status) if status else "left"))
        self._span.end()


_now: ContextVar[Request | None] = ContextVar("traced", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What happens within is a span, where the request is traced."""
    if (request := _now.get()) is None:
        yield
        return
    began, error = time.time_ns(), ""
    try:
        yield
    except BaseException as mistake:
        error = type(mistake).__name__
        raise
    finally:
        request.below(name, began, time.time_ns(), error)


async def queued(
    queue: Callable[[Sequence[Any], float], Awaitable[list[Any]]], contents: Sequence[bytes], within: float
) -> list[Any]:
    """What the queue says of the contents; waiting, reading and the net are spans, where the request is traced."""
    if (request := _now.get()) is None:
        return await queue(contents, within)
    carried, began, why = [Carried(content) for content in contents], time.time_ns(), "unanswered"
    try:
        return await queue(carried, within)
    except Refused as refused:
        why = refused.reason
        raise
    finally:
        for begun in sorted({one.begun for one in carried}):
            batch = [one for one in carried if one.begun == begun]
            _tell(request, began, batch[0], len(batch), why)


def timed(answer: Callable[..., Sequence[Any]], things: Sequence[Any]) -> Sequence[Any]:
    """What `answer` says of the things, of which some are traced: these are told when, and how long it took."""
    traced = [one for one in things if isinstance(one, Carried)]
    if not traced:
        return answer(things)
    begun, seconds = time.time_ns(), list[Seconds]()
    try:
        return answer([one.content if isinstance(one, Carried) else one for one in things], seconds.append)
    finally:
        for one in traced:
            one.begun, one.ended = begun, time.time_ns()
            one.seconds = seconds[-1] if seconds else one.seconds


def _tell(request: Request, began: int, one: Carried, items: int, why: str) -> None:
    """The spans of what was asked at once; `why` there is no answer, where there is none. Reading and the net are timed
    where they happen, in another process: they end when the answer is here."""
    now = time.time_ns()
    request.below("queue", began, one.begun or now, "" if one.begun else why, items=items)
    read, net = (int(1e9 * seconds) for seconds in one.seconds)
    if net:
        request.below("decode", one.ended - net - read, one.ended - net, items=items)
        request.below("model", one.ended - net, one.ended, items=items)
    elif one.begun:
        request.below("model", one.begun, one.ended or now, why, items=items)


def _name(method: str, route: str = "") -> str:
    return f"{'HTTP' if method == '_OTHER' else method} {route}".strip()


def _failed(span: Span, error: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))
