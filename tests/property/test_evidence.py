"""What the tests of the factory promise: scipy's numbers, and the error rates that they state."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inflame.factory import evidence
from inflame.model.engine import metrics

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(0, 400)
results = st.lists(st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 4)), min_size=2, max_size=12)


@settings(max_examples=200, deadline=None)
@given(t=st.floats(-60, 60), freedom=st.floats(1, 3000))
def test_student_is_scipys(t: float, freedom: float) -> None:
    assert evidence.student_p(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-9, abs=1e-300)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.001, 0.999), freedom=st.floats(1, 3000))
def test_students_quantile_is_scipys(share: float, freedom: float) -> None:
    expected = stats.t.ppf(share, freedom)
    assert evidence.student_quantile(share, freedom) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@settings(max_examples=150, deadline=None)
@given(a=results, b=results)
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    found = evidence.welch(a, b)
    assert found.value == pytest.approx(np.mean(b) - np.mean(a), abs=1e-12)
    if min(np.var(a), np.var(b)) < 1e-9:
        return
    expected = stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(a=results, b=st.floats(-1, 1))
def test_one_seed_against_many_is_students_test_with_their_spread(a: list[float], b: float) -> None:
    if np.std(a) < 1e-3:
        return
    t = (b - np.mean(a)) / (np.std(a, ddof=1) * math.sqrt(1 + 1 / len(a)))
    expected = 2 * stats.t.sf(abs(t), len(a) - 1)
    assert evidence.welch(a, [b]).p == pytest.approx(expected, rel=1e-6)
    assert evidence.welch([b], a).value == pytest.approx(-evidence.welch(a, [b]).value)


@settings(max_examples=150, deadline=None)
@given(only_a=counts, only_b=counts)
def test_mcnemar_is_the_binomial_with_half_of_the_observed_case(only_a: int, only_b: int) -> None:
    p, k, n = evidence.mcnemar(only_a, only_b), min(only_a, only_b), only_a + only_b
    exact = stats.binomtest(k, n).pvalue if n else 1.0
    assert p == pytest.approx(min(1, 2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5)) if n else 1, abs=1e-9)
    assert p <= exact + 1e-9
    assert p == evidence.mcnemar(only_b, only_a)


def test_mcnemar_keeps_its_level() -> None:
    """Two equally good models that differ on a tenth of 500 items: not told apart more often than 1 in 20."""
    rng = np.random.default_rng(0)
    differ = rng.binomial(500, 0.1, 4000)
    first = rng.binomial(differ, 0.5)
    false = np.mean([evidence.mcnemar(int(a), int(n - a)) < 0.05 for a, n in zip(first, differ, strict=True)])
    assert 0.03 < false < 0.058


@settings(max_examples=150, deadline=None)
@given(cells=st.tuples(counts, counts, counts, counts))
def test_newcombe_holds_the_difference_and_turns_with_the_sides(cells: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = cells
    found = evidence.newcombe(both, only_a, only_b, neither)
    assert -1 - 1e-12 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1 + 1e-12
    turned = evidence.newcombe(both, only_b, only_a, neither).mirrored()
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_newcombe_gives_the_published_interval() -> None:
    # Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    # data", method 10, for 36, 12, 2 and 0 items; the difference there is a - b.
    found = evidence.newcombe(36, 12, 2, 0).mirrored()
    assert (found.low, found.high) == (pytest.approx(0.0569, abs=1e-4), pytest.approx(0.3404, abs=1e-4))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 80))
def test_the_engine_says_the_same(seed: int, n: int) -> None:
    a, b = np.random.default_rng(seed).random((2, n)) < 0.8
    cells = [int(part.sum()) for part in (a & b, a & ~b, b & ~a, ~a & ~b)]
    ours, theirs = evidence.newcombe(*cells), metrics.newcombe_paired(a, b)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-12)
    assert evidence.wilson(int(a.sum()), n) == pytest.approx(metrics.wilson(int(a.sum()), n), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(2, 60))
def test_paired_is_scipys(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (2, n))
    expected = stats.ttest_rel(b, a)
    interval = expected.confidence_interval(0.95)
    found = evidence.paired(a, b)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high), rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_bootstrap_of_a_mean_is_the_paired_interval(seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(0, 1, (2, 300))
    found = evidence.bootstrap(np.ones(300, np.int64), lambda drawn: drawn @ (b - a) / 300, seed=seed)
    expected = evidence.paired(a, b)
    assert found.value == pytest.approx(expected.value, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.04)
    assert abs(math.sqrt(found.p) - math.sqrt(expected.p)) < 0.1


def test_bootstrap_draws_few_kinds_and_single_items_alike() -> None:
    values, counts = np.array([-1.0, 0.0, 1.0]), np.array([60, 1840, 100])
    few = evidence.bootstrap(counts, lambda drawn: drawn @ values / 2000)
    each = np.repeat(values, counts)
    many = evidence.bootstrap(np.ones(2000, np.int64), lambda drawn: drawn @ each / 2000)
    assert (few.low, few.high) == pytest.approx((many.low, many.high), abs=0.002)
    assert few.value == many.value == pytest.approx(0.02)


@settings(max_examples=100, deadline=None)
@given(ps=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_and_keeps_their_order(ps: list[float]) -> None:
    found = evidence.holm(ps)
    assert all(one >= p for one, p in zip(found, ps, strict=True))
    assert min(found) == pytest.approx(min(1, len(ps) * min(ps)))
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()


def test_holm_keeps_the_level_of_all_questions_together() -> None:
    rng = np.random.default_rng(1)
    wrong = np.mean([min(evidence.holm(rng.random(20).tolist())) < 0.05 for _ in range(3000)])
    assert wrong < 0.062


@settings(max_examples=15, deadline=None)
@given(differ=st.floats(0.02, 0.4), share=st.floats(0.2, 0.9))
def test_so_many_items_do_tell(differ: float, share: float) -> None:
    """With the stated number of items McNemar's test sees the difference in about 4 of 5 tries."""
    n = 10_000
    only_b = round(n * differ * (1 + share) / 2)
    only_a = round(n * differ) - only_b
    wanted = evidence.items_to_tell(only_a, only_b, n)
    assert wanted is not None
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(wanted, [only_a / n, only_b / n, 1 - (only_a + only_b) / n], 600)
    power = np.mean([evidence.mcnemar(int(a), int(b)) < 0.05 for a, b, _ in drawn])
    assert 0.7 < power < 0.92


