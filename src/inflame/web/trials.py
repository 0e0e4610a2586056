"""A second model beside the one that serves: a shadow answers silently, a canary answers a share of the clients.

Both are measured by the same requests: how often they fail and how long they take, and a shadow by how often it says
the same. A canary that does worse, by a test, is ended by itself; its clients get the other model's answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, final

from inflame.errors import UserError
from inflame.web import tracing
from inflame.web.answers import Answer
from inflame.web.batching import Batcher, Refused
from inflame.web.served import Served
from inflame.web.settings import Settings

Kind = Literal["shadow", "canary"]

LEAST = 30  # requests to each before they are compared
EVERY = 10  # requests of a canary between two looks
LEVEL = 1e-3  # of each look: at some hundred looks a good canary is seldom ended
SLOWER = 1.2  # of the median: less is no reason to end it, however sure
_LATELY = 500  # requests that times are kept of
_ROOM = 64  # items that may wait for a shadow; what comes beyond them isn't shown to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to try beside a model: a bundle's folder, how, and for which share of the clients."""

    kind: Kind
    folder: Path
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(
                f"{100 * self.share:g} % of the clients can't be sent to it.",
                where=f"--{self.kind}",
                remedy="--canary RUN=10%",
            )


@dataclass(slots=True)
class Count:
    """What requests to one model came to. `failed`: without an answer by its fault."""

    asked: int = 0
    failed: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_LATELY))  # seconds

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {"asked": self.asked, "failed": self.failed, "median": round(median(self.times or [0.0]), 4)}


@final
class Trial:
    """One of them, loaded and with a queue of its own. `ended` says why no more is asked of it; empty while it runs."""

    def __init__(self, name: str, plan: Plan, settings: Settings) -> None:
        self.plan, self.ended = plan, ""
        self.served = Served(name, plan.folder, settings).wait()
        room = _ROOM if plan.kind == "shadow" else settings.room
        self.queue = Batcher(partial(tracing.timed, self.served.answer), workers=1, most=self.served.most, room=room)
        self.mine, self.other = Count(), Count()
        self.same = self.compared = self.missed = 0
        self._lock = threading.Lock()

    def takes(self, client: str) -> bool:
        """Whether a canary answers that client: always the same ones, about so many of a hundred as its share says."""
        if self.ended or self.plan.kind != "canary":
            return False
        drawn = hashlib.sha256(f"{self.served.version}:{client}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") / 2**64 < self.plan.share

    def count(self, seconds: float, *, mine: bool, failed: bool = False) -> str:
        """Notes a request to this model or to the other; why the canary ends with it, or nothing."""
        with self._lock:
            count = self.mine if mine else self.other
            count.asked += 1
            count.failed += failed
            if not failed:
                count.times.append(seconds)
            if self.plan.kind == "canary" and mine and not self.ended and self.mine.asked % EVERY == 0:
                self.ended = worse(self.mine, self.other)
                return self.ended
        return ""

    async def mirror(
        self, contents: Sequence[bytes], said: Sequence[Any], within: float, keep: Callable[[Answer], None]
    ) -> None:
        """Shows a shadow what the other model has answered already; `keep` gets its answers."""
        try:
            found = await self.queue(contents, within)
        except Refused:
            self.missed += len(contents)
            return
        for one, other in zip(found, said, strict=True):
            if isinstance(one, Answer) and isinstance(other, Answer):
                self.compared += 1
                self.same += one.label == other.label
                self.count(one.seconds, mine=True)
                keep(one)
            elif isinstance(other, Answer):
                self.count(0.0, mine=True, failed=True)

    def end(self, why: str) -> None:
        """Asks it no more."""
        with self._lock:
            self.ended = self.ended or why

    async def close(self, within: float) -> None:
        """Answers what waits, and ends its process."""
        self.end("closed")
        await self.queue.drain(within)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(self.served.close)

    def told(self) -> dict[str, Any]:
        """As /v1/models says it."""
        with self._lock:
            return {
                "kind": self.plan.kind,
                "version": self.served.version,
                "share": self.plan.share,
                "ended": self.ended,
                "requests": self.mine.told(),
                "others": self.other.told(),
                "compared": self.compared,
                "same": self.same,
                "missed": self.missed,
            }


def worse(mine: Count, other: Count) -> str:
    """Why a canary with these requests must end: it fails more often, or takes longer, than the other. Empty when that
    can't be said at `LEVEL`."""
    if min(mine.asked, other.asked) < LEAST:
        # One that only fails need not be waited for: ten failures of ten are none of chance.
        return "it fails" if mine.failed == mine.asked >= EVERY else ""
    p = more_often(mine.failed, mine.asked, other.failed, other.asked)
    if p < LEVEL:
        return f"it fails more often: {mine.failed} of {mine.asked}, not {other.failed} of {other.asked} (p = {p:.1g})"
    if min(len(mine.times), len(other.times)) < LEAST or median(mine.times) <= SLOWER * median(other.times):
        return ""
    p = longer(mine.times, other.times)
    if p < LEVEL:
        times = [1000 * median(times) for times in (mine.times, other.times)]
        return f"it takes longer: {times[0]:.0f} ms, not {times[1]:.0f} ms (p = {p:.1g})"
    return ""


def more_often(k: int, n: int, other_k: int, other_n: int) -> float:
    """The p-value of "k of n is no more than other_k of other_n by chance": Fisher's exact test, one-sided."""
    total, all_n = k + other_k, n + other_n

    def ways(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    whole = ways(all_n, total)
    terms = [ways(n, i) + ways(other_n, total - i) - whole for i in range(k, min(n, total) + 1) if total - i <= other_n]
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def longer(mine: Sequence[float], other: Sequence[float]) -> float:
    """The p-value of "these are no longer than the others": the rank test of Mann and Whitney, one-sided."""
    both = sorted((value, place) for place, values in enumerate((mine, other)) for value in values)
    ranks = math.fsum(rank for rank, (_, place) in enumerate(both, 1) if place == 0)
    n, m = len(mine), len(other)
    spread = math.sqrt(n * m * (n + m + 1) / 12)
    return 0.5 * math.erfc((ranks - n * (n + 1) / 2 - n * m / 2 - 0.5) / spread / math.sqrt(2))
