"""The linear model of texts: one matrix that says what the SVM and naive Bayes say together, honestly held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.naive_bayes import ComplementNB

from inflame.artifact import texts
from inflame.model.engine import bagging


def corpus(count: int = 120, classes: int = 3, telling: float = 0.25) -> tuple[texts.Counts, np.ndarray, int]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    told = [
        [f"class{label}x{rng.integers(9)}" if rng.random() < telling else f"any{rng.integers(200)}" for _ in range(25)]
        for label in labels
    ]
    learned = texts.learn(told, pairs=128)
    return texts.Vectoriser(learned)(told), labels.astype(np.int64), len(learned.words) + 128


def test_weights_are_those_of_scikit_learn() -> None:
    counts, labels, entries = corpus()
    x = bagging.weighted(counts, bagging._idf(counts, entries))
    raw = x.copy()
    raw.data = counts.counts.astype(np.float64)
    theirs = TfidfTransformer(sublinear_tf=True).fit_transform(raw)
    assert abs(x - theirs).max() < 1e-5
    mine = x @ bagging._bayes(x, labels, 3)
    their_scores = ComplementNB(alpha=bagging.SMOOTHING).fit(x, labels).predict_joint_log_proba(x)
    assert np.array_equal(mine.argmax(1), their_scores.argmax(1))


def test_the_net_says_what_the_matrix_says() -> None:
    counts, labels, entries = corpus()
    found = bagging.fit(counts, labels, entries=entries, classes=3)
    net = found.net().eval()
    inputs = [torch.from_numpy(value) for value in counts.padded().values()]
    with torch.inference_mode():
        logits = net(*inputs).numpy()
    expected = bagging.weighted(counts, found.idf) @ found.weight + found.bias
    assert np.abs(logits - expected).max() < 1e-4
    assert (logits.argmax(1) == labels).mean() > 0.99


def test_held_out_answers_are_held_out() -> None:
    counts, _, entries = corpus(telling=0.0)
    dice = np.random.default_rng(1).integers(0, 3, len(counts)).astype(np.int64)
    found = bagging.fit(counts, dice, entries=entries, classes=3)
    assert found.accuracy < 0.5
    assert (found.held.argmax(1) == dice).mean() == pytest.approx(found.accuracy)


@pytest.mark.parametrize("classes", [2, 4])
def test_any_number_of_classes_and_one_that_is_absent(classes: int) -> None:
    counts, labels, entries = corpus(classes=classes)
    found = bagging.fit(counts, labels, entries=entries, classes=classes + 1, strengths=(1.0,))
    assert found.held.shape == (len(labels), classes + 1)
    assert found.accuracy > 0.9
    assert not (found.held.argmax(1) == classes).any()


def test_other_strengths_are_tried_only_while_there_is_time() -> None:
    counts, labels, entries = corpus()
    asked: list[int] = []

    def left() -> float:
        asked.append(1)
        return 0.0

    assert bagging.fit(counts, labels, entries=entries, classes=3, left=left).strength == bagging.STRENGTHS[0]
    assert len(asked) == 1


def test_processes_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, labels, entries = corpus(60)
    alone = bagging.fit(counts, labels, entries=entries, classes=3, strengths=(1.0,))
    monkeypatch.setattr(bagging, "LARGE", 0)
    several = bagging.fit(counts, labels, entries=entries, classes=3, strengths=(1.0,))
    assert np.array_equal(alone.weight, several.weight)


def test_copies_are_in_one_fold_and_classes_are_spread() -> None:
    labels = np.repeat(np.arange(4), 12)
    groups = np.arange(48) // 2
    fold = bagging.assigned(labels, 3, 0, groups)
    assert all(len(set(fold[groups == group])) == 1 for group in range(24))
    assert (np.stack([np.bincount(labels[fold == number], minlength=4) for number in range(3)]) == 4).all()


def test_the_words_that_speak_for_a_class_are_its_own() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    told = [[f"class{label}x{rng.integers(5)}" for _ in range(6)] + ["any", "thing"] for label in labels]
    learned = texts.learn(told, pairs=0)
    found = bagging.fit(
        texts.Vectoriser(learned)(told), labels, entries=len(learned.words), classes=3, strengths=(1.0,)
    )
    for label, words in enumerate(found.words(learned.words, most=4)):
        assert all(word.startswith(f"class{label}x") for word in words)


def test_no_class_is_too_small() -> None:
    learned = texts.learn([["red", "dog"], ["blue", "cat"], ["green", "fish"]], pairs=8)
    counts = texts.Vectoriser(learned)([["red", "dog"], ["blue", "cat"], ["green", "fish"]])
    found = bagging.fit(counts, np.arange(3), entries=len(learned.words) + 8, classes=3)
    scores = bagging.weighted(counts, found.idf) @ found.weight + found.bias
    assert scores.argmax(1).tolist() == [0, 1, 2]
    assert np.isfinite(found.held).all()


def test_texts_that_nothing_tells_apart_are_no_crash() -> None:
    learned = texts.learn([["same"]] * 8, pairs=8)
    counts = texts.Vectoriser(learned)([["same"]] * 8)
    found = bagging.fit(counts, np.arange(8) % 2, entries=len(learned.words) + 8, classes=2)
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.held).all()


def test_of_a_large_set_only_a_better_strength_is_tried_on_all_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, labels, entries = corpus(60)
    wanted: list[tuple[float, int]] = []
    fit = bagging._Trials.fit

    def noted(self: bagging._Trials, keys: list[tuple[float, int]]) -> None:
        wanted.extend(keys)
        fit(self, keys)

    monkeypatch.setattr(bagging._Trials, "fit", noted)
    monkeypatch.setattr(bagging, "LARGE", 0)
    monkeypatch.setattr(bagging.host, "cores", lambda: 1)
    bagging.fit(counts, labels, entries=entries, classes=3, strengths=(1.0, 0.001))
    assert (0.001, 0) in wanted
    assert (0.001, 1) not in wanted
    wanted.clear()
    bagging.fit(counts, labels, entries=entries, classes=3, strengths=(1e-6, 1.0))  # the first leaves much to gain
    assert ((1.0, 1) in wanted) == (found_more(counts, labels, entries) > bagging.MORE)


def found_more(counts: texts.Counts, labels: np.ndarray, entries: int) -> float:
    """How much better strength 1 is than 1e-6 on the first fold."""
    x = bagging.weighted(counts, bagging._idf(counts, entries))
    trials = bagging._Trials(x, labels, bagging.assigned(labels, 3, 0, None), 3, 3)
    trials.fit([(1e-6, 0), (1.0, 0)])
    return trials.judged(1.0, [0]).merit[0] - trials.judged(1e-6, [0]).merit[0]
