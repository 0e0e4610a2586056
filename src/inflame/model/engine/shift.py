"""Is a window of items like what is expected? Tests in numpy alone, each with a p-value and the size of the effect.

Kolmogorov-Smirnov against a sorted reference, the maximum mean discrepancy by random Fourier features (Zhao & Meng
2015; its p-value by the three-moment approximation of Hall, Buckley & Eagleson), chi-square on classes, Fisher's exact
test on the unknown. All count the reference for the sample that it is, so that a small one gives no more false alarms
than a large one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.expected import ANSWERS, Expected, Sample, View
from inflame.records import Record

F64 = NDArray[np.float64]
INPUT, MODEL = "input", "model"
NOMINAL = {"changed": 0.005, "risk": 0.001}  # false alarms per window
SIZES = (20, 50, 200)  # of the windows that thresholds are set and verified on
WINDOWS = 200  # of each size, at most
LEAST = 1e-7  # no threshold is below
MOST = 20.0  # deviations that a median may be said to have moved: the reference may have none at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Record):
    """One test. `about`: input (the items themselves) or model (what the model makes of them). `effect` is the
    distance: between distributions 0 to 1, of "embedding" the discrepancy, of "unknown" the difference.
    `shift`: of a number, how far its median has moved, in usual deviations. `share`: how many tests share this one's
    error."""

    name: str
    about: str
    p: float
    effect: float
    shift: float = 0.0
    share: int = 1


def compare(expected: Expected, view: View, known: NDArray[np.bool_], kinds: tuple[str, ...] = ()) -> list[Finding]:
    """All tests of a window. One item at least."""
    found = _numbers(expected, view)
    n, m = len(view.predicted), expected.m
    away, tail = discrepancy(expected, view)
    found.append(Finding(name="embedding", about=MODEL, p=tail, effect=away, share=5))
    counts = np.bincount(view.predicted, minlength=len(expected.classes))
    found.append(
        Finding(
            name="classes",
            about=MODEL,
            p=alike(counts, expected.classes),
            effect=_between(counts, expected.classes),
            share=5,
        )
    )
    strange = int((~known).sum())
    p = more(strange, n, round(expected.unknown * m), m)
    found.append(Finding(name="unknown", about=MODEL, p=p, effect=strange / n - expected.unknown, share=5))
    if kinds and expected.kinds:
        every = sorted({*kinds, *expected.kinds})
        one = np.array([kinds.count(kind) for kind in every])
        other = np.array([expected.kinds.get(kind, 0) for kind in every])
        share = len(expected.names) + 1
        found.append(Finding(name="type", about=INPUT, p=alike(one, other), effect=_between(one, other), share=share))
    return found


def combined(found: list[Finding], about: str = "") -> float:
    """One p-value of all tests about something: that of the most telling one, for how many were done (Bonferroni)."""
    chosen = [test for test in found if not about or test.about == about]
    least = min((test.p * test.share for test in chosen), default=1.0)
    return min(1.0, least * (1 if about else 2))


def thresholds(
    expected: Expected, second: Sample, rng: np.random.Generator, windows: int = WINDOWS
) -> dict[str, float]:
    """The p-values below which a window counts: the nominal ones, or less where clean windows of the second part of
    the held-out items have less too often."""
    found = _clean(expected, second, rng, windows)
    return {
        level: float(max(LEAST, min(NOMINAL[level], np.quantile(p, NOMINAL[level]) if len(p) else 1.0)))
        for level, p in found.items()
    }


def verified(expected: Expected, third: Sample, rng: np.random.Generator, windows: int = WINDOWS) -> dict[str, Any]:
    """How often clean windows of the third part give a false alarm with these thresholds: {"items", "windows", level:
    share}."""
    found = _clean(expected, third, rng, windows)
    shares = {level: round(float((p < expected.thresholds[level]).mean()), 5) for level, p in found.items() if len(p)}
    return {"items": len(third), "windows": len(found["risk"]), **shares}


def discrepancy(expected: Expected, view: View) -> tuple[float, float]:
    """The maximum mean discrepancy between window and reference, without what chance adds, and its p-value."""
    n, m = len(view.fourier), expected.m
    apart = float(((view.fourier.mean(axis=0) - expected.mean) ** 2).sum())
    one, two, three = (max(float(trace), 1e-30) for trace in expected.traces)
    scale = 1 / n + 1 / m
    degrees = two**3 / three**2
    x = (apart / scale - one) * math.sqrt(2 * degrees) / math.sqrt(2 * two) + degrees
    return math.sqrt(max(apart - one * scale, 0.0)), chi_square(x, degrees)


def kolmogorov(ordered: F64, x: F64) -> tuple[float, float]:
    """The distance of two sorted samples' distributions and its p-value."""
    n, m = len(x), len(ordered)
    if not n or not m:
        return 0.0, 1.0
    steps = np.arange(n + 1) / n
    # Between two values of the window the reference may go anywhere: compare at both ends of each step. Of equal
    # values only the ends of the run count.
    first, last = np.ones(n, bool), np.ones(n, bool)
    first[1:] = last[:-1] = x[1:] != x[:-1]
    above = np.abs(steps[1:] - np.searchsorted(ordered, x, side="right") / m)[last]
    below = np.abs(steps[:-1] - np.searchsorted(ordered, x, side="left") / m)[first]
    distance = float(max(above.max(), below.max()))
    root = math.sqrt(n * m / (n + m))
    return distance, _tail((root + 0.12 + 0.11 / root) * distance)


