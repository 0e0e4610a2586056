"""What a model says about one thing, as the website keeps and tells it: the answer, how sure, and how strange it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inflame.records import Prediction, Record

# How sure, in words, from the least: (calibrated probability below which it holds, code).
_LEVELS = ((0.5, "perhaps"), (0.75, "probably"), (0.9, "likely"), (0.99, "very_likely"), (1.01, "almost_certain"))
LEVELS = ("unlike", "unsure", *(code for _, code in _LEVELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Record):
    """One answer. `level` is one of LEVELS. `distance`: how far it is from all that was learned
    (engine/novelty.py); `limit`: what nearly all known things stay below; both 0 where that isn't known."""

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    set: tuple[str, ...]
    known: bool
    unlike: bool
    level: str
    distance: float
    limit: float
    sha256: str
    model: str
    version: str
    seconds: float = 0.0
    embedding: bytes = b""  # float16; for the log, never told, as are the shares of all classes in their order
    shares: tuple[float, ...] = ()
    seen: bytes = b""  # float32; what the input is like (artifact.seen), and its `kind`: for the log as well
    kind: str = ""
    id: str = ""  # given by the store
    time: float = 0.0

    @property
    def rivals(self) -> tuple[str, str]:
        """The two likeliest labels; the second is empty where there is one class only."""
        return self.label, self.top[1][0] if len(self.top) > 1 else ""

    def told(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "id": self.id,
            "label": self.label,
            "probability": round(self.probability, 7),
            "level": self.level,
            "known": self.known and not self.unlike,
            "unlike": self.unlike,
            "top": [{"label": label, "probability": round(p, 7)} for label, p in self.top],
            "set": list(self.set),
            "novelty": {"distance": round(self.distance, 5), "limit": round(self.limit, 5)},
            "sha256": self.sha256,
            "model": self.model,
            "version": self.version,
            "seconds": round(self.seconds, 4),
            "time": self.time,
        }


def level(prediction: Prediction, *, unlike: bool) -> str:
    """The word for how sure: "unlike" anything seen, "unsure" between several, or how likely."""
    if unlike:
        return "unlike"
    second = prediction.top[1][1] if len(prediction.top) > 1 else 0.0
    if not prediction.known or (prediction.probability < 0.75 and second > prediction.probability / 2):
        return "unsure"
    return next(code for below, code in _LEVELS if prediction.probability < below)
