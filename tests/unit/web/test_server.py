"""What the server tells those who started it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from inflame.web import server


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """stderr of the given kind, to which the site logs."""
    factory = logging.getLogRecordFactory()

    def marked(*words: Any, **more: Any) -> logging.LogRecord:
        """As Ray does to every record of a process."""
        record = factory(*words, **more)
        record._ray_timestamp_ns = 1
        return record

    logging.setLogRecordFactory(marked)
    loggers = [logging.getLogger(name) for name in ("inflame.web", "uvicorn.error")]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    stream: io.StringIO = request.param()
    monkeypatch.setattr(sys, "stderr", stream)
    server.log_to_stderr()
    yield stream
    logging.setLogRecordFactory(factory)
    for one, handlers, propagate, level in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def happen() -> None:
    log = logging.getLogger("inflame.web")
    for route, status in (("/v1/classify", 200), ("other", 200), ("other", 404), ("/examples/{model}/{number}", 200)):
        log.info("request", extra={"method": "GET", "route": route, "status": status, "ms": 20.4, "request_id": "5f"})
    log.info("model", extra={"model": "birds", "version": "42104b1962f2", "runs": {"runtime": "onnxruntime"}})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("mistake", extra={"request_id": "5f"})


@pytest.mark.parametrize("told", [Terminal], indirect=True)
def test_a_person_gets_short_lines_and_not_every_part_of_a_page(told: io.StringIO) -> None:
    happen()
    *lines, last = [line[10:] for line in told.getvalue().splitlines() if line[:2].isdigit()]
    assert lines == [
        "GET /v1/classify 200  20 ms",
        "GET other 404  20 ms",
        "model  birds  version 42104b1962f2",
    ]
    assert last == "ERROR: mistake  request_id 5f"
    assert told.getvalue().endswith("ValueError: no\n")


@pytest.mark.parametrize("told", [io.StringIO], indirect=True)
def test_a_program_gets_json_of_everything(told: io.StringIO) -> None:
    happen()
    rows = [json.loads(line) for line in told.getvalue().splitlines()]
    assert [row["event"] for row in rows] == ["request"] * 4 + ["model", "mistake"]
    assert rows[0] | {"time": ""} == {
        "time": "",
        "level": "info",
        "event": "request",
        "method": "GET",
        "route": "/v1/classify",
        "status": 200,
        "ms": 20.4,
        "request_id": "5f",
    }
    assert rows[-1]["error"].endswith("ValueError: no")
