"""An end to what one visitor can make the owner of a site pay for."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import final

_HOUR = 3600.0
_CLIENTS = 10_000  # that are remembered


@final
class Budget:
    """So many a visitor and hour, which begins with the visitor's first. After it the visitor is forgotten."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, and how many; the oldest first

    def take(self, client: str, now: float | None = None) -> bool:
        """Whether the visitor may have one more; then it counts."""
        now = time.monotonic() if now is None else now
        while self._taken and next(iter(self._taken.values()))[0] <= now - _HOUR:
            self._taken.popitem(last=False)
        since, count = self._taken.get(client, (now, 0))
        if count >= self.most:
            return False
        self._taken[client] = since, count + 1
        if len(self._taken) > _CLIENTS:
            self._taken.popitem(last=False)
        return True
