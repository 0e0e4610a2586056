"""What visitors say of the chat's answers: whether they helped, and why. Kept with the other verdicts, in the log."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from dataclasses import dataclass, replace

from inflame.monitor.log import Log
from inflame.records import Record

VERDICTS = ("good", "bad")
LETTERS = 300  # of a reason
MOST = 500  # that are kept: the latest
_KEY = "chat/"

# What can be chosen for a reason; anything else is typed.
REASONS = {
    "good": ("It answers my question.", "I learned something."),
    "bad": ("It doesn't answer my question.", "It is wrong.", "I can't follow it."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumb(Record):
    """One visitor's word. `model`: which the talk was about; neither the question nor the answer is kept."""

    verdict: str
    reason: str = ""
    model: str = ""
    time: float = 0.0


def keep(log: Log, thumb: Thumb) -> str:
    """Keeps it, in the place of the oldest where there are many: its name, for a reason that comes later."""
    known = _all(log)
    oldest = min(known, key=lambda name: known[name].time) if len(known) >= MOST else ""
    name = oldest or secrets.token_urlsafe(16)
    log.note(_KEY + name, replace(thumb, time=time.time()).to_json())
    return name


def explain(log: Log, name: str, reason: str) -> bool:
    """Adds the reason; whether there is such a word."""
    told = log.noted(_KEY + name)
    if told is not None:
        log.note(_KEY + name, replace(Thumb.from_json(told), reason=reason).to_json())
    return told is not None


def told(log: Log) -> tuple[dict[str, int], list[Thumb]]:
    """How many of each verdict are kept, and those with a reason, the latest first."""
    found = sorted(_all(log).values(), key=lambda one: -one.time)
    return dict(Counter(one.verdict for one in found)), [one for one in found if one.reason]


def _all(log: Log) -> dict[str, Thumb]:
    rows = log.query("SELECT key, value FROM notes WHERE key LIKE ?", [f"{_KEY}%"])
    return {key.removeprefix(_KEY): Thumb.from_json(json.loads(value)) for key, value in rows}
