"""What happened of late, counted by the database: the same in SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import numpy as np
import pytest

from inflame.monitor import page
from inflame.monitor.entries import Entry, Verdict
from inflame.monitor.log import Log
from inflame.monitor.overview import SPANS, overview

NOW = 1_790_000_000.0
HOUR = 3_600.0


def entry(number: int, ago: float, **more: object) -> Entry:
    values = {
        "model": "m1",
        "input": str(number),
        "label": "owl" if number % 3 else "cat",
        "probability": 0.75,
        "probabilities": np.array([0.75, 0.25]),
        "embedding": np.ones(3),
        "seen": np.array([number / 100, np.nan]),
        "kind": "JPEG" if number % 2 else "PNG",
        "latency": 0.010 + 0.001 * (number % 10),
        "source": "api",
        "time": NOW - ago,
        "id": f"{number:032x}",
    }
    return Entry(**{**values, **more})


@pytest.fixture
def log(place: str) -> Log:
    found = Log(place)
    found.register("m1", ["owl", "cat"], ["brightness", "quality"], "birds")
    return found


def test_time_is_divided_and_counted(log: Log) -> None:
    log.add([entry(number, ago=HOUR * (number % 24) + 1) for number in range(240)])
    log.add([entry(900, ago=30 * HOUR), entry(901, ago=1, model="m2"), entry(902, ago=-HOUR)])
    found = overview(log, "m1", seconds=24 * HOUR, until=NOW)
    assert (len(found.spans), found.answers) == (SPANS, 240)
    assert sum(span.answers for span in found.spans[::2]) + sum(span.answers for span in found.spans[1::2]) == 240
    assert {span.answers for span in found.spans} == {0, 10}
    busy = next(span for span in found.spans if span.answers)
    assert busy.median is not None
    assert busy.slow is not None
    assert 0.009 <= busy.median <= busy.slow <= 0.0201
    assert found.classes == ("owl", "cat")
    assert {version.version: version.answers for version in found.versions} == {"m1": 240, "m2": 1}
    assert found.window is None


def test_slow_answers_are_counted_in_coarse_steps(log: Log) -> None:
    log.add([entry(number, ago=1, latency=value) for number, value in enumerate((0.0, 0.15, 3.333, 75.9))])
    span = overview(log, "m1", seconds=HOUR, until=NOW).spans[-1]
    assert span.median == pytest.approx(0.15, abs=0.0011)
    assert span.slow == 75.0


def test_measured_accuracy_by_slice_and_coverage(log: Log) -> None:
    log.add([entry(number, ago=1) for number in range(90)])
    for number in range(90):
        answer = f"{number:032x}"
        wrong = number >= 60  # the brightest ones
        said = "label" if wrong else "right"
        other = "cat" if number % 3 else "owl"
        log.verdict(Verdict(answer=answer, said=said, label=other if wrong else "", who="ann", asked=True))
    found = overview(log, "m1", seconds=HOUR, until=NOW, sets=lambda p: np.asarray(p) >= 0.5).measured
    assert (found.asked.k, found.asked.n) == (60, 90)
    assert {name: rate.n for name, rate in found.by_slice.items() if ":" not in name} == {
        "PNG": 45, "JPEG": 45, "from api": 90, "known to the model": 90,
    }  # fmt: skip
    thirds = {name: rate.value for name, rate in found.by_slice.items() if name.startswith("brightness")}
    assert thirds == {"brightness: low": 1.0, "brightness: middle": 1.0, "brightness: high": 0.0}
    assert not any(name.startswith("quality") for name in found.by_slice)  # never known
    assert found.covered is not None
    owls = sum(1 for number in range(90) if (number % 3 != 0) == (number < 60))  # truth is owl, which the set holds
    assert (found.covered.k, found.covered.n) == (owls, 90)


def test_the_page_is_self_contained_and_escapes(log: Log) -> None:
    evil = "<img src=x onerror=alert(1)>"
    log.add([entry(number, ago=HOUR * (number % 5), label=evil) for number in range(30)])
    text = page.part(overview(log, "m1", seconds=24 * HOUR, until=NOW), [])
    assert evil not in text
    assert "&lt;img src=x" in text
    assert "style=" not in text
    assert text.count("<svg") == 4
    assert "http" not in text
