"""How good, and how sure of that: accuracy, per-class results, paired tests, calibration. numpy alone.

Labels and predictions are class indices [N]; `*_correct` are booleans [N], one per item, in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.records import Record

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(Record):
    """`k` of `n`, as a share with its Wilson interval. Of nothing, everything is possible: 0, from 0 to 1."""

    value: float
    low: float
    high: float
    k: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult(Record):
    """What became of one class: how many of its items were found, how many answers of that name were right."""

    index: int
    support: int  # items of the class
    predicted: int  # answers of that name
    precision: Rate
    recall: Rate
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Record):
    """Mean of b - a over paired items, with an interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin(Record):
    """The items whose confidence lies in (low, high]: how sure on average, how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share, k of n (Wilson 1927; covers well also for small n and shares near 0 or 1)."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = k / n
    middle = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low, high = (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)
    return (0.0 if k == 0 else low), (1.0 if k == n else high)


def rate(k: int, n: int, level: float = 0.95) -> Rate:
    """`k` of `n` with its Wilson interval."""
    low, high = wilson(k, n, level)
    return Rate(value=k / n if n else 0.0, low=low, high=high, k=int(k), n=int(n))


def accuracy(labels: Labels, predicted: Labels) -> Rate:
    """The share of right answers, with its 95 % interval."""
    return rate(int(np.count_nonzero(np.asarray(labels) == np.asarray(predicted))), len(labels))


def balanced(labels: Labels, predicted: Labels) -> float:
    """The mean of the classes' recalls, over the classes that have an item: 0 of none."""
    right, found = np.asarray(labels) == np.asarray(predicted), np.asarray(labels)
    recalls = [float(right[found == kind].mean()) for kind in np.unique(found)]
    return sum(recalls) / max(len(recalls), 1)


def confusion(labels: Labels, predicted: Labels, classes: int) -> NDArray[np.int64]:
    """Counts [classes, classes]: row = the item's label, column = the answer."""
    cells = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def per_class(matrix: NDArray[np.int64]) -> list[ClassResult]:
    """Precision, recall and F1 of every class of a confusion matrix."""
    right, support, answers = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        ClassResult(
            index=i,
            support=int(support[i]),
            predicted=int(answers[i]),
            precision=rate(int(right[i]), int(answers[i])),
            recall=rate(int(right[i]), int(support[i])),
            f1=float(2 * right[i] / max(support[i] + answers[i], 1)),
        )
        for i in range(len(matrix))
    ]


def majority(train_labels: Labels, labels: Labels) -> Rate:
    """The accuracy of always answering the most frequent label of the training items."""
    if not len(train_labels):
        return rate(0, len(labels))
    return accuracy(labels, np.full(len(labels), np.bincount(train_labels).argmax()))


def mcnemar(a_correct: Flags, b_correct: Flags) -> float:
    """Two-sided p of "a and b are equally often right" on the same items.

    Exact (McNemar 1947 with the binomial instead of chi-squared): only items that one gets right and the other
    wrong count, and each is a fair coin if a and b are equally good. Identical answers: 1.
    """
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    terms = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(math.exp(term) for term in terms))


def bootstrap_paired(
    a: Floats | Flags, b: Floats | Flags, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """How much better b is than a on the same items: mean of b - a with a percentile bootstrap interval (Efron 1979).

    Resampling items is drawing how often each distinct difference occurs, which for right/wrong is three counts:
    ten thousand resamples of any number of items take milliseconds.
    """
    values, counts = np.unique(np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64), return_counts=True)
    n = int(counts.sum())
    if n == 0:
        return Difference(value=0.0, low=0.0, high=0.0)
    rng, step = np.random.default_rng(seed), max(1, 4_000_000 // len(values))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = np.concatenate([rng.multinomial(n, counts / n, size=size) @ values / n for size in sizes])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(value=float(counts @ values / n), low=float(low), high=float(high))


def newcombe_paired(a_correct: Flags, b_correct: Flags, level: float = 0.95) -> Difference:
    """How much more often b is right than a on the same items, with Newcombe's interval (1998, method 10): that of two
    shares, less what they have in common. Unlike a bootstrap it has a width where no answer changed. No items: -1 to 1.
    """
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    if not len(a):
        return Difference(value=0.0, low=-1.0, high=1.0)
    both, only_a, only_b = (int(part.sum()) for part in (a & b, a & ~b, b & ~a))
    one, other = rate(both + only_a, len(a), level), rate(both + only_b, len(a), level)
    spread = math.sqrt(one.k * (one.n - one.k) * other.k * (other.n - other.k))
    common = (both * (len(a) - both - only_a - only_b) - only_a * only_b) / spread if spread else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * common * x * y + y * y))

    value = other.value - one.value
    return Difference(
        value=value,
        low=value - reach(other.value - other.low, one.high - one.value),
        high=value + reach(other.high - other.value, one.value - one.low),
    )


def log_loss(probabilities: Floats, labels: Labels) -> float:
    """Mean of -log p(label), in nats; probabilities [N, K] below 1e-12 count as 1e-12."""
    p = np.asarray(probabilities, dtype=np.float64)
    return float(-np.log(np.clip(p[np.arange(len(p)), labels], 1e-12, None)).mean()) if len(p) else 0.0


def reliability(confidence: Floats, correct: Flags, bins: int = 10) -> list[Bin]:
    """How often right at each level of confidence, in bins of equal width; empty bins are left out."""
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    n = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=column, minlength=bins) for column in (sure, right))
    means, shares = (total / np.maximum(n, 1) for total in sums)
    return [
        Bin(
            low=i / bins,
            high=(i + 1) / bins,
            n=int(n[i]),
            confidence=float(means[i]),
            accuracy=float(shares[i]),
        )
        for i in range(bins)
        if n[i]
    ]


def ece(confidence: Floats, correct: Flags, bins: int = 15) -> float:
    """Expected calibration error: mean |accuracy - confidence| over bins, weighted by their items (Guo et al. 2017)."""
    found = reliability(confidence, correct, bins)
    total = sum(entry.n for entry in found)
    return sum(entry.n * abs(entry.accuracy - entry.confidence) for entry in found) / max(total, 1)
