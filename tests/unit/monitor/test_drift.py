"""What a window says without labels: whether something changed, what, in which classes, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from inflame.model.engine.expected import Expected, Sample, View, describe
from inflame.monitor import drift
from inflame.monitor.drift import CHANGED, QUIET, RISK, Watch, between_false_alarms, judge, strangeness

CLASSES = ("ant", "bee", "cow")
LIMITS = {"changed": 0.005, "risk": 0.001}
CENTRES = np.random.default_rng(99).normal(0, 1, (3, 8))


def items(
    seed: int, *, sure: float = 4.0, share: Sequence[float] = (1, 1, 1), away: float = 0.0, seen: float = 0.0
) -> Sample:
    """400 items as a log keeps them: how sure the answers are, the shares of the classes, how far the embeddings are
    from where they usually are, and the mean of the statistics of the inputs."""
    rng, count = np.random.default_rng(seed), 400
    labels = rng.choice(3, count, p=np.array(share) / sum(share))
    logits = rng.normal(0, 1, (count, 3))
    logits[np.arange(count), labels] += sure
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Sample(
        probabilities=p,
        embedding=CENTRES[labels] + rng.normal(0, 0.3, (count, 8)) + away,
        seen=rng.normal(seen, 1, (count, 2)),
        known=p.max(axis=1) > 0.5,
    )


@pytest.fixture(scope="module")
def expected() -> Expected:
    return describe(
        items(0),
        frame=items(1).embedding,
        names=("width", "brightness"),
        classes=CLASSES,
        accuracy=0.9,
        labelled=400,
        thresholds=LIMITS,
    )


def test_days_like_those_before_are_quiet(expected: Expected) -> None:
    sample = items(2)
    found = judge(expected, sample)
    assert (found.level, found.items, found.findings, found.classes) == (QUIET, 400, (), ())
    assert found.advice == "Nothing to do."
    assert found.p["changed"] >= LIMITS["changed"]
    assert found.limits == LIMITS
    assert found.accuracy_before == 0.9
    assert found.estimate is None
    assert found.unknown == pytest.approx((~sample.known).mean())
    assert found.unknown_before == pytest.approx((~items(0).known).mean())
    assert (found.copies, found.near) == (0.0, 0.0)


def test_other_inputs_are_a_change_and_say_which(expected: Expected) -> None:
    found = judge(expected, items(3, seen=1.5))
    assert found.level == CHANGED
    assert {one.name for one in found.findings} == {"width", "brightness"}
    assert found.p["risk"] >= LIMITS["risk"], "the model itself sees nothing of it"
    assert found.advice.startswith("Look at the items most unlike the training.")


def test_one_input_of_two_is_told_alone(expected: Expected) -> None:
    sample = items(4)
    seen = sample.seen + np.array([0.0, 1.5])
    assert [one.name for one in judge(expected, replace(sample, seen=seen)).findings] == ["brightness"]


def test_doubtful_answers_are_a_risk(expected: Expected) -> None:
    found = judge(expected, items(5, sure=1.0))
    assert found.level == RISK
    assert "confidence" in {one.name for one in found.findings}
    assert found.advice == "Label 100 items like these: nothing of the kind was ever tested."
    weights = [one.p * one.share for one in found.findings]
    assert weights == sorted(weights)
    assert len(weights) <= drift.TOLD
    assert found.p["risk"] < LIMITS["risk"]


def test_embeddings_elsewhere_are_no_risk_while_the_answers_are_as_before(expected: Expected) -> None:
    found = judge(expected, items(6, away=2.0))
    assert found.p["risk"] < LIMITS["risk"]
    assert found.level == CHANGED, "without an estimator only what bears on the answers counts"


def test_classes_that_grew_or_shrank_are_named(expected: Expected) -> None:
    found = judge(expected, items(7, share=(6, 1, 1)))
    shares = {name: (before, now) for name, before, now in found.classes}
    assert set(shares) == set(CLASSES)
    assert found.classes[0][0] == "ant", "the one that changed most comes first"
    before, now = shares["ant"]
    assert before == pytest.approx(1 / 3, abs=0.06)
    assert now == pytest.approx(0.75, abs=0.06)
    assert shares["cow"][1] < shares["cow"][0]
    assert found.level == RISK


def test_a_class_that_changed_by_chance_is_not(expected: Expected) -> None:
    assert judge(expected, items(8, share=(1.1, 1, 1))).classes == ()


@pytest.mark.parametrize(("repeated", "advice"), [(100, True), (60, False)])
def test_copies_are_counted(expected: Expected, repeated: int, advice: bool) -> None:
    sample = items(9)
    inputs = [f"hash {max(number, repeated)}" for number in range(400)]
    found = judge(expected, sample, inputs)
    assert found.copies == repeated / 400
    assert found.near == 0.0
    assert found.advice.endswith("Many items are the same: look at who sends them.") == advice


def test_near_copies_are_counted_beside_exact_ones(expected: Expected) -> None:
    sample = items(10)
    embedding = sample.embedding.copy()
    embedding[200:300] = 1.5 * embedding[:100]  # the same direction
    embedding[300:] = embedding[0]  # and exact copies, which are no news
    inputs = [f"hash {number}" for number in range(300)] + ["hash 0"] * 100
    found = judge(expected, replace(sample, embedding=embedding), inputs)
    assert found.copies == 0.25
    assert found.near == pytest.approx(100 / 300)


def test_strangeness_is_in_usual_deviations(expected: Expected) -> None:
    wide = len(expected.middle)
    values = np.stack([expected.middle + far * expected.reach for far in (0.0, 2.0, -3.0, 500.0)])
    values[1, 0] = np.nan  # what isn't known says nothing
    view = View(values=values, fourier=np.zeros((4, 1)), predicted=np.zeros(4, np.int64))
    assert strangeness(expected, view).tolist() == pytest.approx([0.0, 2.0, 3.0, 20.0])
    nothing = View(values=np.full((1, wide), np.nan), fourier=np.zeros((1, 1)), predicted=np.zeros(1, np.int64))
    assert strangeness(expected, nothing).tolist() == [0.0]


def test_the_strangest_items_come_first(expected: Expected) -> None:
    sample = items(11)
    seen = sample.seen.copy()
    seen[[17, 300]] = [[40.0, 0.0], [90.0, 90.0]]
    assert judge(expected, replace(sample, seen=seen)).unlike[:2] == (300, 17)
    assert len(judge(expected, sample).unlike) == drift.UNLIKE


def test_how_rarely_it_rings_is_told(expected: Expected) -> None:
    assert between_false_alarms({"changed": 0.005, "risk": 0.0}) == {"changed": 100, "risk": 5_000_000}
    assert judge(expected, items(2)).to_json()["between_false_alarms"] == {"changed": 100, "risk": 500}


def test_evidence_adds_up_and_starts_anew_when_it_has_rung(expected: Expected) -> None:
    window = replace(judge(expected, items(2)), p={"changed": 0.04, "risk": 1.0})
    watch, sums, levels = Watch(), [], []
    for _ in range(6):
        watch, level = watch.after(window)
        sums.append(watch.changed)
        levels.append(level)
    assert sums == pytest.approx([2.5, 8.75, 24.375, 63.4375, 161.09375, 0.0])
    assert levels == [QUIET] * 5 + [CHANGED]
    assert watch.windows == 6
    assert watch.risk == pytest.approx(sum(0.5**power for power in range(1, 7)))


def test_a_window_that_rings_by_itself_says_so_through_the_watch(expected: Expected) -> None:
    assert Watch().after(judge(expected, items(5, sure=1.0)))[1] == RISK
    assert Watch().after(judge(expected, items(3, seen=1.5)))[1] == CHANGED
