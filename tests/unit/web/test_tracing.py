"""Requests as spans: told to a real collector's door on the loopback, to one that hangs, and to none."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from inflame.errors import MissingExtra, UserError
from inflame.web import tracing
from inflame.web.trials import Plan

Serve = Callable[..., httpx.Client]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def _nobody_sends_on() -> Iterator[None]:
    """After a test no thread still tries to send its spans, and says at some later time that it couldn't."""
    yield
    for thread in threading.enumerate():
        if thread.name == "last spans" or thread.name.startswith("OtelBatch"):
            thread.join(5)
            assert not thread.is_alive(), thread


class Collector:
    """What a collector has been told: `spans` in their order, `raw` the bodies, `resource` what they are of."""

    def __init__(self) -> None:
        self.spans, self.raw, self.resource = list[Span](), list[bytes](), dict[str, str]()
        self.changed = threading.Condition()

    def take(self, body: bytes) -> None:
        told = ExportTraceServiceRequest.FromString(body)
        with self.changed:
            self.raw.append(body)
            for part in told.resource_spans:
                self.resource = {one.key: one.value.string_value for one in part.resource.attributes}
                self.spans += [span for scope in part.scope_spans for span in scope.spans]
            self.changed.notify_all()

    def until(self, count: int) -> list[Span]:
        """The spans, when there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.spans) >= count, 60)
            return list(self.spans)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """One that listens; the site is told of it."""
    made = Collector()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            made.take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield made
        server.shutdown()
        thread.join()


def about(span: Span) -> dict[str, Any]:
    """Its attributes."""
    return {one.key: one.value.int_value or one.value.string_value for one in span.attributes}


def below(spans: list[Span], parent: Span) -> dict[str, Span]:
    return {span.name: span for span in spans if span.parent_span_id == parent.span_id}


def test_a_request_is_a_span_with_its_stages_below(
    serve: Serve, collector: Collector, apple: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inflame.web")
    client = serve()
    heads = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
    files = {"file": ("my-diagnosis.jpg", apple, "image/jpeg")}
    before = time.time_ns()
    reply = client.post("/v1/classify?explain=true&top_k=3", files=files, headers=heads)
    after = time.time_ns()
    assert reply.json()["results"][0]["label"] == "apple"
    spans = collector.until(6)
    (root,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert (root.name, root.trace_id.hex(), root.parent_span_id.hex()) == ("POST /v1/classify", TRACE, PARENT)
    assert about(root) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/classify",
        "network.protocol.version": "1.1",
        "url.path": "/v1/classify",
        "url.scheme": "http",
    }
    stages = below(spans, root)
    assert sorted(stages) == ["decode", "explain", "model", "queue", "read"]
    assert {span.trace_id.hex() for span in stages.values()} == {TRACE}
    assert about(stages["model"]) == {"inflame.items": 1}
    order = [stages[name] for name in ("read", "queue", "decode", "model", "explain")]
    times = [time for span in order for time in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert before <= root.start_time_unix_nano <= times[0]
    assert times[-1] <= root.end_time_unix_nano <= after
    assert stages["model"].end_time_unix_nano > stages["model"].start_time_unix_nano
    assert collector.resource["service.name"] == "inflame"
    assert not [word for raw in collector.raw for word in (b"diagnosis", apple[:64], b"top_k") if word in raw]
    (line,) = [vars(one) for one in caplog.records if vars(one).get("request_id") == "mine"]
    assert line["trace"] == TRACE


def test_without_a_parent_the_line_names_the_trace_of_the_span(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "birds")
    caplog.set_level(logging.INFO, "inflame.web")
    client = serve()
    client.get("/livez", headers={"X-Request-ID": "mine"})
    (span,) = collector.until(1)
    (line,) = [vars(one) for one in caplog.records if vars(one).get("request_id") == "mine"]
    assert line["trace"] == span.trace_id.hex()
    assert not span.parent_span_id
    assert collector.resource["service.name"] == "birds"


def test_what_is_refused_or_secret_is_told_without_its_words(serve: Serve, collector: Collector, apple: bytes) -> None:
    client = serve(token="a-token-of-the-owner")
    client.get("/r/the-secret-of-a-link")
    client.get("/a-token-in-the-wrong-place")
    client.get("/metrics", headers={"Authorization": "Bearer a-token-of-the-owner", "Cookie": "inflame=a-token"})
    client.post("/v1/classify", files={"file": ("token.jpg", apple[:50])})
    client.post("/v1/classify?model=token", files={"file": apple})
    spans = collector.until(9)
    roots = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    told = [(one.name, about(one).get("url.path"), about(one)["http.response.status_code"]) for one in roots]
    assert told == [
        ("GET /r/{name}", "/r/{name}", 404),
        ("GET", None, 404),
        ("GET /metrics", "/metrics", 200),
        ("POST /v1/classify", "/v1/classify", 422),
        ("POST /v1/classify", "/v1/classify", 404),
    ]
    assert [about(one).get("inflame.problem") for one in roots[2:]] == [None, "unprocessable", "not_found"]
    assert {one.status.code for one in roots} == {Status.STATUS_CODE_UNSET}  # they are none of the site's mistakes
    assert not [word for raw in collector.raw for word in (b"secret", b"token") if word in raw]


def test_a_canary_and_a_batch_have_their_stages(
    serve: Serve, collector: Collector, apple: bytes, fruit_bundle: Path
) -> None:
    client = serve({"fruit": fruit_bundle}, plan=Plan(kind="canary", folder=fruit_bundle))
    client.post("/v1/classify", files=[("file", apple)] * 3)
    spans = collector.until(2)
    (root,) = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    stages = [span for span in spans if span.parent_span_id == root.span_id]
    assert {"queue", "decode", "model"} <= {one.name for one in stages}
    assert sum(about(one)["inflame.items"] for one in stages if one.name == "model") == 3


def test_who_waits_in_vain_finds_where(serve: Serve, collector: Collector, apple: bytes) -> None:
    client = serve(deadline=0.0)
    assert client.post("/v1/classify", files={"file": apple}).status_code == 504
    spans = collector.until(3)
    (root,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert about(root)["error.type"] == "late"
    (late,) = [
        span
        for name, span in below(spans, root).items()
        if name in ("queue", "model") and about(span).get("error.type")
    ]
    assert about(late)["error.type"] == "late"


def test_a_collector_that_samples_little_gets_no_stages(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch, apple: bytes
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    client = serve()
    client.post("/v1/classify", files={"file": apple})
    client.get("/livez", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    (span,) = collector.until(1)
    assert span.name == "GET /livez"


# --- a collector that is away --------------------------------------------------------------------


@pytest.fixture(params=["dead", "hanging"])
def away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A collector that isn't there, or takes what it is sent and never answers."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        if request.param == "hanging":
            door.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{door.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
        yield str(request.param)


def test_a_collector_that_is_away_keeps_nobody_waiting(serve: Serve, away: str, apple: bytes) -> None:
    client = serve()
    for _ in range(20):  # more spans than are kept
        assert client.post("/v1/classify", files={"file": apple}).status_code == 200


def test_nor_does_it_keep_the_site_from_ending(away: str) -> None:
    spans = tracing.Spans()
    for _ in range(20):
        spans.begin({"method": "GET"}, {}).end("/livez", 200, "")
    began = time.monotonic()
    spans.close()
    assert time.monotonic() - began < 8  # the SDK itself would wait for 30 s


# --- what isn't asked for ------------------------------------------------------------------------

START = """
import json, sys
from pathlib import Path
from inflame.web import app, settings
made = app.make({"fruit": Path(sys.argv[1])}, settings.Settings())
made.state.service.slots["fruit"].close()
made.state.service.store.close()
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "requests")
print(json.dumps([name for name in sys.modules if name.startswith(heavy)]))
"""


def test_nothing_is_imported_where_nobody_asks(fruit_bundle: Path) -> None:
    """FastAPI brings the small package of the interface, and nothing that makes or sends spans."""
    done = subprocess.run([sys.executable, "-c", START, str(fruit_bundle)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_it_is_off(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert not tracing.wanted()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318"}, "no address"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "max_queue_size"),
    ],
)
def test_what_cannot_be_done_is_refused(given: dict[str, str], word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=word):
        tracing.wanted() and tracing.Spans()


def test_without_the_extra_the_start_says_what_to_install(
    fruit_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = (
        "import sys; sys.modules['opentelemetry.exporter'] = None; from inflame.cli.main import main; sys.exit(main())"
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    command = [sys.executable, "-c", begin, "serve", str(fruit_bundle), "--port", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'inflame[otel]'" in done.stderr
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_extra_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    for name in [one for one in sys.modules if one.startswith("opentelemetry.exporter.otlp")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        tracing.wanted()


def test_what_fastapi_would_tell_by_itself_is_not_told(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names whole paths, some of which are secrets."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    client = serve()
    client.get("/r/the-secret-of-a-link")
    client.get("/livez")
    assert [span.name for span in collector.until(2)] == ["GET /r/{name}", "GET /livez"]
    assert not [raw for raw in collector.raw if b"secret" in raw]
