"""The tests of shift against scipy and against chance; the estimator on a world whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from inflame.model.engine import estimate, shift
from inflame.model.engine.expected import Expected, Sample, View, describe

CLASSES = ("a", "b", "c")


def sample(count: int, seed: int, *, worse: float = 0.0, moved: float = 0.0) -> tuple[Sample, np.ndarray]:
    """Items of three classes in eight dimensions, a softmax that errs now and then, and which answers are right. worse:
    noise on the embedding, which the answers suffer from; moved: a statistic of the inputs alone."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    centres = 2.2 * np.eye(3, 8)
    embedding = centres[truth] + rng.normal(0, 1, (count, 8)) + worse * rng.normal(0, 2, (count, 8))
    logits = 2.0 * embedding[:, :3]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    seen = np.column_stack([rng.normal(moved, 1, count), rng.integers(0, 2, count), np.full(count, np.nan)])
    found = Sample(
        probabilities=p,
        embedding=embedding,
        seen=seen.astype(np.float32),
        known=p.max(axis=1) > 0.5,
        kinds=("JPEG",) * count,
    )
    return found, p.argmax(axis=1) == truth


@pytest.fixture(scope="module")
def expected() -> Expected:
    held, right = sample(600, 0)
    return describe(
        held,
        frame=sample(200, 1)[0].embedding,
        names=("brightness", "two", "none"),
        classes=CLASSES,
        accuracy=float(right.mean()),
        labelled=600,
        thresholds=shift.NOMINAL,
    )


def found(expected: Expected, one: Sample) -> list[shift.Finding]:
    return shift.compare(expected, expected.view(one), one.known, one.kinds)


@pytest.mark.parametrize("size", [20, 200, 1000])
def test_kolmogorov_is_that_of_scipy(size: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(size)
    for moved in (0.0, 0.1, 0.3):
        one, other = np.sort(rng.normal(0, 1, 400)), np.sort(rng.normal(moved, 1, size))
        distance, p = shift.kolmogorov(one, other)
        theirs = stats.ks_2samp(one, other, method="asymp")
        assert distance == pytest.approx(theirs.statistic, abs=1e-9)
        assert p == pytest.approx(theirs.pvalue, abs=0.03)


def test_kolmogorov_of_few_values_and_of_none() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    one, other = (np.sort(rng.integers(0, 4, count)).astype(float) for count in (300, 50))
    assert shift.kolmogorov(one, other)[0] == pytest.approx(stats.ks_2samp(one, other).statistic, abs=1e-9)
    assert shift.kolmogorov(np.full(100, 28.0), np.full(50, 28.0)) == (0.0, 1.0)
    assert shift.kolmogorov(np.full(100, 28.0), np.full(50, 32.0))[1] < 1e-10
    assert shift.kolmogorov(np.zeros(0), np.zeros(5)) == (0.0, 1.0)


def test_chi_square_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 3, 9, 50):
        for x in (0.5 * degrees, degrees, 2 * degrees + 5):
            assert shift.chi_square(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), abs=0.012)
    one, other = np.array([50, 30, 20]), np.array([260, 310, 230])
    assert shift.alike(one, other) == pytest.approx(stats.chi2_contingency([one, other], False).pvalue, rel=0.1)
    assert shift.alike(np.array([5, 0]), np.array([90, 0])) == 1.0


def test_more_of_something_is_fishers_exact_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count, n, before, m in ((0, 10, 0, 50), (3, 10, 0, 200), (4, 20, 12, 1000), (30, 500, 9, 200), (10, 10, 3, 4)):
        table = [[count, n - count], [before, m - before]]
        theirs = stats.fisher_exact(table, alternative="greater").pvalue
        assert shift.more(count, n, before, m) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(10, 1000), (50, 1000), (500, 200)])
def test_what_is_rare_rings_as_rarely_as_promised(n: int, m: int) -> None:
    """A class, or something unknown, that one item in fifty is."""
    rng, level, turns = np.random.default_rng(n), 0.002, 8000
    now, before = (rng.binomial(size, 0.02, turns) for size in (n, m))
    tables = ((np.array([n - some, some]), np.array([m - most, most])) for some, most in zip(now, before, strict=True))
    assert np.mean([shift.alike(*two) < level for two in tables]) <= 3 * level
    unknown = [shift.more(int(some), n, int(most), m) < level for some, most in zip(now, before, strict=True)]
    assert np.mean(unknown) <= 1.3 * level


