"""Metrics against values from the literature and from counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inflame.model.engine import metrics


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(k: int, n: int, low: float, high: float) -> None:
    assert metrics.wilson(k, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_ends() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    assert metrics.wilson(7, 7)[1] == 1.0
    assert metrics.wilson(0, 7)[0] == 0.0


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (9, 1, 0.021484375), (6, 6, 1.0), (70, 44, 0.018811)],
)
def test_mcnemar_is_the_exact_binomial(only_a: int, only_b: int, p: float) -> None:
    both = [True] * 30 + [False] * 10
    a = np.array(both + [True] * only_a + [False] * only_b)
    b = np.array(both + [False] * only_a + [True] * only_b)
    assert metrics.mcnemar(a, b) == pytest.approx(p, abs=5e-5)


def test_mcnemar_survives_large_counts() -> None:
    a, b = np.zeros(40_000, bool), np.zeros(40_000, bool)
    a[:20_300], b[20_300:] = True, True
    n, k = 40_000, 19_700
    normal = math.erfc(abs(k + 0.5 - n / 2) / math.sqrt(n / 4) / math.sqrt(2))
    assert metrics.mcnemar(a, b) == pytest.approx(normal, rel=0.01)


def test_confusion_and_classes_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    matrix = metrics.confusion(labels, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    first, second, third, absent = metrics.per_class(matrix)
    assert (first.support, first.predicted) == (3, 3)
    assert (first.recall.k, first.recall.n, first.precision.k, first.precision.n) == (2, 3, 2, 3)
    assert first.f1 == pytest.approx(2 / 3)
    assert second.precision.value == pytest.approx(2 / 3)
    assert second.recall.value == 1.0
    assert third.f1 == 0.0
    assert (absent.recall.low, absent.recall.high, absent.f1) == (0.0, 1.0, 0.0)


def test_majority_is_judged_on_other_items() -> None:
    found = metrics.majority(np.array([2, 2, 1]), np.array([2, 1, 1, 0]))
    assert (found.k, found.n) == (1, 4)


def test_log_loss_and_ece_by_hand() -> None:
    p = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
    labels = np.array([0, 0, 1])
    assert metrics.log_loss(p, labels) == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.9)) / 3)
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-math.log(1e-12))
    assert metrics.ece(np.array([0.8, 0.6, 0.9]), np.array([True, False, True])) == pytest.approx((0.2 + 0.6 + 0.1) / 3)


def test_reliability_puts_certainty_in_the_last_bin_and_leaves_out_empty_ones() -> None:
    bins = metrics.reliability(np.array([1.0, 0.95, 0.31]), np.array([True, False, True]))
    assert [(b.low, b.n, b.accuracy) for b in bins] == [(0.3, 1, 1.0), (0.9, 2, 0.5)]


def test_bootstrap_brackets_the_difference() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(2000) < 0.80
    b = a | (rng.random(2000) < 0.2)
    found = metrics.bootstrap_paired(a, b)
    gains = (b & ~a).mean()
    se = math.sqrt(gains * (1 - gains) / 2000)
    assert found.value == pytest.approx(gains)
    assert found.low == pytest.approx(gains - 1.96 * se, abs=se / 5)
    assert found.high == pytest.approx(gains + 1.96 * se, abs=se / 5)
    assert metrics.bootstrap_paired(a, b) == found
    assert metrics.bootstrap_paired(a[:0], b[:0]) == metrics.Difference(value=0.0, low=0.0, high=0.0)


def test_bootstrap_of_real_numbers() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=500)
    b = a + rng.normal(0.3, 1, size=500)
    found = metrics.bootstrap_paired(a, b, resamples=2000)
    assert found.low < 0.3 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(500), rel=0.15)


def test_nothing_gives_nothing() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert metrics.accuracy(none, none).n == 0
    assert metrics.ece(np.zeros(0), np.zeros(0, bool)) == 0.0
    assert metrics.log_loss(np.zeros((0, 3)), none) == 0.0
    assert metrics.majority(none, none).n == 0


def test_newcombe_covers_and_is_never_empty() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        a = rng.random(120) < 0.9
        b = np.where(rng.random(120) < 0.1, rng.random(120) < 0.7, a)  # 0.02 less often right
        found = metrics.newcombe_paired(a, b)
        assert found.low <= found.value <= found.high
        hits += found.low <= -0.02 <= found.high
    assert hits / 400 > 0.93
    same = metrics.newcombe_paired(a, a)
    assert same.value == 0
    assert -0.1 < same.low < 0 < same.high < 0.1
    assert metrics.newcombe_paired(np.ones(5, bool), np.ones(5, bool)).low < -0.1
    nothing = metrics.newcombe_paired(a[:0], a[:0])
    assert (nothing.low, nothing.high) == (-1, 1)


def test_newcombe_as_published() -> None:
    """Newcombe (1998), Statistics in Medicine 17, 2635-2650: of 50 pairs 36, 12, 2, 0 give 0.0569 to 0.3404."""
    a = np.array([True] * 36 + [False] * 12 + [True] * 2)
    b = np.array([True] * 48 + [False] * 2)
    found = metrics.newcombe_paired(a, b)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)
