"""Likely wrong labels and things that belong to no class, from feature vectors alone.

Labels are judged by scores that never saw them: out-of-fold, as in confident learning (Northcutt et al., 2021,
arXiv:1911.00068), with twins in one fold. Ranking by confidence alone blames every ambiguous item of a hard class; so
the scores are calibrated under the assumption that an unknown share of labels is wrong at random, and that share is
estimated with them. On clean sets it comes out as zero, and nobody is suspected (benchmarks/faults.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Judge = Callable[[Ints, Ints], Doubles]

FEWEST = 30  # items below which nothing can be said
# The probability of a wrong label from which it is shown: where precision and recall come out about equal, for
# features of pictures and for words (benchmarks/faults.py).
WRONG, WRONG_TEXT = 0.3, 0.45
ENOUGH = 20  # items a class from which guesses that are often wrong still tell wrong labels from hard items
TELLS, TELLS_OF_FEW = 0.25, 0.75  # of what always the largest class gets wrong, the share that the guesses get right
FOLDS = 5
NEIGHBOURS = 12

_AXES = 256  # principal components that are used
_WAVES = 1024  # random Fourier features
_STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_WAVE_STRENGTHS = (1e-2, 3e-2, 1e-1, 3e-1)
_FORGIVEN, _DECAY, _STEPS = 0.05, 0.4, 40  # share of labels taken for wrong; pull to zero, over the items; iterations
_REFERENCE = 10_000  # items among which neighbours are looked for, at most
_FIT = 20_000  # items that the calibration is fitted on, at most
_BLOCK = 1024
_SHARP = 0.001  # pull towards certainty: of equal explanations the one with wrong labels, not with doubt all over
_STRANGE, _SHARE = 4.0, 0.01  # robust standard deviations; the largest share of items that are outliers


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspects:
    """For each item the probability that its label is wrong (float32 [N]) and the class it looks like (int64 [N]).
    `noise` is the estimated share of wrong labels, `accuracy` how often the out-of-fold guess is the given label."""

    wrong: Floats
    likely: Ints
    noise: float
    accuracy: float


def labels(
    features: Sequence[Floats], given: Ints, groups: Ints | None = None, more: Sequence[Judge] = ()
) -> Suspects | None:
    """Who is likely mislabelled. features: one or several [N,D] of the same rows (of any length); given: the class of
    each row, 0 … K-1; groups: rows of one group (twins) are never judged by each other; more: other judges, given
    (classes [N], folds [N]) → scores [N,K] of each row by the folds that it isn't in. None when there is too little to
    judge by, or when the features don't tell the classes apart."""
    classes = int(given.max()) + 1 if len(given) else 0
    if len(given) < FEWEST or classes < 2 or not all(np.isfinite(one).all() for one in features):
        return None
    units = np.arange(len(given)) if groups is None else groups
    fold = _folds(given, units)
    scores = [judge(given, fold) for judge in more]
    for one in features:
        rows = projected(one)
        scores += [
            _out_of_fold(rows, given, classes, fold, _STRENGTHS),
            _out_of_fold(_waves(rows), given, classes, fold, _WAVE_STRENGTHS),
            np.log(_votes(rows, given, classes, units) + 0.02),
        ]
        if not more:  # who judges words (naive Bayes) is as clear as this
            scores.append(_forgiving(rows, given, classes, fold))
    chances, noise = _calibrated(np.stack(scores, axis=2), given)
    mine = chances[np.arange(len(given)), given]
    slip = noise / (classes - 1)
    wrong = slip * (1 - mine) / np.maximum((1 - noise) * mine + slip * (1 - mine), 1e-12)
    likely = chances.argmax(1)
    accuracy = float((likely == given).mean())
    most = float(np.bincount(given).max() / len(given))
    if accuracy < most + (TELLS if len(given) >= ENOUGH * classes else TELLS_OF_FEW) * (1 - most):
        return None
    wrong[likely == given] = 0
    return Suspects(wrong=wrong.astype(np.float32), likely=likely, noise=noise, accuracy=accuracy)


