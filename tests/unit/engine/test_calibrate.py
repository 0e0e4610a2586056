"""Calibration on answers whose truth is known, because it was drawn from them."""

from __future__ import annotations

import numpy as np
import pytest

from inflame.model.engine import calibrate, metrics
from inflame.model.engine.calibrate import Calibration


def drawn(n: int, classes: int, seed: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: perfectly calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (n, classes))
    p = calibrate.softmax(logits)
    return logits, np.asarray((p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1))


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_temperature_recovers_the_one_that_was_applied(true: float) -> None:
    logits, labels = drawn(20_000, 6, seed=3)
    assert calibrate.temperature(logits * true, labels) == pytest.approx(true, rel=0.05)


def test_temperature_lowers_the_log_loss_of_overconfident_answers() -> None:
    logits, labels = drawn(3000, 5, seed=1)
    loud = logits * 3
    fitted = calibrate.fit(loud, labels)
    before, after = calibrate.softmax(loud), fitted.apply(loud)
    assert metrics.log_loss(after, labels) < metrics.log_loss(before, labels)
    assert metrics.ece(after.max(1), after.argmax(1) == labels) < 0.03
    assert metrics.ece(before.max(1), before.argmax(1) == labels) > 0.1


def test_a_few_right_items_do_not_make_every_answer_certain() -> None:
    logits = np.eye(3)[[0, 1, 2, 0, 1]] * 4
    fitted = calibrate.fit(logits, np.array([0, 1, 2, 0, 1]))
    assert 0.8 < fitted.apply(logits).max() < 0.95  # Laplace's rule for 5 of 5: 6/7


def test_threshold_by_hand() -> None:
    top = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.55])
    p = np.stack([top, 1 - top], axis=1)
    labels = np.array([0, 0, 0, 1, 0, 1])
    found = calibrate.unknown_threshold(p, labels, error=0.2)
    assert found.value == pytest.approx(0.575)  # five are answered, one of them wrong
    assert (found.attained, found.coverage, found.error_rate) == (True, pytest.approx(5 / 6), pytest.approx(0.2))
    assert found.error_upper > 0.2
    strict = calibrate.unknown_threshold(p, labels, error=0.1)
    assert (strict.value, strict.coverage, strict.error_rate) == (pytest.approx(0.75), 0.5, 0.0)


