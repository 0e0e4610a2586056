"""How many answers of a window are right, though nobody has looked: a small regression in log odds.

Where nothing but the shares of the classes is different, the calibrated probabilities say it, once they are corrected
for these shares. Where the embeddings have moved within their classes, a net may be wrong and sure of it. Then what
tells most is how far the answers of a window spread: the nuclear norm of their probabilities, which falls when answers
become unsure and when they gather in few classes. A line through this number is fitted when the bundle is made, on
windows of held-out items that were spoiled on purpose; or a ridge regression on further signs, where that errs much
less on families of corruption that were left out. These give the interval as well. Between the two it goes by how far
the embeddings have moved. Beyond what it was fitted on it says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.expected import ANSWERS, Expected, View
from inflame.model.engine.shift import discrepancy
from inflame.records import Record

F64 = NDArray[np.float64]
SIZE = 200  # items of a window that the estimator is fitted on
WINDOWS, FEWER, MANY = 480, 160, 50  # windows, and with more than so many classes, which take longer
FAMILIES = 3  # least, that an estimator is fitted on
HALF = 0.05  # the half width of the interval that labelling is to give
MOVED = 0.06  # squared deviations within the classes: the calibration and the spread of the answers count alike then
SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000)  # of windows, for which the usual spread is known
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # of a ridge
BETTER = 0.7  # of the error of the line, at most, is that of a ridge that takes its place
SOME = 4  # items of each class that speak for it being as wide as the others
CALM = 20  # windows, least, that the interval of calm ones is taken from
PRIOR = 1.0  # items of each class that speak for the usual shares
TURNS, SETTLED = 30, 1e-4  # steps of the maximisation, at most; shares that change less have been found
BORDER = 0.02  # an accuracy of less, or of more than 1 - this, has the log odds of this


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Record):
    """The estimated accuracy of a window, with its 90 % interval. Not `reliable`: the window is unlike all that the
    estimator was fitted on; `label` items with their classes would say it to 5 points."""

    accuracy: float
    low: float
    high: float
    reliable: bool
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoiled:
    """Held-out items after one corruption: how they look to the model, whether it knew them [N], which answers were
    right [N]."""

    family: str
    view: View
    known: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def signs(expected: Expected, view: View, known: NDArray[np.bool_], lost: float) -> F64:
    """What of a window may tell its accuracy, and whether it is like those that the estimator was fitted on [9]. One
    item at least. lost: see `elsewhere`; what other shares of the classes do as well counts as far as this."""
    inputs = len(expected.names)
    sure, entropy, away = (
        (view.values[:, place], expected.ordered[place, : expected.counts[place]]) for place in (inputs, inputs + 1, -1)
    )
    doubt = np.quantile(sure[1], 1 - expected.accuracy)
    moved = lost * discrepancy(expected, view)[0]
    counts, before = np.bincount(view.predicted, minlength=len(expected.classes)), expected.classes
    shares, usual = counts / counts.sum(), before / before.sum()
    chance = np.sqrt(usual * (1 - usual) * (1 / counts.sum() + 1 / before.sum()) * 2 / np.pi).sum() / 2
    return np.array(
        [
            (sure[0] < doubt).mean() - (1 - expected.accuracy),
            sure[0].mean() - sure[1].mean(),
            entropy[0].mean() - entropy[1].mean(),
            moved,
            moved**2,
            lost * max(0.0, np.abs(shares - usual).sum() / 2 - chance),
            away[0].mean() - expected.far,
            (away[0] > np.quantile(away[1], 0.99)).mean(),
            (~known).mean() - expected.unknown,
        ]
    )


def spread(usual: dict[str, Any], view: View, lost: float) -> float:
    """How much less (below 0) the answers of a window spread than usual ones do. usual: see `_usual`; lost: see
    `elsewhere`."""
    n = len(view.predicted)
    norm, balance = _norm(view.soft), _balance(view)
    before, even = (float(np.interp(math.log(n), np.log(SIZES), usual[name])) for name in ("norm", "balance"))
    return float((1 - lost) * norm / balance * even + lost * norm - before)


def elsewhere(usual: dict[str, Any], expected: Expected, view: View) -> float:
    """How far the items of a window are other things than before: 0 only other shares of the classes, 1 the embeddings
    have moved, or spread, within the classes they are answered with.

    By what two normal distributions differ, twice the divergence of Kullback and Leibler, the mean over directions."""
    apart = (_directions(expected, view) - np.array(usual["middles"])[view.predicted]) / np.array(usual["within"])
    shares = np.bincount(view.predicted, minlength=len(usual["wide"])) / len(apart)
    chance = 1 / len(apart) + 2 * float((shares**2 / (np.array(usual["answered"]) + 0.5)).sum())
    moved = max(0.0, float((apart.mean(axis=0) ** 2).mean()) - chance)
    wide = float((apart**2).mean() / np.array(usual["wide"])[view.predicted].mean())
    different = moved + wide - 1 - math.log(max(wide, 1e-9))
    return float(different**2 / (different**2 + MOVED**2))


def surely(usual: dict[str, Any], soft: F64) -> float:
    """The accuracy by the calibrated probabilities [N, K] of the answers, were nothing different but the shares of the
    classes, in log odds.

    The shares are those most likely, by expectation and maximisation (Saerens, Latinne & Decaestecker 2002); a class
    with few items keeps its usual share."""
    shares = np.array(usual["shares"])
    now, prior = shares, PRIOR * len(shares) * shares
    for _ in range(TURNS):
        answers = soft * (now / shares)
        answers /= np.maximum(answers.sum(axis=1, keepdims=True), 1e-12)
        before, now = now, (answers.sum(axis=0) + prior) / (len(soft) + prior.sum())
        if np.abs(now - before).max() < SETTLED:
            break
    return float(_odds(answers[np.arange(len(soft)), soft.argmax(axis=1)].mean()))


def fit(expected: Expected, clean: Spoiled, spoiled: Sequence[Spoiled], rng: np.random.Generator) -> dict[str, Any]:
    """The estimator, as plain numbers; {} where there is too little to fit one on."""
    families = sorted({one.family for one in spoiled})
    if len(families) < FAMILIES or len(clean.correct) < 20:
        return {}
    usual = _usual(expected, clean.view, rng)
    count = WINDOWS if clean.view.soft.shape[1] <= MANY else FEWER
    rows, truth, names, lost, sure = [], [], [], [], []
    turns = np.concatenate([rng.permutation(len(spoiled)) for _ in range(count // len(spoiled) + 1)])
    for number in range(count):
        # A sixth of the windows is clean, or of other shares of the classes; a third of the rest is partly clean.
        one = clean if number % 6 == 0 else spoiled[turns[number]]
        part = float(rng.uniform(0.2, 1)) if number % 3 == 1 else 1.0
        view, known, correct = _window(clean, one, part, rng, even=number % 12 != 0)
        lost.append(elsewhere(usual, expected, view))
        sure.append(surely(usual, view.soft))
        rows.append([spread(usual, view, lost[-1]), *signs(expected, view, known, lost[-1])])
        truth.append(correct.mean())
        names.append(one.family)
    x, y, which, moved = np.array(rows), np.array(truth), np.array(names), np.array(lost)
    tried = [_left_out(x, y, which, strength, moved, np.array(sure)) for strength in (None, *STRENGTHS)]
    best = min(range(len(tried)), key=lambda place: tried[place][0] * (BETTER if place == 0 else 1))
    error, guessed = tried[best]
    off, calm = np.abs(guessed - _odds(y)), moved < 0.5
    enough = min(calm.sum(), (~calm).sum()) >= CALM
    return {
        "usual": usual,
        "weights": _plain(_weights(x, _odds(y), which, (None, *STRENGTHS)[best])),
        # of calm windows, and of others: the calibration knows those, of these each family is as it likes
        "widths": [float(np.quantile(off[group] if enough else off, 0.9)) for group in (calm, ~calm)],
        "error": error,  # of families left out of the fit
        "strength": (None, *STRENGTHS)[best],  # None: the line
        **_edge(x[:, 1:]),
        "families": families,
        "items": len(clean.correct),
        "windows": count,
    }


def estimate(expected: Expected, view: View, known: NDArray[np.bool_]) -> Estimate | None:
    """The estimated accuracy of a window; None where the bundle has no estimator, or one of before."""
    found = expected.estimator
    if "widths" not in found or not len(view.predicted):
        return None
    usual, n = found["usual"], len(view.predicted)
    lost = elsewhere(usual, expected, view)
    row = np.array([spread(usual, view, lost), *signs(expected, view, known, lost)])
    line = float(_applied(row, np.array(found["weights"])))
    odds = line + _calm(lost) * (surely(usual, view.soft) - line)
    width = found["widths"][lost >= 0.5]
    value, low, high = _share(np.array([odds, odds - width, odds + width])).tolist()
    least = max(value * (1 - value), 0.01)
    # Of a window of this size, and of the items that were learned from, which are others than these.
    chance = 1.645 * math.sqrt(least * (max(0.0, 1 / n - 1 / SIZE) + 1 / found["items"]))
    z = (row[1:] - np.array(found["centre"])) / np.array(found["scale"])
    distance = math.sqrt(max(float(z @ np.array(found["shape"]) @ z), 0.0))
    return Estimate(
        accuracy=value,
        low=max(0.0, value - math.hypot(value - low, chance)),
        high=min(1.0, value + math.hypot(high - value, chance)),
        reliable=distance <= found["edge"] * max(1.0, math.sqrt(SIZE / n)),
        label=math.ceil(1.96**2 * max(least, 0.05) / HALF**2),
    )


def _usual(expected: Expected, view: View, rng: np.random.Generator) -> dict[str, Any]:
    """What is usual: the norm and the balance of clean windows of `SIZES`; the middle of each class in the directions
    of the embedding, by the answers, the deviation from it, and how wide each class is beside the others; the shares
    of the classes."""
    draws = {size: [view.take(rng.integers(0, len(view.predicted), size)) for _ in range(8)] for size in SIZES}
    along, classes = _directions(expected, view), view.soft.shape[1]
    middles = np.tile(along.mean(axis=0), (classes, 1))
    for one in np.unique(view.predicted):
        middles[one] = along[view.predicted == one].mean(axis=0)
    counts = np.bincount(view.predicted, minlength=classes)
    residuals = along - middles[view.predicted]
    within = np.sqrt((residuals**2).sum(axis=0) / max(len(along) - (counts > 0).sum(), 1)) + 1e-6
    # An item of few drew the middle towards itself; another one is further away.
    alone = counts[view.predicted] / np.maximum(counts[view.predicted] - 1, 1)
    squares = ((residuals / within) ** 2).mean(axis=1) * alone**2
    several = counts[view.predicted] > 1
    mean = squares[several].mean() if several.any() else 1.0
    sums = np.bincount(view.predicted, weights=squares, minlength=classes)
    return {
        "items": len(view.predicted),
        "shares": _plain((view.soft.sum(axis=0) + 1) / (len(view.soft) + classes)),
        "norm": _plain([float(np.mean([_norm(drawn.soft) for drawn in draws[size]])) for size in SIZES]),
        "balance": _plain([float(np.mean([_balance(drawn) for drawn in draws[size]])) for size in SIZES]),
        "middles": [_plain(row) for row in middles],
        "within": _plain(within),
        "answered": counts.tolist(),
        "wide": _plain(
            np.where(counts > 1, sums + SOME * mean, SOME * mean) / (np.where(counts > 1, counts, 0) + SOME)
        ),
    }


def _norm(soft: F64) -> float:
    """The nuclear norm of probabilities [N, K]: 1 when all are sure and the classes are even, less otherwise."""
    small = soft.T @ soft if soft.shape[1] <= len(soft) else soft @ soft.T
    values = np.sqrt(np.clip(np.linalg.eigvalsh(small), 0, None))
    return float(values.sum() / math.sqrt(len(soft) * min(soft.shape)))


def _balance(view: View) -> float:
    """What the norm would be if all answers were sure."""
    shares = np.bincount(view.predicted, minlength=view.soft.shape[1]) / len(view.predicted)
    return float(np.sqrt(shares).sum() / math.sqrt(min(view.soft.shape)))


def _directions(expected: Expected, view: View) -> F64:
    """The directions of the embedding among the values [N, R]."""
    start = len(expected.names) + len(ANSWERS)
    return view.values[:, start : start + expected.basis.shape[1]]


def _window(
    clean: Spoiled, one: Spoiled, part: float, rng: np.random.Generator, *, even: bool
) -> tuple[View, NDArray[np.bool_], NDArray[np.bool_]]:
    """A window of items: a part of one kind and the rest clean; not even: with other shares of the classes."""
    wanted = max(1, round(part * SIZE))
    weights = None
    if not even:
        drawn = rng.dirichlet(np.full(int(one.view.predicted.max()) + 1, 0.5))[one.view.predicted] + 1e-9
        weights = drawn / drawn.sum()
    rows = rng.choice(len(one.correct), wanted, p=weights)
    rest = rng.integers(0, len(clean.correct), SIZE - wanted)
    view = View(
        values=np.concatenate([one.view.values[rows], clean.view.values[rest]]),
        fourier=np.concatenate([one.view.fourier[rows], clean.view.fourier[rest]]),
        predicted=np.concatenate([one.view.predicted[rows], clean.view.predicted[rest]]),
        soft=np.concatenate([one.view.soft[rows], clean.view.soft[rest]]),
    )
    known = np.concatenate([one.known[rows], clean.known[rest]])
    return view, known, np.concatenate([one.correct[rows], clean.correct[rest]])


def _left_out(
    x: F64, y: F64, which: NDArray[np.str_], strength: float | None, lost: F64, sure: F64
) -> tuple[float, F64]:
    """The mean error of accuracies of families that were left out of the fit, and the log odds that were said of all
    windows [N]: of a family by a fit without it, of clean ones by a fit with all. lost, sure [N]: see `elsewhere` and
    `surely`."""
    found = _applied(x, _weights(x, _odds(y), which, strength))
    families = [family for family in np.unique(which) if family]
    for family in families:
        mine = which == family
        found[mine] = _applied(x[mine], _weights(x[~mine], _odds(y[~mine]), which[~mine], strength))
    found = found + _calm(lost) * (sure - found)
    error = np.abs(_share(found) - y)
    return float(np.mean([error[which == family].mean() for family in families])), found


def _weights(x: F64, y: F64, which: NDArray[np.str_], strength: float | None) -> F64:
    """The weights of a fit and, last, its level; every family weighs the same. None: a line through the first number,
    which doesn't fall."""
    names, place = np.unique(which, return_inverse=True)
    share = 1 / (np.bincount(place)[place] * len(names))
    centre, level = share @ x, share @ y
    if strength is None:
        apart = x[:, 0] - centre[0]
        slope = max(0.0, float(share @ (apart * (y - level))) / max(float(share @ apart**2), 1e-12))
        return np.array([slope, *np.zeros(x.shape[1] - 1), level - slope * centre[0]])
    scale = np.sqrt(share @ (x - centre) ** 2) + 1e-9
    z = (x - centre) / scale
    penalty = strength / len(x) * np.eye(x.shape[1])
    slopes = np.linalg.solve((z * share[:, None]).T @ z + penalty, z.T @ (share * (y - level))) / scale
    return np.array([*slopes, level - slopes @ centre])


def _applied(x: F64, weights: F64) -> F64:
    return np.asarray(x @ weights[:-1] + weights[-1])


def _edge(rows: F64) -> dict[str, Any]:
    """Where the signs of windows end that the estimator was fitted on."""
    centre, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    z = (rows - centre) / scale
    shape = np.linalg.pinv(np.cov(z.T) + 1e-3 * np.eye(z.shape[1]))
    distance = np.sqrt(np.einsum("ij,jk,ik->i", z, shape, z))
    return {
        "centre": _plain(centre),
        "scale": _plain(scale),
        "shape": [_plain(row) for row in shape],
        "edge": float(np.quantile(distance, 0.99) * 1.5),
    }


def _calm(lost: Any) -> Any:
    """How far the calibration is believed: hardly where the embeddings have moved half way."""
    return (1 - lost) ** 3


def _odds(share: F64) -> F64:
    held = np.clip(share, BORDER, 1 - BORDER)
    return np.asarray(np.log(held / (1 - held)))


def _share(odds: F64) -> F64:
    return np.asarray(1 / (1 + np.exp(-odds)))


def _plain(values: Sequence[float] | F64) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