def outliers(features: Floats, given: Ints) -> Ints:
    """Rows that are far from everything: their neighbours are much further away than those of others in their class.
    At most one in a hundred, the strangest first."""
    if len(features) < FEWEST or not np.isfinite(features).all():
        return np.zeros(0, dtype=np.int64)
    strange = (_robust(_isolation(features)) + _robust(_unlikeness(projected(features)))) / 2
    for label in np.unique(given):
        mine = given == label
        if mine.sum() >= FEWEST:  # unusual for all, and unusual for its class
            strange[mine] = np.minimum(strange[mine], _STRANGE / 2 + _robust(strange[mine]))
    order = np.argsort(-strange)[: max(1, int(_SHARE * len(strange)))]
    return order[strange[order] > _STRANGE]


def separation(features: Floats, given: Ints) -> float:
    """How well features tell the classes apart: out-of-fold accuracy of ridge regression. To choose among bodies."""
    classes, fold = int(given.max()) + 1, _folds(given, np.arange(len(given)))
    scores = _out_of_fold(projected(features), given, classes, fold, _STRENGTHS[1:4])
    return float((scores.argmax(1) == given).mean())


def projected(features: Floats) -> Floats:
    """The rows with equal length, centred, in their first principal components: float32 [N, up to 256].
    Features that are never negative are square-rooted before (Hellinger), so that few large values don't rule."""
    rows = np.asarray(features, dtype=np.float32)
    rows = np.sqrt(rows) if rows.min(initial=0) >= 0 else rows
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    rows = (rows - rows.mean(0)).astype(np.float32)
    if rows.shape[1] <= _AXES:
        return np.asarray(rows, dtype=np.float32)
    sample = rows[:: max(1, len(rows) // 5000)]
    if len(sample) < rows.shape[1]:  # the small one of the two products has the same axes
        _, vectors = np.linalg.eigh((sample @ sample.T).astype(np.float64))
        axes = sample.T @ vectors[:, ::-1][:, :_AXES].astype(np.float32)
        axes = np.linalg.qr(axes)[0]
    else:
        axes = np.linalg.eigh((sample.T @ sample).astype(np.float64))[1][:, ::-1][:, :_AXES].astype(np.float32)
    found: Floats = rows @ axes
    return found


def _isolation(features: Floats) -> Floats:
    """How far the five nearest others are, by the angle between raw features (square-rooted when never negative)."""
    rows = np.asarray(features, dtype=np.float32)
    rows = np.sqrt(rows) if rows.min(initial=0) >= 0 else rows
    found: Floats = np.concatenate([1 - np.sort(near, axis=1)[:, -5:].mean(1) for near, _ in _nearest(rows, 6)])
    return found


def _unlikeness(rows: Floats) -> Floats:
    """Mahalanobis distance from the middle of all, squared, with a tenth of the mean variance added to each axis."""
    variance = rows.var(0)  # principal components are uncorrelated
    found: Floats = ((rows - rows.mean(0)) ** 2 / (variance + 0.1 * variance.mean() + 1e-12)).sum(1)
    return found


# --- scores that never saw the label ---------------------------------------------------------------------------


def _folds(given: Ints, units: Ints) -> Ints:
    """The fold of each row: stratified by class, whole units together, the same every time."""
    _, first, which = np.unique(units, return_index=True, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(first))
    order = order[np.argsort(given[first][order], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[which]


def _out_of_fold(rows: Floats, given: Ints, classes: int, fold: Ints, strengths: tuple[float, ...]) -> Doubles:
    """Ridge regression on the classes as 0 and 1, each fold scored by the four others; the best strength of a few.
    float64 [N,K]. One product of the rows serves all folds and strengths."""
    rows = np.hstack([rows, np.ones((len(rows), 1), dtype=np.float32)])
    wanted = np.eye(classes, dtype=np.float32)[given]
    wanted -= wanted.mean(0)
    parts = [(rows[fold == number], wanted[fold == number]) for number in range(FOLDS)]
    inner = [(x.T @ x).astype(np.float64) for x, _ in parts]
    outer = [(x.T @ y).astype(np.float64) for x, y in parts]
    whole, target = sum(inner, np.zeros_like(inner[0])), sum(outer, np.zeros_like(outer[0]))
    scale = float(np.trace(whole)) / len(whole)
    best, least = np.zeros((len(rows), classes)), np.inf
    for strength in strengths:
        scores = np.zeros((len(rows), classes))
        for number, (x, _) in enumerate(parts):
            kept = whole - inner[number] + strength * scale * np.eye(len(whole))
            scores[fold == number] = x @ np.linalg.solve(kept, target - outer[number])
        loss = float(((scores - wanted) ** 2).mean())
        if loss < least:
            best, least = scores, loss
    return best


def _forgiving(rows: Floats, given: Ints, classes: int, fold: Ints) -> Doubles:
    """Logistic regression that takes some labels for wrong (the forward correction of Patrini et al., 2017,
    arXiv:1609.03944), each fold scored by the others: a wrong label pulls at it no more than so far, and what it says
    of classes that are out of the question is far clearer than what least squares say. float64 [N,K]."""
    rows = np.hstack([rows, np.full((len(rows), 1), 0.2, dtype=np.float32)])
    rows /= max(float(np.sqrt((rows**2).sum(1).mean())), 1e-9)
    scores = np.zeros((len(rows), classes))
    for number in range(FOLDS):
        out = fold == number
        if out.any() and not out.all():
            scores[out] = rows[out] @ _logistic(rows[~out], given[~out], classes)
    return scores


def _logistic(rows: Floats, given: Ints, classes: int) -> Floats:
    """The weights [D,K] of `_forgiving`: accelerated descent (Nesterov, 1983) along the principal axes, each made as
    steep as the others, so that steps of length 1 are neither too long nor too short."""
    decay, slip = np.float32(_DECAY / len(rows)), _FORGIVEN / (classes - 1)
    values, axes = np.linalg.eigh((rows.T @ rows).astype(np.float64) / len(rows))
    width = np.sqrt(np.maximum(values, 0) / 2 + decay).astype(np.float32)
    axes = (axes / width).astype(np.float32)
    along, pull_back = rows @ axes, (decay / width**2)[:, None]
    wanted, each = np.eye(classes, dtype=np.float32)[given], np.arange(len(given))
    here = before = np.zeros((rows.shape[1], classes), dtype=np.float32)
    for step in range(_STEPS):
        logits = along @ here
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        mine = chances[each, given]
        seen = (1 - _FORGIVEN) * mine + slip * (1 - mine)
        pull = ((1 - _FORGIVEN - slip) * mine / seen)[:, None] * (chances - wanted)
        after = here - along.T @ pull / len(rows) - pull_back * here
        here, before = after + step / (step + 3) * (after - before), after
    found: Floats = axes @ before
    return found


def _waves(rows: Floats) -> Floats:
    """Random Fourier features (Rahimi and Recht, 2007) of a Gaussian as wide as the middle distance: [N, ≤ 1024]."""
    random, waves = np.random.default_rng(1), min(_WAVES, max(128, len(rows)))
    some = rows[random.choice(len(rows), min(500, len(rows)), replace=False)]
    squares = (some**2).sum(1)[:, None] + (some**2).sum(1) - 2 * some @ some.T
    width = max(float(np.median(squares)), 1e-12)
    turns = random.normal(0, np.sqrt(2 / width), (rows.shape[1], waves)).astype(np.float32)
    shifts = random.uniform(0, 2 * np.pi, waves).astype(np.float32)
    found: Floats = np.cos(rows @ turns + shifts) * np.float32(np.sqrt(2 / waves))
    return found


def _votes(rows: Floats, given: Ints, classes: int, units: Ints) -> Doubles:
    """How the nearest others vote, weighted by likeness: float64 [N,K]."""
    votes = np.zeros((len(rows), classes))
    start = 0
    for near, which in _nearest(rows, NEIGHBOURS, units):
        weights = np.exp((near - 1) * 10)
        here = votes[start : start + len(near)]
        np.add.at(here, (np.arange(len(near))[:, None], given[which]), weights)
        here /= np.maximum(here.sum(1, keepdims=True), 1e-12)
        start += len(near)
    return votes


def _nearest(rows: Floats, count: int, units: Ints | None = None) -> Iterator[tuple[Floats, Ints]]:
    """For blocks of rows in turn: cosine and row of the nearest others, not of the same unit. [n, count] each."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    step = max(1, -(-len(rows) // _REFERENCE))
    others = np.arange(0, len(rows), step)
    names = np.arange(len(rows)) if units is None else units
    count = min(count, len(others) - 1)
    for start in range(0, len(rows), _BLOCK):
        near = unit[start : start + _BLOCK] @ unit[others].T
        near[names[start : start + len(near), None] == names[others]] = -1
        best = np.argpartition(near, -count, axis=1)[:, -count:]
        yield np.take_along_axis(near, best, axis=1), others[best]


def _robust(values: Floats) -> Floats:
    """How many standard deviations above the middle, both measured by medians."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    found: Floats = (values - middle) / max(float(spread), 1e-6)
    return found


# --- calibration that knows of wrong labels ----------------------------------------------------------------------


def _calibrated(scores: Doubles, given: Ints) -> tuple[Doubles, float]:
    """(chances [N,K], share of wrong labels) that explain the given labels best.

    chances = softmax(scores · a + b); a label is right with probability 1 - e, else any other class. a, b and e have
    the highest likelihood, found by Adam on all rows at once. scores: [N,K,M] of M judges.
    """
    scores = scores - scores.mean(1, keepdims=True)  # only differences between classes count
    scores = scores / np.maximum(scores.std((0, 1)), 1e-9)
    classes, judges = scores.shape[1:]
    step = max(1, len(scores) // _FIT)
    some, labels_ = scores[::step], given[::step]
    theta = np.concatenate([np.full(judges, 4 / judges), np.zeros(classes), [-3.0]])
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    for turn in range(1, 301):
        slope = -_slope(theta, some, labels_, judges)
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        rate = 0.05 if turn < 200 else 0.01
        theta -= rate * mean / (1 - 0.9**turn) / (np.sqrt(square / (1 - 0.99**turn)) + 1e-9)
        theta[:judges] = np.maximum(theta[:judges], 0)
    return _chances(theta, scores, judges), float(1 / (1 + np.exp(-theta[-1])))


def _slope(theta: Doubles, scores: Doubles, given: Ints, judges: int) -> Doubles:
    """The gradient of the mean log-likelihood."""
    chances = _chances(theta, scores, judges)
    classes = chances.shape[1]
    noise = 1 / (1 + np.exp(-theta[-1]))
    mine = chances[np.arange(len(given)), given]
    seen = (1 - noise) * mine + noise / (classes - 1) * (1 - mine)
    pull = (1 - noise - noise / (classes - 1)) * mine / seen
    logits = pull[:, None] * (np.eye(classes)[given] - chances)
    along = np.einsum("nk,nkm->m", logits, scores) / len(given) + _SHARP
    shift = logits.mean(0) - 1e-3 * theta[judges:-1]
    slip = (((1 - mine) / (classes - 1) - mine) / seen).mean() * noise * (1 - noise)
    return np.concatenate([along, shift, [slip]])


def _chances(theta: Doubles, scores: Doubles, judges: int) -> Doubles:
    logits = scores @ theta[:judges] + theta[judges:-1]
    logits -= logits.max(1, keepdims=True)
    found: Doubles = np.exp(logits)
    found /= found.sum(1, keepdims=True)
    return found