def alike(one: NDArray[np.integer[Any]], other: NDArray[np.integer[Any]]) -> float:
    """The p-value of two tables of counts having the same shares. Rare classes count as one.

    Pearson's statistic against the chi-square distribution that has the mean and the variance of all tables with these
    sums (Dawson 1954): the usual one rings up to ten times too often where a class has one item in thirty."""
    n, m = float(one.sum()), float(other.sum())
    if not n or not m or n + m < 4:
        return 1.0
    total = n + m
    both = (one + other) / total
    rare = both * min(n, m) < 1
    if rare.any():
        one, other, both = (np.append(part[~rare], part[rare].sum()) for part in (one, other, both))
    kept = both > 0
    one, other, both, classes = one[kept], other[kept], both[kept], int(kept.sum())
    if classes < 2:
        return 1.0
    statistic = sum((((part - both * size) ** 2) / (both * size)).sum() for part, size in ((one, n), (other, m)))
    mean = total * (classes - 1) / (total - 1)
    uneven = ((total / n + total / m - 4) / (total - 2), ((1 / both).sum() - classes**2) / (total - 2))
    usual = ((total - 2) / (total - 1), (classes - 1) * (total - classes) / (total - 1))
    rest = (usual[0] - uneven[0]) * (usual[1] - uneven[1])
    variance = 2 * total / (total - 3) * rest + total**2 / (total - 1) * uneven[0] * uneven[1]
    if variance < 1e-9:
        return 1.0
    return chi_square(float(statistic) * 2 * mean / variance, 2 * mean**2 / variance)


def chi_square(x: float, degrees: float) -> float:
    """The share of a chi-square distribution above x (Wilson & Hilferty's cube root)."""
    if x <= 0:
        return 1.0
    spread = 2 / (9 * degrees)
    return 0.5 * math.erfc((((x / degrees) ** (1 / 3)) - (1 - spread)) / math.sqrt(2 * spread))


def _numbers(expected: Expected, view: View) -> list[Finding]:
    found, names = [], expected.value_names
    inputs, directions = len(expected.names), expected.basis.shape[1] + 1
    for place, name in enumerate(names):
        ordered = expected.ordered[place, : expected.counts[place]]
        values = view.values[:, place]
        values = np.sort(values[np.isfinite(values)])
        distance, p = kolmogorov(ordered, values)
        moved = values[len(values) // 2] - expected.middle[place] if len(values) and len(ordered) else 0.0
        shift = float(np.clip(moved / expected.reach[place], -MOST, MOST))
        about = INPUT if place < inputs else MODEL
        share = inputs + 1 if place < inputs else 5 * (len(ANSWERS) if name in ANSWERS else directions)
        found.append(Finding(name=name, about=about, p=p, effect=distance, shift=shift, share=share))
    return found


def _clean(expected: Expected, part: Sample, rng: np.random.Generator, windows: int) -> dict[str, F64]:
    """The p-values of clean windows, by level: windows of items of `part`, at most half of them each."""
    view = expected.view(part) if len(part) else None
    found: dict[str, list[float]] = {"changed": [], "risk": []}
    for size in SIZES:
        if view is None or size > len(part) // 2:
            break
        for _ in range(windows):
            rows = rng.permutation(len(part))[:size]
            kinds = tuple(part.kinds[row] for row in rows) if part.kinds else ()
            done = compare(expected, view.take(rows), part.known[rows], kinds)
            found["changed"].append(combined(done))
            found["risk"].append(combined(done, MODEL))
    return {level: np.array(p) for level, p in found.items()}


def _between(one: NDArray[np.integer[Any]], other: NDArray[np.integer[Any]]) -> float:
    """The total variation distance of two tables of counts: 0 alike, 1 nothing in common."""
    return float(np.abs(one / max(one.sum(), 1) - other / max(other.sum(), 1)).sum() / 2)


def more(count: int, n: int, before: int, m: int) -> float:
    """The p-value of a window of n not having more of something than a reference of m, from how many have it in each:
    Fisher's exact test, since an approximation rings too often where there are few in the reference."""
    total = n + m
    both, most = count + before, min(n, count + before)
    whole = _ways(total, both)
    return min(1.0, math.fsum(math.exp(_ways(n, k) + _ways(m, both - k) - whole) for k in range(count, most + 1)))


def _ways(n: int, k: int) -> float:
    """The log of the number of ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) if 0 <= k <= n else -math.inf


def _tail(x: float) -> float:
    """The share of Kolmogorov's distribution above x."""
    if x < 0.2:
        return 1.0
    return min(1.0, 2 * math.fsum(-((-1.0) ** k) * math.exp(-2 * k * k * x * x) for k in range(1, 8)))
