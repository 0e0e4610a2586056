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
