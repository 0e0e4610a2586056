"""Going through what is new in the log, window by window, and remembering where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.expected import Expected
from inflame.monitor import gather
from inflame.monitor.drift import QUIET, RISK, TOLERANCE, Watch, Window, judge
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log
from inflame.records import Record

HISTORY = 500  # windows that are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Record):
    """What a check found: the level of the worst new window, that window (None: there was none) and its most unlike
    entries; `windows` a line for each new one. `foreign`: entries with other classes or statistics."""

    level: str
    new: int
    foreign: int
    window: Window | None = None
    unlike: tuple[Entry, ...] = ()
    windows: tuple[dict[str, Any], ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Without the entries."""
        return {"level": self.level, "new": self.new, "foreign": self.foreign, "windows": list(self.windows)}


def check(
    log: Log,
    expected: Expected,
    model: str,
    *,
    size: int,
    anew: bool = False,
    least: int = 10,
    tolerance: float = TOLERANCE,
) -> Checked:
    """Checks the windows that are whole since the last check. What doesn't fill a window waits for the next check,
    unless there was none before. anew: from the beginning of the log. tolerance: see `judge`."""
    key = f"watch:{model}"
    state = {} if anew else log.noted(key, {})
    watch = Watch.from_json(state.get("watch", {}))
    after, history = int(state.get("after", 0)), list(state.get("windows", []))
    new, foreign = 0, 0
    lines: list[dict[str, Any]] = []
    worst: tuple[str, Window, tuple[Entry, ...]] | None = None
    for group in gather.windows(log.walk(model=model, after=after), size):
        good = [entry for entry in group if gather.fits(expected, entry)]
        foreign += len(group) - len(good)
        new += len(good)
        first = not history and not lines
        if len(good) < least or (len(group) < size and not first):
            break
        sample, inputs = gather.sample(good, len(expected.names)), [entry.input for entry in good]
        window = judge(expected, sample, inputs, tolerance=tolerance)
        watch, level = watch.after(window)
        lines.append(line(good[0].time, good[-1].time, [entry.latency for entry in good], window, level))
        after = log.place_of(group[-1].id)
        if worst is None or rank(level) >= rank(worst[0]):
            worst = (level, window, tuple(good[row] for row in window.unlike))
    log.note(key, {"after": after, "watch": watch.to_json(), "windows": [*history, *lines][-HISTORY:]})
    if worst is None:
        return Checked(level=QUIET, new=new, foreign=foreign)
    return Checked(level=worst[0], new=new, foreign=foreign, window=worst[1], unlike=worst[2], windows=tuple(lines))


def history(log: Log, model: str) -> list[dict[str, Any]]:
    """A line for each window that was checked, the oldest first: {"from", "to", "items", "level", "accuracy", …}."""
    return list(log.noted(f"watch:{model}", {}).get("windows", []))


def line(
    begin: float, end: float, latencies: Sequence[float] | NDArray[np.float64], window: Window, level: str
) -> dict[str, Any]:
    """What is remembered of a window: from when to when, the latency (its median, and what 95 of 100 stay below), what
    was found."""
    guess = window.estimate
    middle, slow = np.quantile(latencies, [0.5, 0.95])
    return {
        "from": begin,
        "to": end,
        "checked": time.time(),
        "items": window.items,
        "level": level,
        "p": window.p,
        "unknown": window.unknown,
        "accuracy": guess.to_json() if guess is not None else None,
        "findings": [one.name for one in window.findings],
        "latency": float(middle),
        "slow": float(slow),
    }


def rank(level: str) -> int:
    """How bad a level is."""
    return {QUIET: 0, RISK: 2}.get(level, 1)