def test_nothing_to_see_needs_no_number() -> None:
    assert evidence.items_to_tell(7, 7, 100) is None
    assert evidence.items_to_tell(0, 0, 0) is None
    assert evidence.seeds_to_tell([0.5], [0.6]) is None
    assert evidence.seeds_to_tell([0.5, 0.6], [0.6, 0.5]) is None
    assert evidence.needed(0.0, 1.0) is None


@settings(max_examples=10, deadline=None)
@given(effect=st.floats(0.4, 3))
def test_so_many_seeds_do_tell(effect: float) -> None:
    a, b = [0.0, math.sqrt(2)], [effect, effect + math.sqrt(2)]  # standard deviation 1
    wanted = evidence.seeds_to_tell(a, b)
    assert wanted is not None
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 1, (600, 2, wanted)) + np.array([[0], [effect]])
    power = np.mean([evidence.welch(one.tolist(), other.tolist()).p < 0.05 for one, other in draws])
    assert 0.68 < power < 0.93


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_the_best_of_many_is_brought_back_to_earth(alike: float) -> None:
    """Thirty models of nearly the same worth, measured on 300 items: the best looks better than it is; what is expected
    of it afterwards is not. `alike`: how far all find the same items hard."""
    rng = np.random.default_rng(5)
    raw, corrected = [], []
    for trial in range(150):
        true = rng.normal(0.9, 0.006, 30)[:, None]
        hard = rng.random(300) < alike
        right = np.where(hard, rng.random(300), rng.random((30, 300))) < true
        best = int(right.mean(axis=1).argmax())
        raw.append(right[best].mean() - true[best, 0])
        corrected.append(evidence.best_expected(right.astype(float), resamples=100, seed=trial) - true[best, 0])
    assert np.mean(raw) > 0.01
    assert abs(np.mean(corrected)) < 0.35 * np.mean(raw)


def test_what_cannot_be_said_is_said_so() -> None:
    found = evidence.welch([0.4], [0.5])
    assert (found.p, found.low) == (1.0, -math.inf)
    assert found.to_json() == {"value": pytest.approx(0.1), "low": None, "high": None, "p": 1.0}
    with pytest.raises(ValueError, match="at least one"):
        evidence.welch([], [0.5])
