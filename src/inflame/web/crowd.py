"""One net for whoever asks alone, with all cores; and for many who ask at once, with a core for each.

Threads that work on one answer wait for each other a hundred times, once in each layer. That is worth it while cores
would idle; where as many answers are wanted as there are cores, it only costs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, final

from inflame.web.runtimes import Session

log = logging.getLogger("inflame.web")

_CALM = 0.5  # seconds without a crowd, until one answer gets all cores again


@final
class Crowd:
    """A session that is two: `wide` uses `cores` cores for one run, and what `narrow` makes uses one. That is made
    when there are as many runs at once as cores for the first time, beside them; None: it can't be."""

    def __init__(self, wide: Session, cores: int, narrow: Callable[[], Session | None]) -> None:
        self._wide, self._cores, self._make = wide, cores, narrow
        self._narrow: Session | None = None
        self._lock = threading.Lock()
        self._running, self._made, self._crowded = 0, False, float("-inf")

    def run(self, names: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        """The outputs of those names."""
        with self._lock:
            self._running += 1
            chosen = self._chosen(time.monotonic())
        try:
            return chosen.run(names, inputs)
        finally:
            with self._lock:
                self._running -= 1

    def get_outputs(self) -> list[Any]:
        """All outputs."""
        return self._wide.get_outputs()

    def _chosen(self, now: float) -> Session:
        if self._running >= self._cores:
            self._crowded = now
            if not self._made:
                self._made = True
                threading.Thread(target=self._prepare, name="narrow", daemon=True).start()
        return self._narrow or self._wide if now - self._crowded < _CALM else self._wide

    def _prepare(self) -> None:
        try:
            self._narrow = self._make()
        except Exception as error:  # whatever it is, the other session answers
            log.warning("narrow", extra={"trouble": f"{type(error).__name__}: {error}"})
