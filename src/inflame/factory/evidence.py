"""Whether one result is better than another, by how much, and how many items or seeds would tell. numpy alone.

Two models on the same items: `mcnemar`, `newcombe`, or `paired` for the mean of any number per item. A recipe against
another over seeds: `welch`. Many questions at once: `holm`. Differences are always b - a.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.records import Record

LEVEL, POWER = 0.95, 0.8  # of intervals, and of the chance to see a difference that is there
RESAMPLES = 4000
Floats = NDArray[np.float64]

_normal = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Record):
    """By how much b is above a, from `low` to `high`, and the two-sided p of "no difference". Where nothing can be said
    the interval is infinite (None in JSON) and p is 1."""

    value: float
    low: float
    high: float
    p: float

    def to_json(self) -> dict[str, Any]:
        """The difference as plain JSON values, which know no infinity."""
        found = {name: getattr(self, name) for name in ("value", "low", "high", "p")}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def mirrored(self) -> Difference:
        """The same seen from the other side: a - b."""
        return Difference(value=-self.value, low=-self.high, high=-self.low, p=self.p)


# --- shares on the same items ----------------------------------------------------------------------


def wilson(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share, k of n (Wilson 1927). Of nothing, everything is possible: 0 to 1."""
    if n == 0:
        return 0.0, 1.0
    z = _z(level)
    rate, square = k / n, z * z / n
    spread = z * math.sqrt(rate * (1 - rate) / n + square / (4 * n))
    low, high = ((rate + square / 2 + sign * spread) / (1 + square) for sign in (-1, 1))
    return (0.0 if k == 0 else low), (1.0 if k == n else high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided mid-p of "a and b are equally often right", from how many items only one of them gets right.

    McNemar 1947 with the binomial; of the observed case half its probability counts (mid-p), which keeps the level and
    has more power than the exact test (Fagerland, Lydersen & Laake 2013). No such item: 1.
    """
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    whole = math.lgamma(n + 1) - n * math.log(2)
    terms = [math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1)) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(terms) - terms[k])


def newcombe(both: int, only_a: int, only_b: int, neither: int, level: float = LEVEL) -> Difference:
    """How much more often b is right than a on the same items: Newcombe's interval (1998, method 10), McNemar's mid-p.
    Unlike a bootstrap it has a width where no answer differs. No items: -1 to 1."""
    n = both + only_a + only_b + neither
    if n == 0:
        return Difference(value=0.0, low=-1.0, high=1.0, p=1.0)
    right_a, right_b = both + only_a, both + only_b
    (a_low, a_high), (b_low, b_high) = wilson(right_a, n, level), wilson(right_b, n, level)
    a, b = right_a / n, right_b / n
    spread = math.sqrt(right_a * (n - right_a) * right_b * (n - right_b))
    common = (both * neither - only_a * only_b) / spread if spread else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * common * x * y + y * y))

    return Difference(
        value=b - a,
        low=b - a - reach(b - b_low, a_high - a),
        high=b - a + reach(b_high - b, a - a_low),
        p=mcnemar(only_a, only_b),
    )


def items_to_tell(only_a: int, only_b: int, n: int, *, level: float = LEVEL, power: float = POWER) -> int | None:
    """How many items McNemar's test needs in all to see the difference that n of them show (Connor 1987), if it is the
    true one. None where there is no difference to see."""
    if n == 0 or only_a == only_b:
        return None
    differ, difference = (only_a + only_b) / n, (only_b - only_a) / n
    reach = _z(level) * math.sqrt(differ) + _normal.inv_cdf(power) * math.sqrt(max(0.0, differ - difference**2))
    return math.ceil((reach / difference) ** 2)


# --- any number per item ---------------------------------------------------------------------------


def paired(a: Floats, b: Floats, level: float = LEVEL) -> Difference:
    """The mean of b - a over paired items [n], with Student's interval and p."""
    values = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    if len(values) < 2:
        return _untold(float(values.mean()) if len(values) else 0.0)
    return _student(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1, level)


def needed(value: float, deviation: float, *, level: float = LEVEL, power: float = POWER) -> int | None:
    """How many pairs show a mean difference of `value` with that standard deviation. None for no difference."""
    if value == 0:
        return None
    return max(2, math.ceil(((_z(level) + _normal.inv_cdf(power)) * deviation / value) ** 2))


def bootstrap(
    counts: NDArray[np.int64],
    difference: Callable[[Floats], Floats],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """A difference between two models in any number, by the paired bootstrap (Efron 1979): items are drawn again with
    all that both models said of them.

    counts: [d], how many items there are of each kind (alike in label and in both answers). difference: how often each
    kind was drawn, [R, d] -> b - a [R]. The interval is that of percentiles; p twice the share of draws on the far side
    of 0, never below 2 / (R + 1).
    """
    if not len(counts):
        return _untold(0.0)
    value = float(difference(counts[None].astype(np.float64))[0])
    rng, size = np.random.default_rng(seed), max(1, 4_000_000 // len(counts))
    sizes = [min(size, resamples - start) for start in range(0, resamples, size)]
    drawn = np.concatenate([difference(_weights(rng, counts, size)) for size in sizes])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    far = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value=value, low=float(low), high=float(high), p=min(1.0, 2 * (far + 1) / (resamples + 1)))


def _weights(rng: np.random.Generator, counts: NDArray[np.int64], size: int) -> Floats:
    """How often each kind is drawn, [size, kinds]: draws with replacement of as many items as there are."""
    n, kinds = int(counts.sum()), len(counts)
    if kinds * 8 < n:
        return np.asarray(rng.multinomial(n, counts / n, size=size), dtype=np.float64)
    of = np.repeat(np.arange(kinds), counts)[rng.integers(0, n, (size, n))]
    of += kinds * np.arange(size)[:, None]
    return np.bincount(of.ravel(), minlength=size * kinds).reshape(size, kinds).astype(np.float64)


# --- seeds -----------------------------------------------------------------------------------------


def welch(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Difference:
    """How much better recipe b is than a on average over seeds, from a number for each seed (Welch 1947).

    A single seed is given the spread of the other side (Student's test with what is known); one of each tells nothing.
    """
    if not a or not b:
        raise ValueError("welch needs at least one value on each side")
    value = fmean(b) - fmean(a)
    if len(a) == len(b) == 1:
        return _untold(value)
    if min(len(a), len(b)) == 1:
        most = max(a, b, key=len)
        return _student(value, math.sqrt(variance(most) * (1 + 1 / len(most))), len(most) - 1, level)
    one, other = variance(a) / len(a), variance(b) / len(b)
    if one + other == 0:
        return _student(value, 0.0, len(a) + len(b) - 2, level)
    freedom = (one + other) ** 2 / (one**2 / (len(a) - 1) + other**2 / (len(b) - 1))
    return _student(value, math.sqrt(one + other), freedom, level)


def seeds_to_tell(
    a: Sequence[float], b: Sequence[float], *, level: float = LEVEL, power: float = POWER, most: int = 10_000
) -> int | None:
    """How many seeds of each recipe show the difference that these show, if it is the true one (Welch's test with as
    many on both sides). None where there is no difference or no spread to go by, or `most` don't suffice."""
    spreads = [variance(side) for side in (a, b) if len(side) > 1]
    value = abs(fmean(b) - fmean(a))
    if not spreads or value == 0:
        return None
    spread = math.sqrt(2 * fmean(spreads))
    if spread == 0:
        return 2

    def enough(n: int) -> bool:
        reach = student_quantile((1 + level) / 2, 2 * n - 2) + student_quantile(power, 2 * n - 2)
        return n >= (reach * spread / value) ** 2

    n = next((2**i for i in range(1, most.bit_length() + 1) if enough(2**i)), None)
    if n is None:
        return None
    return next(i for i in range(n // 2 + 1, n + 1) if enough(i)) if n > 2 else 2


def holm(ps: Sequence[float], of: int = 0) -> list[float]:
    """p-values for many questions asked at once, in the given order: below 0.05 they hold together (Holm 1979).

    of: how many questions there were in all, where only some were asked, for what was seen beforehand.
    """
    adjusted, least = [0.0] * len(ps), 0.0
    questions = max(of, len(ps))
    for place, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        least = max(least, min(1.0, (questions - place) * ps[index]))
        adjusted[index] = least
    return adjusted


# --- the best of many ------------------------------------------------------------------------------


def best_expected(values: Floats, *, resamples: int = 400, seed: int = 0) -> float:
    """What the best of several is expected to give on new items, from a number for each of them on each item [m, n],
    larger is better: items are drawn again, the best on those is asked about the items that weren't drawn (Tsamardinos,
    Greasidou & Borboudakis 2018, bootstrap bias correction). The best one's own mean is flattered by being chosen."""
    n = values.shape[1]
    rng, size = np.random.default_rng(seed), max(1, 4_000_000 // n)
    found: list[Floats] = []
    for start in range(0, resamples, size):
        drawn = _weights(rng, np.ones(n, np.int64), min(size, resamples - start))
        left = drawn == 0
        best = (drawn @ values.T).argmax(axis=1)
        sums, counts = (left @ values.T)[np.arange(len(best)), best], left.sum(axis=1)
        found.append(sums[counts > 0] / counts[counts > 0])
    means = np.concatenate(found)
    return float(means.mean()) if len(means) else float(values.mean(axis=1).max())


# --- Student's distribution ------------------------------------------------------------------------


def student_p(t: float, freedom: float) -> float:
    """Two-sided p of Student's t: the share of the distribution beyond ±t."""
    square = min(t * t, 1e300)
    return _beta(freedom / 2, 0.5, freedom / (freedom + square), square / (freedom + square))


def student_quantile(share: float, freedom: float) -> float:
    """Below which t a share of Student's distribution lies."""
    if share < 0.5:
        return -student_quantile(1 - share, freedom)
    whole = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    low, high, t = 0.0, math.inf, _normal.inv_cdf(share)
    for _ in range(200):
        above = 1 - student_p(t, freedom) / 2 - share
        low, high = (low, t) if above > 0 else (t, high)
        step = t - above / math.exp(whole - (freedom + 1) / 2 * math.log1p(t * t / freedom))  # Newton's
        step = step if low < step < high else (low + high) / 2 if math.isfinite(high) else 2 * t + 1
        if abs(step - t) <= 1e-12 * (1 + t):
            return step
        t = step
    return t


def _student(value: float, error: float, freedom: float, level: float) -> Difference:
    if error == 0:
        return Difference(value=value, low=value, high=value, p=1.0 if value == 0 else 0.0)
    reach = student_quantile((1 + level) / 2, freedom) * error
    return Difference(value=value, low=value - reach, high=value + reach, p=student_p(value / error, freedom))


def _beta(a: float, b: float, x: float, y: float) -> float:
    """The regularised incomplete beta function at x = 1 - y, by its continued fraction (DLMF 8.17.22, evaluated by the
    method of Lentz 1976)."""
    if x <= 0 or y <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, y, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)) / a
    c, d, fraction = 1.0, 0.0, 1.0
    for step in range(1, 1000):
        m, odd = divmod(step, 2)
        upper = -(a + m) * (a + b + m) / (a + 2 * m + 1) if odd else m * (b - m) / (a + 2 * m - 1)
        term = upper * x / (a + 2 * m)
        c, d = 1 + term / c, 1 / (1 + term * d)
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front / fraction


def _untold(value: float) -> Difference:
    return Difference(value=value, low=-math.inf, high=math.inf, p=1.0)


def _z(level: float) -> float:
    return _normal.inv_cdf((1 + level) / 2)
