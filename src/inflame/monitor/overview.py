"""What happened of late, in a few numbers for a page: traffic, latency, classes, versions, windows, measured accuracy.

Sums are made by the database, span by span, so that a long log costs no more memory than a short one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.expected import Expected
from inflame.monitor import checking, gather
from inflame.monitor.drift import LEAST, QUIET, TOLERANCE, Window, judge
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log, State
from inflame.monitor.performance import Measured, measured
from inflame.records import Record

SPANS = 48  # that the time is divided into
CLASSES = 6  # that are followed, the most frequent first
RECENT = 200  # answers of the latest window
RANG = 20  # alarms that are listed

# Latencies are counted in steps: of 1 ms up to 0.2 s, of 20 ms up to 10 s, then of 1 s.
_FINE, _COARSE = 0.2, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span(Record):
    """A stretch of time: when it began (seconds since 1970), how many answers, how many of them unknown, the median and
    the 95th percentile of their latency in seconds (None without answers), and answers by class."""

    begin: float
    answers: int
    unknown: int
    median: float | None
    slow: float | None
    classes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(Record):
    """A version of the model that answered in that time."""

    version: str
    name: str
    answers: int
    first: float
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview(Record):
    """What happened since a time. `classes` are the most frequent ones; `windows` those that were checked (see
    `checking.history`), `alarms` those of them that rang, the latest first; `window` is the latest RECENT answers
    against what the model expects (None: too few of them, or it expects nothing), with its most `unlike` entries."""

    model: str
    since: float
    until: float
    answers: int
    spans: tuple[Span, ...]
    classes: tuple[str, ...]
    versions: tuple[Version, ...]
    windows: tuple[dict[str, Any], ...]
    alarms: tuple[dict[str, Any], ...]
    window: Window | None
    unlike: tuple[Entry, ...]
    measured: Measured
    state: State

    def to_json(self) -> dict[str, Any]:
        """Without the entries, which are told by name."""
        plain = {
            name: getattr(self, name) for name in ("model", "since", "until", "answers", "classes", "windows", "alarms")
        }
        return {
            **plain,
            "spans": [span.to_json() for span in self.spans],
            "versions": [version.to_json() for version in self.versions],
            "window": self.window.to_json() if self.window is not None else None,
            "unlike": [entry.id for entry in self.unlike],
            "measured": self.measured.to_json(),
            "log": self.state.to_json(),
        }


def overview(
    log: Log,
    model: str,
    expected: Expected | None = None,
    *,
    seconds: float,
    until: float | None = None,
    sets: Callable[[Any], NDArray[np.bool_]] | None = None,
    tolerance: float = TOLERANCE,
) -> Overview:
    """What happened in the last `seconds`. sets: the conformal sets of probabilities [N, K], as masks. tolerance: see
    `judge`."""
    end = time.time() if until is None else until
    begin = end - seconds
    spans = _spans(log, model, begin, end)
    history = tuple(one for one in checking.history(log, model) if one["to"] >= begin)
    window, unlike = _latest(log, model, expected, tolerance)
    totals: dict[str, int] = {}
    for span in spans:
        for name, count in span.classes.items():
            totals[name] = totals.get(name, 0) + count
    return Overview(
        model=model,
        since=begin,
        until=end,
        answers=sum(span.answers for span in spans),
        spans=spans,
        classes=tuple(sorted(totals, key=lambda name: -totals[name])[:CLASSES]),
        versions=_versions(log, begin, end),
        windows=history,
        alarms=tuple(one for one in reversed(history) if one["level"] != QUIET)[:RANG],
        window=window,
        unlike=unlike,
        measured=measured(log.verdicts(), log.model, sets),
        state=log.state(),
    )


# --- over time -------------------------------------------------------------------------------------------------


def _spans(log: Log, model: str, begin: float, end: float) -> tuple[Span, ...]:
    width = (end - begin) / SPANS
    rows = log.query(
        "SELECT CAST(FLOOR((time - ?) / ?) AS INTEGER), label, count(*), sum(1 - known) FROM predictions "
        "WHERE model = ? AND time >= ? AND time < ? GROUP BY 1, 2",
        [begin, width, model, begin, end],
    )
    counts: list[dict[str, int]] = [{} for _ in range(SPANS)]
    unknown = [0] * SPANS
    for place, label, count, strange in rows:
        at = min(int(place), SPANS - 1)
        counts[at][label] = counts[at].get(label, 0) + int(count)
        unknown[at] += int(strange)
    slow = _latencies(log, model, begin, end, width)
    return tuple(
        Span(
            begin=begin + at * width,
            answers=sum(counts[at].values()),
            unknown=unknown[at],
            median=_quantile(slow[at], 0.5),
            slow=_quantile(slow[at], 0.95),
            classes=counts[at],
        )
        for at in range(SPANS)
    )


def _latencies(log: Log, model: str, begin: float, end: float, width: float) -> list[list[tuple[float, int]]]:
    """How many answers of each span took how long, in steps."""
    step = f"CASE WHEN latency < {_FINE} THEN 0.001 WHEN latency < {_COARSE} THEN 0.02 ELSE 1.0 END"
    rows = log.query(
        f"SELECT CAST(FLOOR((time - ?) / ?) AS INTEGER), FLOOR(latency / ({step})) * ({step}), count(*) "
        "FROM predictions WHERE model = ? AND time >= ? AND time < ? GROUP BY 1, 2 ORDER BY 1, 2",
        [begin, width, model, begin, end],
    )
    found: list[list[tuple[float, int]]] = [[] for _ in range(SPANS)]
    for place, seconds, count in rows:
        found[min(int(place), SPANS - 1)].append((float(seconds), int(count)))
    return found


def _quantile(counted: Sequence[tuple[float, int]], share: float) -> float | None:
    wanted, sofar = share * sum(count for _, count in counted), 0
    for seconds, count in counted:
        sofar += count
        if sofar >= wanted:
            return seconds
    return None


def _versions(log: Log, begin: float, end: float) -> tuple[Version, ...]:
    rows = log.query(
        "SELECT model, count(*), min(time), max(time) FROM predictions WHERE time >= ? AND time < ? "
        "GROUP BY model ORDER BY 4 DESC",
        [begin, end],
    )
    return tuple(
        Version(
            version=row[0], name=(log.model(row[0]) or {}).get("name", ""), answers=row[1], first=row[2], last=row[3]
        )
        for row in rows
    )


def _latest(
    log: Log, model: str, expected: Expected | None, tolerance: float
) -> tuple[Window | None, tuple[Entry, ...]]:
    if expected is None:
        return None, ()
    entries = [entry for entry in log.last(RECENT, model) if gather.fits(expected, entry)]
    if len(entries) < LEAST:
        return None, ()
    sample, inputs = gather.sample(entries, len(expected.names)), [entry.input for entry in entries]
    window = judge(expected, sample, inputs, tolerance=tolerance)
    return window, tuple(entries[row] for row in window.unlike)