def test_threshold_is_zero_when_every_answer_may_be_given() -> None:
    p = np.array([[0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])
    assert calibrate.unknown_threshold(p, np.array([0, 0]), 0.05).value == 0.0


def test_threshold_says_when_it_cannot_keep_the_promise() -> None:
    rng = np.random.default_rng(0)
    top = rng.uniform(0.6, 0.99, 400)
    p = np.stack([top, 1 - top], axis=1)
    labels = (rng.random(400) < 0.5).astype(int)
    labels[top.argmax()] = 1  # even the surest answer is wrong
    found = calibrate.unknown_threshold(p, labels, error=0.01)
    assert not found.attained
    assert found.coverage > 0.01
    assert found.error_rate > 0.01


def test_ties_are_answered_together() -> None:
    p = np.array([[0.8, 0.2]] * 4 + [[0.6, 0.4]] * 2)
    found = calibrate.unknown_threshold(p, np.array([0, 0, 0, 1, 0, 1]), error=0.1)
    assert not found.attained
    assert found.coverage in (pytest.approx(4 / 6), 1.0)


def test_conformal_by_hand() -> None:
    p = np.stack([np.arange(1, 10) / 10, 1 - np.arange(1, 10) / 10], axis=1)
    labels = np.zeros(9, dtype=int)  # scores 0.9 ... 0.1, n = 9
    assert calibrate.conformal(p, labels, alpha=0.1) == pytest.approx(0.9)
    assert calibrate.conformal(p, labels, alpha=0.5) == pytest.approx(0.5)
    assert calibrate.conformal(p, labels, alpha=0.01) == 1.0  # nine items can't promise 99 %


def test_sets_hold_the_likeliest_class_and_known_follows_the_threshold() -> None:
    rule = Calibration(threshold=0.5, qhat=0.2)
    p = np.array([[0.4, 0.35, 0.25], [0.85, 0.1, 0.05]])
    assert rule.sets(p).tolist() == [[True, False, False], [True, False, False]]
    assert rule.known(p).tolist() == [False, True]
    assert Calibration(qhat=1.0).sets(p).all()


def test_json_both_ways() -> None:
    logits, labels = drawn(50, 3, seed=0)
    fitted = calibrate.fit(logits, labels, source="out-of-fold")
    assert Calibration.from_json(fitted.to_json()) == fitted


def test_no_items_leave_everything_as_it_is() -> None:
    fitted = calibrate.fit(np.zeros((0, 4)), np.zeros(0, dtype=int))
    assert (fitted.temperature, fitted.threshold, fitted.qhat, fitted.n) == (1.0, 0.0, 1.0, 0)


def test_one_class() -> None:
    assert calibrate.fit(np.zeros((5, 1)), np.zeros(5, dtype=int)).apply(np.zeros((2, 1))).tolist() == [[1.0], [1.0]]


def test_the_usual_error_and_rate_are_five_and_ten_per_cent() -> None:
    logits, labels = drawn(300, 4, seed=5)
    p = calibrate.softmax(logits)
    assert calibrate.unknown_threshold(p, labels) == calibrate.unknown_threshold(p, labels, 0.05)
    assert calibrate.unknown_threshold(p, labels) != calibrate.unknown_threshold(p, labels, 0.2)
    assert calibrate.conformal(p, labels) == calibrate.conformal(p, labels, 0.1) != calibrate.conformal(p, labels, 0.3)


def test_all_that_is_fitted_is_kept() -> None:
    logits, labels = drawn(300, 4, seed=6)
    fitted = calibrate.fit(logits, labels, error=0.2, alpha=0.3, source="out-of-fold")
    p = calibrate.softmax(logits, calibrate.temperature(logits, labels))
    threshold = calibrate.unknown_threshold(p, labels, 0.2)
    assert (fitted.threshold, fitted.attained, fitted.coverage) == (threshold.value, True, threshold.coverage)
    assert (fitted.error_rate, fitted.error_upper) == (threshold.error_rate, threshold.error_upper)
    assert fitted.qhat == calibrate.conformal(p, labels, 0.3)
    assert (fitted.error, fitted.alpha, fitted.n, fitted.source) == (0.2, 0.3, 300, "out-of-fold")
    assert calibrate.fit(logits, labels).source == "val"
    assert 0 < fitted.coverage < 1


def test_the_upper_bound_is_wilsons() -> None:
    top = np.linspace(0.95, 0.6, 10)
    labels = np.zeros(10, dtype=int)
    labels[-1] = 1
    found = calibrate.unknown_threshold(np.stack([top, 1 - top], axis=1), labels, error=0.1)
    assert (found.coverage, found.error_rate) == (1.0, 0.1)
    # Where the observed rate is 1.645 standard errors below.
    spread = (found.error_upper * (1 - found.error_upper) / 10) ** 0.5
    assert found.error_upper - 0.1 == pytest.approx(1.6448536 * spread)


def test_the_threshold_with_the_least_bound_is_taken_where_none_keeps_the_promise() -> None:
    top = np.array([0.9, 0.8, 0.7, 0.6])
    p = np.stack([top, 1 - top], axis=1)
    found = calibrate.unknown_threshold(p, np.array([1, 0, 0, 0]), error=0.01)  # wrong where it is surest
    assert not found.attained
    assert (found.value, found.coverage, found.error_rate) == (0.0, 1.0, 0.25)
    assert calibrate.unknown_threshold(p, np.ones(4, dtype=int)).error_upper == 1.0


def test_risk_and_coverage_by_hand() -> None:
    sure, answered, wrong = calibrate.risk_coverage(
        np.array([0.6, 0.9, 0.6, 0.8]), np.array([True, True, False, False])
    )
    assert sure.tolist() == [0.9, 0.8, 0.6]
    assert answered.tolist() == [1, 2, 4]
    assert wrong.tolist() == [0, 1, 2]
    assert [len(part) for part in calibrate.risk_coverage(np.zeros(0), np.zeros(0, bool))] == [0, 0, 0]


def test_weights_count_items_more_often() -> None:
    logits, labels = drawn(400, 3, seed=7)
    twice = np.concatenate([logits, logits[:200]])
    weights = np.where(np.arange(400) < 200, 2.0, 1.0)
    repeated = calibrate.temperature(twice, np.concatenate([labels, labels[:200]]))
    assert calibrate.temperature(logits, labels, weights) == pytest.approx(repeated, rel=0.01)
    assert calibrate.temperature(logits, labels) != pytest.approx(repeated, rel=0.002)


def test_the_temperature_stays_within_bounds() -> None:
    logits, labels = drawn(500, 3, seed=8)
    assert calibrate.temperature(logits * 1e6, labels) == pytest.approx(calibrate.HOTTEST, rel=1e-3)
    sure = np.eye(3)[labels] * 1e-6
    assert calibrate.temperature(sure, labels) == pytest.approx(calibrate.COLDEST, rel=1e-3)


def test_the_smallest_score_of_all_at_a_rate_that_promises_nothing() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.zeros(3, dtype=int)
    for alpha in (0.9, 1.0):
        assert calibrate.conformal(p, labels, alpha) == pytest.approx(0.1)
    assert calibrate.conformal(p[:0], labels[:0]) == 1.0


def test_a_single_class_and_two_have_a_temperature() -> None:
    assert calibrate.temperature(np.ones((5, 1)), np.zeros(5, dtype=int)) == 1.0
    logits, labels = drawn(5000, 2, seed=9)
    assert calibrate.temperature(logits * 2, labels) == pytest.approx(2, rel=0.1)


def test_the_likeliest_class_is_found_in_each_row() -> None:
    rule = Calibration(qhat=0.0)
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert rule.sets(p).tolist() == [[False, True, False], [True, False, False]]
    assert Calibration(threshold=0.6).known(p).tolist() == [False, True]
    assert Calibration(temperature=2.0).apply(np.array([[2.0, 0.0]]))[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
