"""Wrong labels and strangers among vectors: planted ones are found, clean sets accuse nobody."""

from __future__ import annotations

import numpy as np
import pytest

from inflame.artifact import suspects


def blobs(count: int = 600, classes: int = 4, spread: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    middles = random.normal(0, 1, (classes, 40))
    given = random.integers(0, classes, count)
    return (middles[given] + spread * random.normal(0, 1, (count, 40))).astype(np.float32), given


def flipped(given: np.ndarray, share: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    wrong = np.zeros(len(given), dtype=bool)
    wrong[random.choice(len(given), int(share * len(given)), replace=False)] = True
    classes = given.max() + 1
    return np.where(wrong, (given + random.integers(1, classes, len(given))) % classes, given), wrong


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_planted_labels_are_found(share: float) -> None:
    rows, true = blobs()
    given, wrong = flipped(true, share)
    judged = suspects.labels([rows], given)
    assert judged is not None
    said = judged.wrong >= suspects.WRONG
    assert (said & wrong).sum() >= 0.9 * wrong.sum()
    assert (said & wrong).sum() >= 0.9 * said.sum()
    assert (judged.likely[said & wrong] == true[said & wrong]).mean() > 0.95
    assert judged.noise == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_a_clean_set_accuses_nobody(spread: float) -> None:
    """Also where classes overlap so much that a tenth can't be told apart."""
    rows, given = blobs(spread=spread)
    judged = suspects.labels([rows], given)
    assert judged is not None
    assert (judged.wrong >= suspects.WRONG).sum() <= 2


def test_twins_do_not_vouch_for_each_other() -> None:
    """An item and its copies under one wrong label."""
    rows, true = blobs(300)
    copies = np.repeat(rows[:1], 15, axis=0)
    given = np.concatenate([true, np.full(15, (true[0] + 1) % 4)])
    given[0] = given[-1]
    groups = np.concatenate([np.arange(300), np.zeros(15, dtype=np.int64)])
    alone = suspects.labels([np.concatenate([rows, copies])], given)
    together = suspects.labels([np.concatenate([rows, copies])], given, groups)
    assert alone is not None
    assert together is not None
    assert (together.wrong[[0, *range(300, 315)]] >= suspects.WRONG).all()
    assert (alone.wrong[300:] < suspects.WRONG).any()


def test_features_that_say_nothing_accuse_nobody() -> None:
    random = np.random.default_rng(0)
    assert suspects.labels([random.normal(size=(300, 20)).astype(np.float32)], random.integers(0, 3, 300)) is None


@pytest.mark.parametrize("rows", [0, 1, suspects.FEWEST - 1])
def test_too_little_to_judge_by(rows: int) -> None:
    features = np.zeros((rows, 5), dtype=np.float32)
    assert suspects.labels([features], np.arange(rows) % 2) is None
    assert suspects.outliers(features, np.zeros(rows, dtype=np.int64)).tolist() == []


def test_one_class_and_broken_numbers() -> None:
    rows, given = blobs(60)
    assert suspects.labels([rows], np.zeros(60, dtype=np.int64)) is None
    rows[3] = np.nan
    assert suspects.labels([rows], given) is None
    assert suspects.outliers(rows, given).tolist() == []


def test_a_second_view_helps_and_another_judge_is_heard() -> None:
    rows, true = blobs(300, spread=2.5)
    clear, _ = blobs(300, spread=0.5)
    given, wrong = flipped(true, 0.05)

    def hits(judged: suspects.Suspects | None) -> int:
        return 0 if judged is None else int(((judged.wrong >= suspects.WRONG) & wrong).sum())

    def oracle(_given: np.ndarray, _fold: np.ndarray) -> np.ndarray:
        return np.eye(4)[true] * np.random.default_rng(3).uniform(1, 6, (len(true), 1))

    alone = suspects.labels([rows], given)
    both = suspects.labels([rows, clear], given)
    assert alone is not None
    assert both is not None
    assert both.accuracy > alone.accuracy + 0.05
    assert hits(suspects.labels([rows], given, more=[oracle])) >= 0.9 * wrong.sum()


def test_the_answer_is_the_same_every_time() -> None:
    rows, true = blobs(200)
    given, _ = flipped(true, 0.1)
    first, second = suspects.labels([rows], given), suspects.labels([rows], given)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.wrong, second.wrong)


def test_a_stranger_is_an_outlier() -> None:
    rows, given = blobs(500)
    strange = np.random.default_rng(9).normal(0, 3, (3, 40)).astype(np.float32)
    found = suspects.outliers(np.concatenate([rows, strange]), np.concatenate([given, [0, 1, 2]]))
    assert set(found.tolist()) == {500, 501, 502}


def test_no_outliers_where_all_are_alike() -> None:
    rows, given = blobs(500)
    assert len(suspects.outliers(rows, given)) <= 1


def test_separation_ranks_features() -> None:
    clear, given = blobs(spread=0.5)
    blurred, _ = blobs(spread=3.0)
    assert suspects.separation(clear, given) > suspects.separation(blurred, given) + 0.1


def test_the_forgiving_judge_learns_beside_wrong_labels_from_features_of_any_scale() -> None:
    random = np.random.default_rng(0)
    true = np.arange(300) % 3
    given = true.copy()
    given[:15] = (true[:15] + 1) % 3
    for scale, shared in ((1.0, 0.0), (1e-3, 0.0), (100.0, 5.0)):  # also where all columns go together
        rows = (3 * np.eye(3)[true] + random.normal(0, 0.7, (300, 3)) + shared * random.normal(size=(300, 1))) * scale
        scores = suspects._forgiving(rows.astype(np.float32), given, 3, np.arange(300) % suspects.FOLDS)
        assert scores.shape == (300, 3)
        assert (scores.argmax(1) == true).mean() > 0.93


def test_of_few_items_a_class_only_clear_features_accuse() -> None:
    """Five photos a class, of which a weak body knows half: those are hard, not wrong."""
    rows, given = blobs(count=40, classes=8, spread=2.6, seed=3)
    assert suspects.labels([rows], given) is None
    rows, true = blobs(count=64, classes=8, spread=0.2, seed=3)
    given, wrong = flipped(true, 0.04)
    judged = suspects.labels([rows], given)
    assert judged is not None
    assert set(np.flatnonzero(judged.wrong >= suspects.WRONG)) == set(np.flatnonzero(wrong))
