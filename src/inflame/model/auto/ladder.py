"""The ladder: each rung replaces the one below only if a paired test on the same held-out items says it is better."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine import calibrate, metrics
from inflame.model.engine.session import Session

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Of b against a on the same items: `better`, and p, the chance of such a gain in log loss if there were none."""

    better: bool
    p: float
    accuracy: float  # of b


def compare(
    a: Floats, b: Floats, labels: Labels, *, confidence: float = 0.95, seed: int = 0, even: bool = False
) -> Verdict:
    """Whether logits b [N,K] answer better than logits a, each at its own best temperature.

    Better means: no fewer right answers, and a smaller log loss with a one-sided `confidence` by a paired bootstrap.
    The log loss tells two models apart on fewer items than counting right answers does. even: every class counts as
    much as any other, however few its items; right answers are then balanced accuracy.
    """
    weights = _even(labels, a.shape[1]) if even else np.ones(len(labels))
    gains = weights * (_log_likelihood(b, labels, weights) - _log_likelihood(a, labels, weights))
    draws = (
        np.random.default_rng(seed).choice(gains, size=(2000, len(gains))).mean(axis=1)
        if len(gains) < 5000
        else (gains.mean() + gains.std() / len(gains) ** 0.5 * np.random.default_rng(seed).standard_normal(2000))
    )
    p = float((1 + np.count_nonzero(draws <= 0)) / (1 + len(draws)))
    right_a, right_b = (logits.argmax(axis=1) == labels for logits in (a, b))
    better = p <= 1 - confidence and bool((weights * right_b).sum() >= (weights * right_a).sum() - 1e-9)
    return Verdict(better=better, p=p, accuracy=float(right_b.mean()))


def _even(labels: Labels, classes: int) -> NDArray[np.float64]:
    """The weight of each item [N] by which its class has one part in the number of classes; 1 in the mean."""
    counts = np.bincount(labels, minlength=classes)
    found: NDArray[np.float64] = len(labels) / (np.count_nonzero(counts) * counts[labels])
    return found


def _log_likelihood(logits: Floats, labels: Labels, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities = calibrate.softmax(logits, calibrate.temperature(logits, labels, weights))
    found: NDArray[np.float64] = np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None))
    return found


@final
@dataclass(slots=True)
class Ladder:
    """The rungs that were tried, for the person who watches and for the report."""

    session: Session
    confidence: float = 0.95
    rungs: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""

    def first(self, name: str, logits: Floats, labels: Labels, note: str = "") -> None:
        """The rung that all others have to beat."""
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        self._add(name, accuracy, len(labels), p=None, accepted=True, note=note)

    def climb(self, name: str, a: Floats, b: Floats, labels: Labels, note: str = "", *, even: bool = False) -> bool:
        """Tries rung `name` with logits b against the rung below with logits a; says how it went. even: all classes
        count alike."""
        verdict = compare(a, b, labels, confidence=self.confidence, seed=self.session.settings.seed, even=even)
        self._add(name, verdict.accuracy, len(labels), p=verdict.p, accepted=verdict.better, note=note)
        return verdict.better

    def skip(self, name: str, why: str) -> None:
        """Notes that rung `name` isn't tried."""
        self.session.reasons.because(f"rung {name}", "not begun", why)

    def _add(self, name: str, accuracy: float, n: int, *, p: float | None, accepted: bool, note: str) -> None:
        below, self.name = self.name, name if accepted else self.name
        self.rungs.append(
            {
                "name": name,
                "accuracy": accuracy,
                "n": n,
                "p": p,
                "accepted": accepted,
                "seconds": round(self.session.run.seconds, 1),
                "note": note,
            }
        )
        if p is not None:
            told = f"{accuracy:.3f} of {n:,} held-out items, against {below}: p {p:.3f}"
            self.session.reasons.because(f"rung {name}", "taken" if accepted else "not taken", told)
        low, high = metrics.wilson(round(accuracy * n), n)
        text = f"{name}: {accuracy:.3f} ({low:.2f}–{high:.2f}, {n:,} held-out items)"
        if p is not None:
            text += (
                f", better than {below} (p {p:.3f})" if accepted else f", no better than {below}: not taken (p {p:.3f})"
            )
        self.session.say("rung", text + (f"; {note}" if note else ""))
        self.session.run.status(ladder=self.rungs)


def majority(train: Labels, held: Labels, classes: int) -> Floats:
    """Logits [N,K] of always answering with the class frequencies of the training items."""
    counts = np.bincount(train, minlength=classes) + 1.0
    return np.tile(np.log(counts / counts.sum()), (len(held), 1))
