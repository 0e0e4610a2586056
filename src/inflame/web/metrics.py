"""Numbers for Prometheus: what was asked, how long it took, what waits, what was refused and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32)


@final
class Metrics:
    """The numbers of one server. Names begin with `inflame_`."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()

        self.requests = Counter(
            "inflame_requests", "Requests by route and status", ("route", "status"), registry=self._all
        )
        self.latency = Histogram(
            "inflame_request_seconds", "Time to the end of the answer", ("route",), registry=self._all, buckets=_SECONDS
        )
        self.batches = Histogram("inflame_batch_size", "Items in one run", registry=self._all, buckets=_SIZES)
        self.runs = Histogram("inflame_batch_seconds", "Time of one run", registry=self._all, buckets=_SECONDS)
        self.rejected = Counter("inflame_rejected", "What was refused, by reason", ("reason",), registry=self._all)
        self.unreadable = Counter("inflame_unreadable", "Items not decoded, by kind", ("reason",), registry=self._all)
        self.predictions = Counter("inflame_predictions", "Answers", ("model", "version", "level"), registry=self._all)
        self.helped = Counter("inflame_chat_verdicts", "Whether answers helped", ("verdict",), registry=self._all)
        self.model = Info("inflame_model", "The version that answers", ("model",), registry=self._all)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Shows a number that is asked for when it is read."""
        Gauge(f"inflame_{name}", text, registry=self._all).set_function(value)

    def page(self) -> bytes:
        """All of it, in the text format."""
        return generate_latest(self._all)
