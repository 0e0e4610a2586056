"""Has the world moved on? A window of answers against what the model expects, without labels.

Two levels. *Input changed*: something about the inputs or about what the model makes of them is not as it was; often
harmless. *Accuracy at risk*: the model itself sees it, and the estimated accuracy has fallen, or the window is unlike
everything that accuracy could be estimated for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine import shift
from inflame.model.engine.estimate import Estimate, estimate
from inflame.model.engine.expected import Expected, Sample, View
from inflame.monitor.speech import Say, english
from inflame.records import Record

QUIET, CHANGED, RISK = "quiet", "input changed", "accuracy at risk"
LEAST = 10  # items of a window: of less nothing can be said
TOLERANCE = 0.05  # of accuracy that may be lost before it is called a risk
UNLIKE = 8  # pictures that are shown
NEAR = 0.002  # 1 - cosine of embeddings: hardly another picture
TOLD = 6  # findings that are told
SAME = 0.2  # share of copies that somebody should look at
COPES = "Look at the items most unlike the training. The model seems to cope; tell whoever sends them."
NEVER = "Label {n} items like these: nothing of the kind was ever tested."
DISTRUST = "Stop trusting the answers until {n} items like these are labelled, then train again."
COMPARED = 2000  # items of a window that are looked through for near copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Record):
    """What was found in a window. `p` are the p-values of the levels, `limits` what they must fall below. `findings`
    say what changed, the most telling first; `classes` which answers grew or shrank: (class, share before, share now).
    `unlike`: the rows that are most unlike the reference, the worst first. `copies`, `near`: shares of items that were
    in the window before, exactly or nearly. `advice`: what to do."""

    level: str
    items: int
    p: dict[str, float]
    limits: dict[str, float]
    findings: tuple[shift.Finding, ...]
    classes: tuple[tuple[str, float, float], ...]
    unknown: float
    unknown_before: float
    accuracy_before: float
    estimate: Estimate | None
    unlike: tuple[int, ...]
    copies: float
    near: float
    advice: str
    tolerance: float = TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        found = super(Window, self).to_json()
        return {**found, "between_false_alarms": between_false_alarms(self.limits)}


def judge(expected: Expected, sample: Sample, inputs: Sequence[str] = (), *, tolerance: float = TOLERANCE) -> Window:
    """What is found in a window of `LEAST` items or more. inputs: their hashes, to find copies by. tolerance: how much
    accuracy may be lost before it is at risk."""
    view = expected.view(sample)
    found = shift.compare(expected, view, sample.known, sample.kinds if any(sample.kinds) else ())
    p = {"changed": shift.combined(found), "risk": shift.combined(found, shift.MODEL)}
    guess = estimate(expected, view, sample.known)
    level = _level(expected, p, guess, found, tolerance)
    every = [one for one in found if one.p * one.share < expected.thresholds["changed"]]
    telling = tuple(sorted(every, key=lambda one: one.p * one.share)[:TOLD])
    classes = _classes(expected, view)
    copies, near = _copies(sample, inputs)
    return Window(
        level=level,
        items=len(sample),
        p=p,
        limits=expected.thresholds,
        findings=telling,
        classes=classes,
        unknown=float((~sample.known).mean()),
        unknown_before=expected.unknown,
        accuracy_before=expected.accuracy,
        estimate=guess,
        unlike=tuple(strangeness(expected, view).argsort()[::-1][:UNLIKE].tolist()),
        copies=copies,
        near=near,
        advice=advise(level, guess, copies),
        tolerance=tolerance,
    )


def between_false_alarms(limits: dict[str, float]) -> dict[str, int]:
    """How many clean windows pass between two false alarms of a level, on average, at least: each window may ring by
    itself, or with those before it (see `Watch`)."""
    return {level: round(1 / (2 * max(p, shift.LEAST))) for level, p in limits.items()}


def strangeness(expected: Expected, view: View) -> NDArray[np.float64]:
    """How unlike the reference each item is [N]: the root mean square of its deviations from the medians."""
    z = np.clip((view.values - expected.middle) / expected.reach, -20, 20)
    squares = np.where(np.isfinite(z), z * z, 0.0)
    return np.asarray(np.sqrt(squares.sum(axis=1) / np.maximum(np.isfinite(z).sum(axis=1), 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch(Record):
    """What windows say together: a slow change is in none of them alone. For each level a Shiryaev-Roberts sum of
    e-values: among clean windows it stays below 1 / limit for 1 / limit windows on average, or longer."""

    windows: int = 0
    changed: float = 0.0
    risk: float = 0.0

    def after(self, window: Window) -> tuple[Watch, str]:
        """The watch after one more window, and the level that both say together. A level that rang starts anew."""
        sums = {level: (1 + getattr(self, level)) * _evidence(window.p[level]) for level in ("changed", "risk")}
        level, guess = window.level, window.estimate
        fallen = guess is not None and _fallen(window.accuracy_before, guess, window.tolerance)
        if sums["risk"] >= 1 / window.limits["risk"] and fallen:
            level = RISK
        if level == QUIET and sums["changed"] >= 1 / window.limits["changed"]:
            level = CHANGED
        kept = {name: 0.0 if value >= 1 / window.limits[name] else min(value, 1e12) for name, value in sums.items()}
        return Watch(windows=self.windows + 1, **kept), level


def _evidence(p: float) -> float:
    """An e-value from a p-value: its mean is 1 at most where nothing has changed (Vovk & Wang 2021)."""
    return 0.5 / math.sqrt(max(p, 1e-12))


def _level(
    expected: Expected,
    p: dict[str, float],
    guess: Estimate | None,
    found: Sequence[shift.Finding],
    tolerance: float,
) -> str:
    limits = expected.thresholds
    if p["risk"] < limits["risk"]:
        if guess is not None and (not guess.reliable or _fallen(expected.accuracy, guess, tolerance)):
            return RISK
        # Without an estimator only what bears on the answers themselves counts.
        bearing = {"confidence", "entropy", "unknown", "classes"}
        if guess is None and any(one.name in bearing and one.p * one.share < limits["risk"] for one in found):
            return RISK
    return CHANGED if min(p.values()) < limits["changed"] else QUIET


def _fallen(before: float, guess: Estimate, tolerance: float) -> bool:
    """Whether more than the tolerance is lost, in four of five such cases: half of a 90 % interval is that much."""
    return (guess.accuracy + guess.high) / 2 < before - tolerance


def _classes(expected: Expected, view: View) -> tuple[tuple[str, float, float], ...]:
    """The classes whose share of the answers changed most, beyond chance."""
    n, m = len(view.predicted), int(expected.classes.sum())
    now = np.bincount(view.predicted, minlength=len(expected.classes)) / n
    before = expected.classes / max(m, 1)
    both = (now * n + before * m + 1) / (n + m + 2)
    z = np.abs(now - before) / np.sqrt(both * (1 - both) * (1 / n + 1 / max(m, 1)))
    rows = [row for row in np.argsort(-np.abs(now - before)) if z[row] > 3.5]
    return tuple((expected.class_names[row], float(before[row]), float(now[row])) for row in rows[:TOLD])


def _copies(sample: Sample, inputs: Sequence[str]) -> tuple[float, float]:
    """Shares of items that are exact copies, and that are near copies, of one before them."""
    counts = Counter(inputs)
    copies = sum(count - 1 for count in counts.values()) / len(sample) if inputs else 0.0
    first = {name: place for place, name in reversed(list(enumerate(inputs)))}
    rows = np.array(sorted(first.values()) if first else range(len(sample)))
    vectors = np.asarray(sample.embedding[rows[:COMPARED]], np.float32)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    alike = np.tril(vectors @ vectors.T, -1) > 1 - NEAR
    return copies, float(alike.any(axis=1).mean())


def advise(level: str, guess: Estimate | None, copies: float, speak: Say = english) -> str:
    """What to do about a window."""
    repeated = " " + speak("Many items are the same: look at who sends them.") if copies > SAME else ""
    if level == QUIET:
        return speak("Nothing to do.") + repeated
    if level == CHANGED:
        return speak(COPES) + repeated
    if guess is None or not guess.reliable:
        return speak(NEVER, n=guess.label if guess is not None else 100) + repeated
    return speak(DISTRUST, n=guess.label) + repeated
