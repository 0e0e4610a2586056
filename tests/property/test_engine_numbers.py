"""What the numbers of the engine promise, over random data."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inflame.model.engine import calibrate, metrics

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, n: int, classes: int, scale: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (n, classes))
    cumulated = calibrate.softmax(logits).cumsum(axis=1)
    return logits, np.minimum((cumulated < rng.random((n, 1))).sum(axis=1), classes - 1)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, true=st.floats(0.3, 4), classes=st.integers(2, 12))
def test_temperature_recovers_the_truth(seed: int, true: float, classes: int) -> None:
    logits, labels = drawn(seed, 6000, classes)
    assert abs(math.log(calibrate.temperature(logits * true, labels) / true)) < 0.2


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(1, 60), classes=st.integers(2, 6))
def test_temperature_never_raises_the_log_loss_much(seed: int, n: int, classes: int) -> None:
    logits, labels = drawn(seed, n, classes, scale=3)
    before = metrics.log_loss(calibrate.softmax(logits), labels)
    after = metrics.log_loss(calibrate.softmax(logits, calibrate.temperature(logits, labels)), labels)
    spread = float(np.ptp(logits, axis=1).mean())
    assert after <= before + spread / (n + 2) + 1e-9  # what the smoothing of the targets may cost


@settings(max_examples=40, deadline=None)
@given(seed=seeds, alpha=st.sampled_from([0.05, 0.1, 0.2, 0.4]), classes=st.integers(2, 10), n=st.integers(30, 400))
def test_conformal_sets_hold_the_truth_as_often_as_promised(seed: int, alpha: float, classes: int, n: int) -> None:
    m = 2000
    logits, labels = drawn(seed, n + m, classes, scale=1)
    p = calibrate.softmax(logits * 2)  # badly calibrated on purpose: the promise doesn't need calibration
    qhat = calibrate.conformal(p[:n], labels[:n], alpha)
    held = calibrate.Calibration(qhat=qhat).sets(p[n:])[np.arange(m), labels[n:]].mean()
    # Given n items the coverage is Beta(k, n+1-k) distributed, and the m test items add binomial noise.
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    variance = k * (n + 1 - k) / ((n + 1) ** 2 * (n + 2)) + alpha * (1 - alpha) / m
    assert held >= 1 - alpha - 5 * math.sqrt(variance)


def test_conformal_coverage_on_average() -> None:
    """The guarantee itself: over many draws of 40 items, at least 90 %, and not much more."""
    held = []
    for seed in range(300):
        logits, labels = drawn(seed, 80, 5)
        p = calibrate.softmax(logits)
        qhat = calibrate.conformal(p[:40], labels[:40], 0.1)
        held.append((p[40:] >= 1 - qhat)[np.arange(40), labels[40:]].mean())
    error = np.std(held) / math.sqrt(len(held))
    assert 0.9 - 4 * error <= np.mean(held) <= 0.9 + 1 / 41 + 4 * error


@settings(max_examples=100, deadline=None)
@given(seed=seeds, n=st.integers(1, 200), classes=st.integers(2, 5), error=st.floats(0, 0.5), digits=st.integers(1, 6))
def test_threshold_keeps_its_word_and_no_smaller_one_does(
    seed: int, n: int, classes: int, error: float, digits: int
) -> None:
    logits, labels = drawn(seed, n, classes)
    p = np.round(calibrate.softmax(logits), digits)  # rounded, so that there are ties
    found = calibrate.unknown_threshold(p, labels, error)
    confidence, wrong = p.max(axis=1), p.argmax(axis=1) != labels
    answered = confidence >= found.value
    assert answered.mean() == found.coverage
    assert wrong[answered].mean() == found.error_rate
    assert found.error_rate <= found.error_upper
    assert found.attained == any(wrong[confidence >= c].mean() <= error + 1e-12 for c in confidence)
    if found.attained:
        assert found.error_rate <= error + 1e-9
        smaller = confidence[confidence < found.value]
        assert all(wrong[confidence >= c].mean() > error for c in smaller)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_solves_its_equation(n: int, share: float) -> None:
    k = round(n * share)
    low, high = metrics.wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:  # the ends are where the observed share is 1.96 standard errors away
            assert abs(abs(k / n - end) - 1.959963984540054 * math.sqrt(end * (1 - end) / n)) < 1e-9


@settings(max_examples=60, deadline=None)
@given(only_a=st.integers(0, 60), only_b=st.integers(0, 60), both=st.integers(0, 10))
def test_mcnemar_counts_coins(only_a: int, only_b: int, both: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * both, dtype=bool)
    b = np.array([False] * only_a + [True] * only_b + [True] * both, dtype=bool)
    n, k = only_a + only_b, min(only_a, only_b)
    exact = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    assert math.isclose(metrics.mcnemar(a, b), exact, rel_tol=1e-9)
    assert metrics.mcnemar(a, b) == metrics.mcnemar(b, a)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(0, 300), classes=st.integers(1, 8))
def test_the_confusion_matrix_adds_up(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    results = metrics.per_class(metrics.confusion(labels, predicted, classes))
    assert sum(r.support for r in results) == sum(r.predicted for r in results) == n
    assert sum(r.recall.k for r in results) == metrics.accuracy(labels, predicted).k


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 300), bins=st.integers(1, 20))
def test_reliability_loses_no_item(seed: int, n: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(n).round(2), rng.random(n) < 0.5
    found = metrics.reliability(confidence, correct, bins)
    assert sum(b.n for b in found) == n
    assert math.isclose(sum(b.n * b.accuracy for b in found), correct.sum())
    assert all(b.low - 1e-9 <= b.confidence <= b.high + 1e-9 for b in found)
    assert 0 <= metrics.ece(confidence, correct, bins) <= 1
