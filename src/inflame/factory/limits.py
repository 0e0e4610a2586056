"""What a sweep may still use of its time and its money."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from inflame.factory.trials import Sweep


class Limits:
    """The clock and the purse of a sweep. `spent` gives the US dollars that its trials have taken; `workers`: how many
    are at work at a time."""

    def __init__(self, sweep: Sweep, workers: int, spent: Callable[[], float]) -> None:
        self._sweep, self._workers, self._spent = sweep, workers, spent
        self._earlier, self._began = sweep.seconds, time.monotonic()

    def seconds(self) -> float:
        """How long the sweep has been worked on, all sittings together."""
        return self._earlier + time.monotonic() - self._began

    def left(self) -> float:
        """Seconds of the sweep's time that are left, or that the rest of its money pays for with all workers busy."""
        clock = math.inf if self._sweep.budget is None else self._sweep.budget - self.seconds()
        return min(clock, self._paid())

    def over(self) -> str:
        """Why nothing more is begun; "" while something is left."""
        if self._paid() <= 0:
            return f"the money of the sweep was spent: ${self._spent():.2f}"
        return "the time of the sweep was over" if self.left() <= 0 else ""

    def _paid(self) -> float:
        if self._sweep.max_money is None or not self._sweep.price:
            return math.inf
        return 3600 * (self._sweep.max_money - self._spent()) / (self._sweep.price * self._workers)
