"""Who is at work on a job: numbered attempts in its output folder, each begun by one machine only.

    attempts/001.json        who has begun it; made in one step, so that one of several gets it
    attempts/001.beat.json   written anew every few seconds while it lives
    attempts/001.end.json    how it ended
    attempts/001.stop        somebody wants it to end

A machine may vanish without a word: an attempt whose beat stands still for a while is over. That is judged by looking
twice, because clocks of machines differ.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inflame import store
from inflame.errors import InflameError
from inflame.infra.command import EXIT, LOG, TRIED
from inflame.records import dumps

BEAT = float(os.environ.get("INFLAME_BEAT", "10"))  # seconds between two signs of life
SILENT = 4  # beats after which nobody is there
_NUMBER = re.compile(r"^(\d{3,})\.json$")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the output folder of a job says. `attempt`: the newest one, 0 where none has begun; `state` is that of
    `Job`, empty where nothing is known; `beat`: the last sign of life, as it stands there."""

    state: str
    attempt: int = 0
    code: int | None = None
    reason: str = ""
    seconds: float = 0.0
    cost: float | None = None
    beat: str = field(default="", repr=False)


def read(output: str) -> State:
    """What is to be seen now. A job that is called running may have vanished: its beat tells, looked at twice."""
    numbers, names = _numbers(output)
    newest = max(numbers, default=0)
    told = _json(store.join(output, EXIT)) if store.exists(store.join(output, EXIT)) else {}
    if told and int(told.get("attempt", 0)) >= newest:
        known = {key: told[key] for key in ("code", "reason", "seconds", "cost") if key in told}
        return State(state=str(told.get("state", "failed")), attempt=newest, **known)
    if not newest:
        return State(state="")
    beat = f"{newest:03}.beat.json"
    if beat not in names:
        return State(state="starting", attempt=newest)
    text = _text(store.join(output, TRIED, beat))
    return State(state="running", attempt=newest, seconds=_loads(text).get("seconds", 0.0), beat=text)


def begin(output: str, *, limit: int, me: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> int:
    """The number of a new attempt that is ours alone; 0 when another machine is at work on the job, or it is done.

    Waits until it is sure that the one before is over. More than `limit` attempts that were taken away: -1.
    """
    while True:
        now = read(output)
        if now.state == "done":
            return 0
        if now.state in ("running", "starting") and _alive(output, now, say):
            return 0
        if now.attempt and now.state in ("running", "starting"):
            end(output, now.attempt, {"state": "preempted", "reason": "its machine vanished"})
        if _taken(output) >= limit:
            return -1
        number = now.attempt + 1
        if store.create(store.join(output, TRIED, f"{number:03}.json"), dumps({**me, "time": time.time()})):
            return number


def beat(output: str, number: int, seconds: float) -> None:
    """A sign of life."""
    text = dumps({"time": time.time(), "seconds": round(seconds, 1), "sign": os.urandom(4).hex()})
    store.write(store.join(output, TRIED, f"{number:03}.beat.json"), text)


def end(output: str, number: int, told: dict[str, Any]) -> None:
    """Writes how the attempt ended, first for the count of attempts, then for everybody."""
    store.write(store.join(output, TRIED, f"{number:03}.end.json"), dumps(told))


def conclude(output: str, number: int, told: dict[str, Any]) -> None:
    """Writes how the job ended, as far as this attempt knows."""
    end(output, number, told)
    store.write(store.join(output, EXIT), dumps({**told, "attempt": number}))


def superseded(output: str, number: int) -> bool:
    """Whether another machine took this attempt for dead, and has begun a later one."""
    return max(_numbers(output)[0], default=0) > number


def spent(output: str) -> float:
    """Seconds of all attempts that have ended."""
    numbers, names = _numbers(output)
    total = 0.0
    for number in numbers:
        for kind in ("end", "beat"):  # one that vanished has no end of its own
            name = f"{number:03}.{kind}.json"
            told = _json(store.join(output, TRIED, name)) if name in names else {}
            if "seconds" in told:
                total += float(told["seconds"])
                break
    return total


def ask_to_stop(output: str) -> None:
    """The newest attempt sees it within a beat; where none has begun, the first one will."""
    store.write(
        store.join(output, TRIED, f"{max(_numbers(output)[0], default=1):03}.stop"), dumps({"time": time.time()})
    )


def asked_to_stop(output: str, number: int) -> bool:
    """Whether somebody did."""
    return store.exists(store.join(output, TRIED, f"{number:03}.stop"))


def lines(output: str, rank: int = 0, after: str = "", *, newest: bool = False) -> tuple[list[str], str]:
    """The lines of the log pieces (newest: of the last piece alone) that come after the one called `after`, and the
    name of the last of them."""
    folder = store.join(output, LOG, str(rank))
    names = [name for name in (store.listdir(folder) if store.exists(folder) else []) if name > after]
    names = names[-1:] if newest else names
    found: list[str] = []
    for name in names:
        found += store.read_bytes(store.join(folder, name)).decode(errors="replace").splitlines()
    return found, names[-1] if names else after


def _alive(output: str, seen: State, say: Callable[[str], None]) -> bool:
    say(f"attempt {seen.attempt} has not ended: looking whether it lives, for {SILENT * BEAT:.0f} s")
    until = time.monotonic() + SILENT * BEAT
    while time.monotonic() < until:
        time.sleep(BEAT / 2)
        now = read(output)
        if now.attempt > seen.attempt or (now.beat and now.beat != seen.beat):
            return True
        if now.state not in ("running", "starting"):
            return now.state == "done"
    return False


def _taken(output: str) -> int:
    """How many attempts were taken away."""
    numbers, names = _numbers(output)
    ends = [f"{number:03}.end.json" for number in numbers]
    return sum(_json(store.join(output, TRIED, name)).get("state") == "preempted" for name in ends if name in names)


def _numbers(output: str) -> tuple[list[int], set[str]]:
    folder = store.join(output, TRIED)
    names = set(store.listdir(folder)) if store.exists(folder) else set()
    return sorted(int(found[1]) for name in names if (found := _NUMBER.match(name))), names


def _text(uri: str) -> str:
    try:
        return store.read_text(uri)
    except InflameError:
        return ""


def _json(uri: str) -> dict[str, Any]:
    return _loads(_text(uri))


def _loads(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
