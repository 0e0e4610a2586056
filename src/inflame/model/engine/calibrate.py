"""Probabilities that mean what they say: temperature, a threshold for "I don't know", conformal sets.

Everything is fitted on held-out items that neither training nor the test saw, with numpy alone;
the fitted numbers travel in a bundle as a `Calibration`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.records import Record

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

COLDEST, HOTTEST = 0.02, 50.0  # bounds of the temperature: beyond them all answers are certain, or all are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Record):
    """How logits become answers. The default leaves them as they are and answers always.

    `known` is `max probability >= threshold`; the conformal set of an item is every class with
    `probability >= 1 - qhat`. `error` and `alpha` are what was asked for, `coverage`, `error_rate` and
    `error_upper` (one-sided 95 %) what the threshold gave on the `n` items it was chosen on.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    error: float = 0.05
    attained: bool = True  # False: no threshold reaches `error`, this one comes closest
    coverage: float = 1.0  # share of items answered
    error_rate: float = 0.0  # among the answered
    error_upper: float = 1.0
    alpha: float = 0.1
    qhat: float = 1.0
    n: int = 0
    source: str = ""  # which items: "val", "out-of-fold", ...

    def apply(self, logits: Floats) -> NDArray[np.float64]:
        """Calibrated probabilities [N, K] of logits [N, K]."""
        return softmax(logits, self.temperature)

    def known(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Which items [N] are answered; the others are "I don't know"."""
        return np.asarray(np.asarray(probabilities).max(axis=1) >= self.threshold)

    def sets(self, probabilities: Floats) -> NDArray[np.bool_]:
        """The conformal set of every item as a mask [N, K]. The likeliest class is always in it."""
        p = np.asarray(probabilities)
        mask = p >= 1 - self.qhat
        mask[np.arange(len(p)), p.argmax(axis=1)] = True
        return np.asarray(mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(Record):
    """A threshold on the largest probability, and what it does to the items it was chosen on."""

    value: float
    attained: bool
    coverage: float
    error_rate: float
    error_upper: float


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities [N, K] of logits [N, K] divided by `temperature`."""
    z = np.asarray(logits, dtype=np.float64) / temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(z / z.sum(axis=1, keepdims=True))


def temperature(logits: Floats, labels: Labels, weights: Floats | None = None) -> float:
    """The temperature that makes `softmax(logits / T)` fit the labels best (least log loss).

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The log loss is convex in 1/T, so the zero of
    its slope is found by bisection. Targets are smoothed by 1/(n+2) as in Platt 1999: without that, a few items
    that all happen to be right would make every later answer certain. No items: 1. weights [N]: of the items.
    """
    z = np.asarray(logits, dtype=np.float64)
    n, k = z.shape
    if n == 0 or k < 2:
        return 1.0
    z = z - z.max(axis=1, keepdims=True)
    doubt = 1 / (n + 2)
    given = z[np.arange(n), labels]
    target = (1 - doubt) * given + doubt * (z.sum(axis=1) - given) / (k - 1)

    def slope(inverse: float) -> float:
        return float(np.average((softmax(z, 1 / inverse) * z).sum(axis=1) - target, weights=weights))

    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def unknown_threshold(probabilities: Floats, labels: Labels, error: float = 0.05) -> Threshold:
    """The smallest threshold on the largest probability at which at most `error` of the answered items are wrong.

    The rate is the point estimate; its one-sided 95 % Wilson
    bound is reported beside it. Where no threshold reaches `error`, the one with the least upper bound is taken
    and `attained` is False. No items: answer always.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    n = len(p)
    if n == 0:
        return Threshold(value=0.0, attained=True, coverage=1.0, error_rate=0.0, error_upper=1.0)
    levels, answered, errors = risk_coverage(p.max(axis=1), p.argmax(axis=1) == labels)
    upper = _upper(errors, answered)
    good = np.flatnonzero(errors <= error * answered + 1e-12)
    pick = int(good[-1]) if len(good) else int(np.flatnonzero(upper == upper.min())[-1])
    return Threshold(
        # Half way to the first item that is not answered, so that rounding can't move an item across.
        value=0.0 if answered[pick] == n else float((levels[pick] + levels[pick + 1]) / 2),
        attained=bool(len(good)),
        coverage=float(answered[pick] / n),
        error_rate=float(errors[pick] / answered[pick]),
        error_upper=float(upper[pick]),
    )


def risk_coverage(
    confidence: Floats, correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """What answering only the surest items gives: for each distinct confidence, highest first, how many items are
    at least that sure, and how many of those are wrong (El-Yaniv & Wiener 2010)."""
    order = np.argsort(-np.asarray(confidence), kind="stable")
    sure, wrong = np.asarray(confidence, dtype=np.float64)[order], ~np.asarray(correct, dtype=bool)[order]
    last = np.flatnonzero(np.append(sure[1:] < sure[:-1], True)) if len(sure) else np.zeros(0, dtype=np.int64)
    return sure[last], last + 1, np.cumsum(wrong)[last]  # a tie is answered whole or not at all


def conformal(probabilities: Floats, labels: Labels, alpha: float = 0.1) -> float:
    """`qhat`: sets of the classes with probability >= 1 - qhat hold the truth of a new item at rate >= 1 - alpha.

    Least ambiguous sets (Sadinle, Lei & Wasserman 2019): the score of an item is 1 - probability of its label,
    qhat the ceil((n+1)(1-alpha))-th smallest of n scores. Holds for items like those given, on average over
    classes. Too few items for the rate: 1, which is every class.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    n = len(p)
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    if rank > n:
        return 1.0
    scores = 1 - p[np.arange(n), labels]
    return float(np.partition(scores, max(rank, 1) - 1)[max(rank, 1) - 1])


def fit(logits: Floats, labels: Labels, *, error: float = 0.05, alpha: float = 0.1, source: str = "val") -> Calibration:
    """Everything above, fitted on held-out logits [N, K] and class indices [N]."""
    degree = temperature(logits, labels)
    probabilities = softmax(logits, degree)
    threshold = unknown_threshold(probabilities, labels, error)
    return Calibration(
        temperature=degree,
        threshold=threshold.value,
        error=error,
        attained=threshold.attained,
        coverage=threshold.coverage,
        error_rate=threshold.error_rate,
        error_upper=threshold.error_upper,
        alpha=alpha,
        qhat=conformal(probabilities, labels, alpha),
        n=len(probabilities),
        source=source,
    )


def _upper(errors: NDArray[np.integer[Any]], n: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """One-sided 95 % Wilson bounds, for arrays (metrics.wilson is for one number)."""
    z = 1.6448536269514722
    rate = errors / n
    middle = rate + z * z / (2 * n)
    spread = z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return np.where(errors == n, 1.0, (middle + spread) / (1 + z * z / n))
