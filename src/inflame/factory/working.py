"""A trial at work, what a person may see of a sweep, and the signals that end one."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from inflame.factory import watch
from inflame.factory.trials import Trial
from inflame.records import Job


@dataclass(slots=True)
class Work:
    """A trial at work. `intent`: the state that it will have when it has stopped, as it was told to."""

    trial: Trial
    job: Job
    slot: int
    run: Path
    intent: str = ""
    told: float = 0.0
    began: float = field(default_factory=time.time)
    tail: watch.Tail = field(default_factory=watch.Tail)
    looked: float = 0.0
    memory: int = field(default_factory=watch.out_of_memory)


@dataclass(frozen=True, slots=True)
class Glance:
    """What a person who waits may see: the trials, those at work, seconds and US dollars that are gone."""

    trials: Sequence[Trial]
    working: Sequence[Trial]
    seconds: float
    money: float = 0.0


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the sweep as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        with suppress(ValueError):  # not the main thread
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