@pytest.mark.parametrize("size", [20, 50, 200])
def test_clean_windows_ring_as_rarely_as_promised(expected: Expected, size: int) -> None:
    p = {"changed": [], "risk": []}
    for seed in range(300):
        done = found(expected, sample(size, 1000 + seed)[0])
        p["changed"].append(shift.combined(done))
        p["risk"].append(shift.combined(done, shift.MODEL))
    assert np.mean(np.array(p["changed"]) < shift.NOMINAL["changed"]) <= 0.01
    assert np.mean(np.array(p["risk"]) < shift.NOMINAL["risk"]) <= 0.0034


def test_the_discrepancy_has_an_honest_p(expected: Expected) -> None:
    p = [shift.discrepancy(expected, expected.view(sample(100, 5000 + seed)[0]))[1] for seed in range(300)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.1
    assert 0.3 < np.median(p) < 0.7


def test_a_change_of_the_inputs_alone_is_no_change_of_the_model(expected: Expected) -> None:
    done = found(expected, sample(200, 7, moved=1.0)[0])
    assert shift.combined(done) < 1e-10
    assert shift.combined(done, shift.MODEL) > 0.01
    worst = min(done, key=lambda one: one.p * one.share)
    assert worst.name == "brightness"
    assert worst.shift == pytest.approx(1.0, abs=0.3)


def test_a_change_of_the_model_is_seen_in_few_items(expected: Expected) -> None:
    assert shift.combined(found(expected, sample(50, 8, worse=1.0)[0]), shift.MODEL) < 1e-4


def test_other_files_are_seen(expected: Expected) -> None:
    one = sample(50, 9)[0]
    done = shift.compare(expected, expected.view(one), one.known, ("PNG",) * 50)
    assert min(done, key=lambda found: found.p).name == "type"


def test_it_is_read_back_as_it_was(expected: Expected) -> None:
    again = Expected.of(expected.to_bytes())
    one = sample(100, 11)[0]
    mine, theirs = found(expected, one), found(again, one)
    assert [test.name for test in mine] == [test.name for test in theirs]
    np.testing.assert_allclose([test.p for test in mine], [test.p for test in theirs], rtol=0.02, atol=1e-6)
    assert again.class_names == CLASSES
    assert again.thresholds == shift.NOMINAL


def test_thresholds_come_from_one_part_and_are_verified_on_another(expected: Expected) -> None:
    rng = np.random.default_rng(0)
    limits = shift.thresholds(expected, sample(300, 21)[0], rng)
    assert all(shift.LEAST <= limits[level] <= nominal for level, nominal in shift.NOMINAL.items())
    seen = shift.verified(expected, sample(300, 22)[0], rng)
    assert seen["items"] == 300
    assert seen["windows"] == 400  # of 20 and 50; 200 are more than half of them
    assert seen["risk"] <= 0.02  # the windows share the same 300 items
    assert shift.verified(expected, sample(10, 23)[0], rng) == {"items": 10, "windows": 0}


def _group(expected: Expected, family: str, seed: int, worse: float) -> estimate.Spoiled:
    one, right = sample(400, seed, worse=worse)
    return estimate.Spoiled(family=family, view=expected.view(one), known=one.known, correct=right)


def test_the_estimate_follows_the_truth_and_says_when_it_cannot(expected: Expected) -> None:
    import dataclasses

    groups = [
        _group(expected, f"family {number}", 30 + number, worse)
        for number, worse in enumerate((0.2, 0.4, 0.6, 0.8, 1, 1.2))
    ]
    fitted = estimate.fit(expected, _group(expected, "", 40, 0.0), groups, np.random.default_rng(0))
    knowing = dataclasses.replace(expected, estimator=fitted)
    for worse in (0.0, 0.3, 0.7, 1.1):
        one, right = sample(400, 50, worse=worse)
        guess = estimate.estimate(knowing, knowing.view(one), one.known)
        assert guess is not None
        assert guess.accuracy == pytest.approx(right.mean(), abs=0.08)
        assert guess.low <= right.mean() <= guess.high
        assert guess.reliable
    far, _ = sample(400, 60, worse=30)
    beyond = estimate.estimate(knowing, knowing.view(far), far.known)
    assert beyond is not None
    assert not beyond.reliable
    assert beyond.label > 50


def test_answers_spread_less_when_they_are_unsure_or_gather_for_no_reason(expected: Expected) -> None:
    import dataclasses

    view = expected.view(sample(600, 80)[0])
    usual = estimate._usual(expected, view, np.random.default_rng(0))

    def fall(one: View) -> float:
        return estimate.spread(usual, one, estimate.elsewhere(usual, expected, one))

    other = expected.view(sample(900, 81)[0])
    assert fall(other) == pytest.approx(0.0, abs=0.02)
    assert fall(dataclasses.replace(other, soft=0.4 * other.soft + 0.2)) < -0.2, "unsure"
    of_one = other.take(np.flatnonzero((other.predicted == 0) | (np.arange(900) % 20 == 0)))
    assert fall(of_one) == pytest.approx(0.0, abs=0.05), "more of one class is no fall"
    values = of_one.values.copy()
    values[:, len(expected.names) + 2 : -1] += 2 * np.sqrt(np.arange(1, 1 + expected.basis.shape[1]))
    elsewhere = dataclasses.replace(of_one, values=values)
    assert fall(elsewhere) < -0.15, "unless they are other things than before"
    assert estimate.elsewhere(usual, expected, other) < 0.01
    assert estimate.elsewhere(usual, expected, of_one) < 0.1
    assert estimate.elsewhere(usual, expected, elsewhere) > 0.95
    noisy = expected.view(sample(900, 82, worse=0.5)[0])
    assert estimate.elsewhere(usual, expected, noisy) > 0.9, "noise leaves the middles where they were"


@pytest.mark.parametrize("shares", [(0.9, 0.05, 0.05), (0.05, 0.9, 0.05), (0.02, 0.02, 0.96)])
def test_other_shares_of_the_classes_are_estimated_by_the_calibration(shares: tuple[float, ...]) -> None:
    """Three bells on a line: the one in the middle is taken for either of the others. Their true probabilities."""
    places, rng = np.array([-1.5, 0.0, 1.5]), np.random.default_rng(3)

    def drawn(of: tuple[float, ...], count: int) -> tuple[np.ndarray, float]:
        truth = rng.choice(3, count, p=of)
        x = places[truth] + rng.normal(0, 1, count)
        p = np.exp(-((x[:, None] - places) ** 2) / 2)
        return p / p.sum(axis=1, keepdims=True), float((p.argmax(axis=1) == truth).mean())

    usual = {"shares": drawn((1 / 3, 1 / 3, 1 / 3), 5000)[0].mean(axis=0).tolist()}
    soft, right = drawn(shares, 3000)
    assert estimate._share(np.array(estimate.surely(usual, soft))) == pytest.approx(right, abs=0.025)
    assert abs(soft.max(axis=1).mean() - right) > 0.03, "sureness alone doesn't know it"


def test_a_window_of_one_class_is_reliable_and_at_its_accuracy(expected: Expected) -> None:
    import dataclasses

    groups = [
        _group(expected, f"family {number}", 30 + number, worse)
        for number, worse in enumerate((0.2, 0.4, 0.6, 0.8, 1, 1.2))
    ]
    fitted = estimate.fit(expected, _group(expected, "", 40, 0.0), groups, np.random.default_rng(0))
    knowing = dataclasses.replace(expected, estimator=fitted)
    one, right = sample(2000, 55)
    truth = np.random.default_rng(55).integers(0, 3, 2000)  # the first that `sample` draws
    rows = np.flatnonzero((truth == 1) | (np.arange(2000) % 10 == 0))
    guess = estimate.estimate(knowing, knowing.view(one.take(rows)), one.known[rows])
    assert guess is not None
    assert guess.accuracy == pytest.approx(right[rows].mean(), abs=0.03)
    assert guess.low <= right[rows].mean() <= guess.high
    assert guess.reliable


def test_an_estimator_of_before_gives_no_estimate(expected: Expected) -> None:
    import dataclasses

    before = dataclasses.replace(expected, estimator={"usual": {}, "width": 0.5, "weights": [0.0] * 11})
    one = sample(50, 70)[0]
    assert estimate.estimate(before, before.view(one), one.known) is None


def test_no_estimate_without_an_estimator(expected: Expected) -> None:
    one = sample(50, 70)[0]
    assert estimate.estimate(expected, expected.view(one), one.known) is None
    assert estimate.fit(expected, _group(expected, "", 40, 0.0), [], np.random.default_rng(0)) == {}
